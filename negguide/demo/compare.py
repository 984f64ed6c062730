"""The tab "Compare": methods or weights side by side as one PNG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from negguide import Negative, PerpNeg
from negguide.demo import parts
from negguide.demo.as_python import code
from negguide.demo.backend import Run
from negguide.demo.how import CLASSIC, PLAIN, method_labels, with_method
from negguide.demo.measures import agree
from negguide.demo.studio import Studio
from negguide.demo.words import said_on_the_page

MAX_COLUMNS = 6

EXAMPLES = {
    "methods: a bear wearing a hat − a brown bear wearing a hat": (
        "a bear wearing a hat",
        "a brown bear wearing a hat",
        "methods",
    ),
    "weights: a bear wearing glasses − black glasses": ("a bear wearing glasses", "black glasses", "weights"),
}


@dataclass(frozen=True, eq=False)
class Compare:
    """The actions of the tab."""

    studio: Studio

    def compare(
        self,
        prompt: str,
        negative: str,
        columns: str,
        methods: list[str],
        weights: str,
        weight: float,
        start: float,
        stop: float,
        images: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        size: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Draw the same seeds with several methods, or with Perp-Neg at several weights, as one labelled PNG.

        Args:
            prompt: what to draw.
            negative: what to leave out.
            columns: methods or weights, what the columns are.
            methods: the columns, of plain, negative-prompt, and methods such as perp-neg.
            weights: the columns, numbers with commas between, such as "0.5, 1, 2".
            weight: the negative's strength, where the columns are methods.
            start: when it begins to act, as a fraction of the steps.
            stop: when it ends.
            images: how many rows, one seed each.
            seed: of the first row.
            steps: denoising steps.
            guidance_scale: strength of the prompt.
            size: pixels along an edge; the embedded model has one size.

        Returns:
            The grid as a PNG with its settings inside, what the judge sees in it, and the settings as Python code.
        """
        with said_on_the_page():
            plain = self.studio.plain(prompt, images, seed, steps, guidance_scale, size)
            left_out = Negative(self.studio.words("negative", negative), weight, start, stop)
            runs = self._columns(plain, left_out, columns, methods, weights)
            for _, run in runs:
                self.studio.backend.arguments(run)
        title = f"“{plain.prompt}” minus “{left_out.prompt}”"
        with self.studio.drawing(request, progress, [run for _, run in runs]) as draw:
            drawn = []
            for label, run in runs:
                drawn.append((label, run, draw(run, label).images))
                yield self.studio.sheet(drawn, title), gr.skip(), gr.skip()
            names = [label.lower().replace(" ", "-") for label, _ in runs]
            yield (
                self.studio.sheet(drawn, title),
                self._counted(plain.prompt, left_out.prompt, drawn),
                code(self.studio.backend, [(name, run) for name, (_, run) in zip(names, runs, strict=True)]),
            )

    def _columns(
        self, plain: Run, negative: Negative, columns: str, methods: list[str], weights: str
    ) -> list[tuple[str, Run]]:
        toy = self.studio.backend.toyworld
        if columns == "weights":
            found = [("Plain", plain)]
            for number in _weights(weights):
                heavier = Negative(negative.prompt, number, negative.start, negative.stop)
                found.append((f"weight {number:g}", with_method(plain, PerpNeg.key, [heavier], None, toy)))
            return found
        if columns != "methods":
            raise ValueError(f"columns must be methods or weights, got {columns!r}")
        if not methods:
            raise ValueError("There is no method to compare; choose at least one.")
        if len(set(methods)) < len(methods):
            raise ValueError("Each method can be a column once.")
        labels = method_labels()
        return [
            (labels.get(method, method), with_method(plain, method, [negative], None, toy))
            for method in methods
        ]

    def _counted(self, prompt: str, negative: str, drawn: list[tuple[str, Run, Any]]) -> str:
        """A table of what the judge sees, for the embedded model."""
        if not self.studio.backend.toyworld:
            return ""
        lines = [f"| what the judge sees | all of *{prompt}* | still *{negative}* |", "|---|---|---|"]
        for label, _, images in drawn:
            counts = (f"{agree(images, text)} of {len(images)}" for text in (prompt, negative))
            lines.append(f"| {label} | {' | '.join(counts)} |")
        return "\n".join(lines)


def _weights(text: str) -> list[float]:
    right = f"numbers from 0 to 100 with commas between, at most {MAX_COLUMNS}, like 0.5, 1, 2"
    try:
        numbers = [float(part) for part in (text or "").split(",")]
    except ValueError:
        raise ValueError(f"The weights must be {right}; got “{text}”.") from None
    if len(numbers) > MAX_COLUMNS or not all(math.isfinite(n) and 0 <= n <= 100 for n in numbers):
        raise ValueError(f"The weights must be {right}; got “{text}”.")
    return numbers


def build(studio: Studio) -> parts.Tab:
    """Lay the tab out and wire it."""
    actions = Compare(studio)
    usual = studio.backend.strength()
    gr.Markdown(
        "Every row is a seed, every column a way to leave the same thing out. The picture carries its settings; "
        "download it, and it says how it was made."
    )
    tries = parts.examples(list(EXAMPLES), "compare")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox("a bear wearing a hat", label="Draw", elem_id="compare-prompt", max_lines=3)
            negative = gr.Textbox("a brown bear wearing a hat", label="Leave out", max_lines=2)
            columns = gr.Radio(
                ["methods", "weights"], value="methods", label="Columns", elem_id="compare-columns"
            )
            methods = gr.CheckboxGroup(
                [(label, key) for key, label in method_labels().items()],
                value=[PLAIN, CLASSIC, PerpNeg.key],
                label="Methods",
            )
            weights = gr.Textbox("1, 2, 3", label="Weights of Perp-Neg", visible=False)
            with gr.Accordion("Weight and window", open=False), gr.Row():
                weight = gr.Slider(0, 5, usual[0], step=0.1, label="Weight", min_width=130, buttons=[])
                start = gr.Slider(0, 1, usual[1], step=0.05, label="From", min_width=130, buttons=[])
                stop = gr.Slider(0, 1, usual[2], step=0.05, label="Until", min_width=130, buttons=[])
            button = parts.buttons("Compare", "compare")
            settings = parts.settings(studio, images=3)
            parts.vocabulary(studio)
        with gr.Column(scale=3, min_width=320):
            said = gr.Markdown(
                label="What happened", elem_id="compare-said", elem_classes="said", min_height=48
            )
            sheet = gr.Image(
                type="filepath",
                label="One PNG, with its settings inside",
                show_label=False,
                interactive=False,
                elem_id="compare-sheet",
                buttons=["download"],
            )
            python = parts.python("compare")
    columns.change(
        lambda chosen: (gr.update(visible=chosen == "methods"), gr.update(visible=chosen == "weights")),
        columns,
        [methods, weights],
        api_visibility="private",
        queue=False,
        show_progress="hidden",
    )
    outputs = [sheet, said, python]
    events = parts.wire(
        actions.compare,
        [prompt, negative, columns, methods, weights, weight, start, stop, *settings],
        outputs,
        triggers=[button.draw.click, prompt.submit, negative.submit],
        api_name="compare",
        progress_on=said,
        filled={
            example: list(zip((prompt, negative, columns), values, strict=True))
            for example, values in zip(tries, EXAMPLES.values(), strict=True)
        },
    )
    return parts.Tab(events, button.stop, outputs, said)
