"""The tab "Diversity": a batch whose pictures are pushed away from each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from negguide import NegToMe
from negguide.demo import parts
from negguide.demo.as_python import code
from negguide.demo.backend import Drawn, Run
from negguide.demo.measures import agree, features, fur_entropy, pairwise_distance
from negguide.demo.studio import Studio
from negguide.demo.words import as_markdown, pushed_sentence, said_on_the_page

EXAMPLES = {
    "a bear": ("a bear",),
    "a rabbit wearing glasses": ("a rabbit wearing glasses",),
    "a cat in the snow": ("a cat in the snow",),
}


@dataclass(frozen=True, eq=False)
class Diversity:
    """The actions of the tab."""

    studio: Studio

    def push_apart(
        self,
        prompt: str,
        reference: str,
        alpha: float,
        threshold: float,
        stop: float,
        images: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        size: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Draw a batch without and with NegToMe, which pushes its pictures away from each other.

        Args:
            prompt: what to draw; what it leaves open is what can differ.
            reference: others (each picture from all others) or first (all from the first).
            alpha: how strongly, from 0.
            threshold: the least cosine at which two tokens count as alike, -1 to 1.
            stop: when it ends to act, as a fraction of the steps; 0 is as published for the model.
            images: how many, each with a seed of its own.
            seed: of the first image.
            steps: denoising steps.
            guidance_scale: strength of the prompt.
            size: pixels along an edge; the embedded model has one size.

        Returns:
            Both batches as one PNG, what happened with its numbers, the plain batch, the pushed batch, the share of
            tokens pushed at each step, and the settings as Python code.
        """
        with said_on_the_page():
            plain = self.studio.plain(prompt, images, seed, steps, guidance_scale, size, least=2)
            options = {
                **self.studio.backend.suited.negtome,
                "alpha": alpha,
                "threshold": threshold,
                "stop": stop or None,
            }
            method = NegToMe(reference, **options)
        pushed = replace(plain, methods=(method,))
        with self.studio.drawing(request, progress, [plain, pushed]) as draw:
            before = draw(plain, "Plain")
            yield gr.skip(), gr.skip(), self._gallery(before, plain), *[gr.skip()] * 4
            after = draw(pushed, "NegToMe")
            yield self._all(plain, pushed, before, after)

    def _gallery(self, drawn: Drawn, run: Run) -> list[tuple[Any, str]]:
        return [
            (self.studio.shown(image), f"seed {seed}")
            for image, seed in zip(drawn.images, run.seeds, strict=True)
        ]

    def _all(self, plain: Run, pushed: Run, before: Drawn, after: Drawn) -> tuple[Any, ...]:
        title = f"“{plain.prompt}”, each picture pushed away from the others"
        sheet = self.studio.sheet(
            [("plain", plain, before.images), ("NegToMe", pushed, after.images)], title, as_rows=True
        )
        return (
            sheet,
            f"**{pushed_sentence(after.trace)}**\n\n{self._numbers(plain.prompt, before, after)}",
            self._gallery(before, plain),
            self._gallery(after, pushed),
            self.studio.heatmap(after),
            self.studio.curves(after),
            code(self.studio.backend, [("plain", plain), ("negtome", pushed)]),
        )

    def _numbers(self, prompt: str, before: Drawn, after: Drawn) -> str:
        """A table of what the judge sees; empty where there is none that looks at pictures."""
        vectors = [features(self.studio.backend, drawn.images) for drawn in (before, after)]
        distances = [pairwise_distance(found) for found in vectors if found is not None]
        if not distances:
            return ""
        rows = [("mean distance of two pictures", *(f"{distance:.2f}" for distance in distances))]
        if self.studio.backend.toyworld:
            n = len(before.images)
            entropies = (f"{fur_entropy(drawn.images):.0%}" for drawn in (before, after))
            counts = (f"{agree(drawn.images, prompt)} of {n}" for drawn in (before, after))
            rows = [
                ("entropy of the fur colours", *entropies),
                *rows,
                (f"still *{as_markdown(prompt)}*", *counts),
            ]
        lines = ["| what the judge sees | Plain | NegToMe |", "|---|---|---|"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def build(studio: Studio) -> parts.Tab:
    """Lay the tab out and wire it."""
    actions = Diversity(studio)
    suited = NegToMe(**studio.backend.suited.negtome)
    here = ": here most bears are brown" if studio.backend.toyworld else ""
    gr.Markdown(
        f"Models repeat themselves{here}. **NegToMe** pushes every picture of a batch away from what it has in common "
        "with the others, while the prompt keeps what was asked for."
    )
    tries = parts.examples(list(EXAMPLES), "diversity")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox("a bear", label="Draw", elem_id="diversity-prompt", max_lines=3)
            alpha = gr.Slider(
                0,
                20,
                suited.alpha,
                step=0.1,
                label="How strongly (alpha)",
                elem_id="diversity-alpha",
                buttons=[],
            )
            with gr.Accordion("What is pushed, and when", open=False):
                reference = gr.Radio(
                    [("each from all others", "others"), ("all from the first", "first")],
                    value="others",
                    label="From what",
                )
                threshold = gr.Slider(
                    -1,
                    1,
                    suited.threshold,
                    step=0.05,
                    label="How alike tokens must be (threshold)",
                    buttons=[],
                )
                stop = parts.until(studio.backend.suited.negtome.get("stop"))
            button = parts.buttons("Draw both batches", "diversity")
            settings = parts.settings(studio, images=4, least=2)
            parts.vocabulary(studio)
        with gr.Column(scale=3, min_width=320):
            said = gr.Markdown(
                label="What happened", elem_id="diversity-said", elem_classes="said", min_height=48
            )
            before = parts.gallery("Plain", "diversity-before")
            after = parts.gallery("Pushed apart by NegToMe, the same seeds", "diversity-after")
            where, when = parts.acted()
            python, sheet = parts.to_take_away("diversity")
    outputs = [sheet, said, before, after, where, when, python]
    events = parts.wire(
        actions.push_apart,
        [prompt, reference, alpha, threshold, stop, *settings],
        outputs,
        triggers=[button.draw.click, prompt.submit],
        api_name="push_apart",
        progress_on=said,
        filled={
            example: [(prompt, value)] for example, (value,) in zip(tries, EXAMPLES.values(), strict=True)
        },
    )
    return parts.Tab(events, button.stop, outputs, said)
