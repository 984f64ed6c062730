"""The tab "Compare": methods or weights side by side as one PNG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from negguide import Negative
from negguide._utils.text import listed
from negguide.demo import components
from negguide.demo.as_python import code
from negguide.demo.backend import Run
from negguide.demo.limits import text
from negguide.demo.measures import agree, still
from negguide.demo.messages import JUDGE, as_markdown, validation_messages
from negguide.demo.methods import CLASSIC, PLAIN, method_labels, with_method
from negguide.demo.state import AppState

MAX_COLUMNS = 6
WEIGHTS = "1, 2, 3"

IMAGES = 3
"""Rows unless another number is chosen."""


def usual_methods(state: AppState) -> list[str]:
    """Columns to begin with: a classic negative prompt where something is guided."""
    return [PLAIN, *([CLASSIC] if state.backend.guided else []), state.backend.way]


def usual_columns(state: AppState) -> list[str]:
    """What the columns may be: embedded models on a page of one of them."""
    return ["methods", "weights", *(["models"] if state.backend.page.models else [])]


@dataclass(frozen=True, eq=False)
class Compare:
    """The actions of the tab."""

    state: AppState

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
        models: list[str],
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Draw the same seeds with several methods, one method at several weights, or several models, as one PNG.

        Args:
            prompt: what to draw.
            negative: what to leave out.
            columns: methods, weights or models, what the columns are.
            methods: the columns, of plain, negative-prompt, and methods such as perp-neg.
            weights: the columns, numbers with commas between, such as "0.5, 1, 2".
            weight: the negative's strength, where the columns are methods; models have their own, as their own window,
                steps and guidance scale.
            start: when it begins to act, as a fraction of the steps.
            stop: when it ends.
            images: how many rows, one seed each.
            seed: of the first row.
            steps: denoising steps.
            guidance_scale: strength of the prompt.
            size: pixels along an edge; the embedded models have one size.
            models: where the columns are models, which embedded ones; each plain, and with what suits it.

        Returns:
            The grid as a PNG with its settings inside, what the judge sees in it, and the settings as Python code.
        """
        with validation_messages():
            plain = self.state.plain(prompt, images, seed, steps, guidance_scale, size)
            left_out = self.state.negative(negative, weight, start, stop)
            if columns == "models":
                runs = self._models(plain, left_out.prompt, models)
            else:
                runs = self._columns(plain, left_out, columns, methods, weights)
            for _, run in runs:
                self.state.backend.of(run).arguments(run)
        title = f"“{plain.prompt}” minus “{left_out.prompt}”"
        with self.state.drawing(request, progress, [run for _, run in runs]) as draw:
            drawn = []
            for label, run in runs:
                drawn.append((label, run, draw(run, label).images))
                yield self.state.sheet(drawn, title), gr.skip(), gr.skip()
            # of several models, each has its own: the files of the code are named by them
            names = [label if run.model in (None, label) else f"{run.model} {label}" for label, run in runs]
            names = [name.lower().replace(" ", "-") for name in names]
            yield (
                self.state.sheet(drawn, title),
                self._counted(plain.prompt, left_out.prompt, drawn),
                code(self.state.backend, [(name, run) for name, (_, run) in zip(names, runs, strict=True)]),
            )

    def _columns(
        self, plain: Run, negative: Negative, columns: str, methods: list[str], weights: str
    ) -> list[tuple[str, Run]]:
        model = self.state.backend.model
        if columns == "weights":
            found = [("Plain", plain)]
            for number in _weights(weights):
                heavier = Negative(negative.prompt, number, negative.start, negative.stop)
                found.append(
                    (f"weight {number:g}", with_method(plain, self.state.backend.way, [heavier], None, model))
                )
            return found
        if columns != "methods":
            right = listed(usual_columns(self.state), "or")
            raise ValueError(f"columns must be {right}, got {columns!r}")
        if not methods:
            raise ValueError("There is no method to compare; choose at least one.")
        if len(set(methods)) < len(methods):
            raise ValueError("Each method can be a column once.")
        labels = method_labels()
        return [
            (labels.get(method, method), with_method(plain, method, [negative], None, model))
            for method in methods
        ]

    def _models(self, plain: Run, negative: str, models: list[str]) -> list[tuple[str, Run]]:
        """Two columns a model, without and with the negative, drawn as suits the model."""
        domain = self.state.backend.domain
        if domain is None:
            raise ValueError("columns must be methods or weights; only embedded models are compared")
        unknown = [name for name in models if name not in domain.models]
        if unknown or not 0 < len(set(models)) == len(models) <= MAX_COLUMNS // 2:
            raise ValueError(
                f"models must be 1 to {MAX_COLUMNS // 2} different ones of {', '.join(domain.models)}, got "
                f"{', '.join(models) or 'none'}"
            )
        labels = method_labels()
        found: list[tuple[str, Run]] = []
        for name in models:
            backend = self.state.backend.of(replace(plain, model=name))
            weight, start, stop = backend.strength()
            steps = min(backend.steps, self.state.limits.max_steps)
            run = replace(plain, model=name, steps=steps, guidance_scale=backend.suited.guidance_scale)
            left_out = Negative(negative, weight, start, stop)
            found.append((name, run))
            found.append(
                (
                    f"{labels[backend.way]} in {run.steps} steps",
                    with_method(run, backend.way, [left_out], None, name),
                )
            )
        return found

    def _counted(self, prompt: str, negative: str, drawn: list[tuple[str, Run, Any]]) -> str:
        """A table of what the judge of a closed world sees."""
        reader = self.state.backend.reader
        if reader is None:
            return ""
        lines = [
            f"| what the judge sees | all of *{as_markdown(prompt)}* | still *{as_markdown(negative)}* |",
            "|---|---|---|",
        ]
        for label, _, images in drawn:
            counts = (agree(reader, images, prompt), still(reader, images, negative))
            lines.append(f"| {label} | {' | '.join(f'{count} of {len(images)}' for count in counts)} |")
        return "\n".join([*lines, "", JUDGE])


def warm_up(state: AppState) -> list[Any]:
    """The results of the first example."""
    prompt, negative, columns = state.backend.page.compare[0]
    weight, start, stop = state.backend.strength()
    return components.last(
        Compare(state).compare(
            prompt=prompt,
            negative=negative,
            columns=columns,
            methods=usual_methods(state),
            models=list(state.backend.page.models),
            weights=WEIGHTS,
            weight=weight,
            start=start,
            stop=stop,
            **components.usual(state, images=IMAGES),
        )
    )


def _weights(said: str) -> list[float]:
    right = f"numbers from 0 to 100 with commas between, at most {MAX_COLUMNS}, like 0.5, 1, 2"
    said = text("weights", said)
    try:
        numbers = [float(part) for part in said.split(",")]
    except ValueError:
        raise ValueError(f"The weights must be {right}; got “{said}”.") from None
    if len(numbers) > MAX_COLUMNS or not all(math.isfinite(n) and 0 <= n <= 100 for n in numbers):
        raise ValueError(f"The weights must be {right}; got “{said}”.")
    if len({f"{n:g}" for n in numbers}) < len(numbers):
        raise ValueError(f"Each weight can be a column once; got “{said}”.")
    return numbers


def build(state: AppState) -> components.Tab:
    """Lay the tab out and wire it."""
    actions = Compare(state)
    domain, page = state.backend.domain, state.backend.page
    usual = state.backend.strength()
    chosen = page.compare
    first = chosen[0]
    gr.Markdown(
        "Every row is a seed, every column a way to leave the same thing out. The result is one PNG that carries its "
        "settings: wherever it goes, it says how it was made.",
        elem_classes="intro",
    )
    tries = components.examples(
        [f"{what}: {prompt} − {negative}" for prompt, negative, what in chosen], "compare"
    )
    with components.work() as (asked, results, more):
        with asked:
            prompt = gr.Textbox(first[0], label="Draw", elem_id="compare-prompt", max_lines=3)
            negative = gr.Textbox(first[1], label="Leave out", elem_id="compare-negative", max_lines=2)
            columns = gr.Radio(
                usual_columns(state), value="methods", label="Columns", elem_id="compare-columns"
            )
            button = components.buttons("Compare", "compare")
        with results:
            said = gr.Markdown(
                label="What happened", elem_id="compare-said", elem_classes="said", min_height=48
            )
            sheet = gr.Image(
                type="filepath",
                label="One PNG, with its settings inside",
                elem_classes="quiet",
                interactive=False,
                elem_id="compare-sheet",
                buttons=["download", "fullscreen"],
            )
            python = components.python("compare")
        with more:
            methods = gr.CheckboxGroup(
                [(label, key) for key, label in method_labels().items()],
                value=usual_methods(state),
                label="Methods",
                info="the first tab says what each does and where it was published",
            )
            weights = gr.Textbox(
                WEIGHTS,
                label=f"Weights of {method_labels()[state.backend.way]}",
                elem_id="compare-weights",
                visible=False,
            )
            models = gr.CheckboxGroup(
                []
                if domain is None
                else [(f"{name}: {model.about}", name) for name, model in domain.models.items()],
                value=list(page.models),
                label="Models",
                info=f"at most {MAX_COLUMNS // 2}; two columns each: plain, and by the method that suits it, in its "
                "own steps",
                visible=False,
            )
            with gr.Accordion("Weight and window", open=False), gr.Row():
                weight = gr.Slider(0, 5, usual[0], step=0.1, label="Weight", min_width=130, buttons=[])
                start = gr.Slider(0, 1, usual[1], step=0.05, label="Acts from", min_width=130, buttons=[])
                stop = gr.Slider(0, 1, usual[2], step=0.05, label="Acts until", min_width=130, buttons=[])
            settings = components.settings(state, images=IMAGES)
            components.vocabulary(state)
    columns.change(
        lambda chosen: [gr.update(visible=chosen == what) for what in ("methods", "weights", "models")],
        columns,
        [methods, weights, models],
        api_visibility="private",
        queue=False,
        show_progress="hidden",
    )
    outputs = [sheet, said, python]
    events, begun = components.wire(
        state,
        actions.compare,
        [prompt, negative, columns, methods, weights, weight, start, stop, *settings, models],
        outputs,
        triggers=[button.draw.click, prompt.submit, negative.submit],
        api_name="compare",
        buttons=button,
        said=said,
        cleared={python: ""},
        filled={
            example: list(zip((prompt, negative, columns), values, strict=True))
            for example, values in zip(tries, chosen, strict=True)
        },
    )
    return components.Tab(
        events, button, outputs, said, warm_up=None if domain is None else warm_up, begun=begun
    )
