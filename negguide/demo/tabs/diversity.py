"""The tab "Diversity": a batch whose pictures are pushed away from each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from negguide import NegToMe
from negguide.demo import components
from negguide.demo.as_python import code
from negguide.demo.backend import Drawn, Run
from negguide.demo.measures import agree, different, entropy, features, pairwise_distance
from negguide.demo.messages import JUDGE, as_markdown, pushed_sentence, validation_messages
from negguide.demo.methods import paper
from negguide.demo.state import AppState

IMAGES = 4
"""Seeds that are drawn unless another number is chosen."""


@dataclass(frozen=True, eq=False)
class Diversity:
    """The actions of the tab."""

    state: AppState

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
            Both batches as one PNG, what happened, the plain batch, the pushed batch, where it was pushed and how much
            at each step, the settings as Python code, and the same in numbers.
        """
        with validation_messages():
            plain = self.state.plain(prompt, images, seed, steps, guidance_scale, size, least=2)
            options = {
                **self.state.backend.suited.negtome,
                "alpha": alpha,
                "threshold": threshold,
                "stop": stop or None,
            }
            method = NegToMe(reference, **options)
        pushed = replace(plain, methods=(method,))
        with self.state.drawing(request, progress, [plain, pushed]) as draw:
            before = draw(plain, "Plain")
            yield gr.skip(), gr.skip(), self._gallery(before, plain), *[gr.skip()] * 5
            after = draw(pushed, "NegToMe")
            yield self._all(plain, pushed, before, after)

    def _gallery(self, drawn: Drawn, run: Run) -> list[tuple[Any, str]]:
        return [
            (self.state.shown(image), f"seed {seed}")
            for image, seed in zip(drawn.images, run.seeds, strict=True)
        ]

    def _all(self, plain: Run, pushed: Run, before: Drawn, after: Drawn) -> tuple[Any, ...]:
        title = f"“{plain.prompt}”, each picture pushed away from the others"
        sheet = self.state.sheet(
            [("plain", plain, before.images), ("NegToMe", pushed, after.images)], title, as_rows=True
        )
        return (
            sheet,
            self._verdict(plain.prompt, before, after),
            self._gallery(before, plain),
            self._gallery(after, pushed),
            self.state.heatmap(after),
            self.state.curves(after),
            code(self.state.backend, [("plain", plain), ("negtome", pushed)]),
            f"{pushed_sentence(after.trace)}\n\n{self._numbers(plain.prompt, before, after)}".strip(),
        )

    def _verdict(self, prompt: str, before: Drawn, after: Drawn) -> str:
        """What happened in plain words; for the embedded model, counted by its judge."""
        backend = self.state.backend
        if backend.reader is None:
            return "**The same seeds and words, plain and pushed apart.** Look at what differs now, and at what stayed."
        n, varied = len(before.images), backend.page.variety
        still = f"All of “{as_markdown(prompt)}” is still in {agree(backend.reader, after.images, prompt)} of {n}."
        if varied is None:
            return still
        counts = (different(varied.values(drawn.images)) for drawn in (before, after))
        plain, apart = (f"{count} {varied.unit}{'s' * (count > 1)}" for count in counts)
        return f"**Plain: {varied.what} of {plain} in {n} pictures. Pushed apart: {apart}.** {still}"

    def _numbers(self, prompt: str, before: Drawn, after: Drawn) -> str:
        """A table of what the judge sees; empty where there is none that looks at pictures."""
        backend = self.state.backend
        vectors = [features(backend, drawn.images) for drawn in (before, after)]
        distances = [pairwise_distance(found) for found in vectors if found is not None]
        if not distances:
            return ""
        rows = [
            ("mean distance of two pictures (0: the same)", *(f"{distance:.2f}" for distance in distances))
        ]
        if varied := backend.page.variety:
            entropies = (f"{entropy(varied.values(drawn.images)):.0%}" for drawn in (before, after))
            rows.insert(0, (f"variety of the {varied.what} {varied.unit}s (100%: all differ)", *entropies))
        if (reader := backend.reader) is not None:
            n = len(before.images)
            counts = (f"{agree(reader, drawn.images, prompt)} of {n}" for drawn in (before, after))
            rows.append((f"still *{as_markdown(prompt)}*", *counts))
        lines = ["| what the judge sees | Plain | NegToMe |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([*lines, "", JUDGE] if backend.reader is not None else lines)


def warm_up(state: AppState) -> list[Any]:
    """The results of the first example."""
    suited = NegToMe(**state.backend.suited.negtome)
    assert suited.threshold is not None
    return components.last(
        Diversity(state).push_apart(
            prompt=state.backend.page.diversity[0],
            reference="others",
            alpha=suited.alpha,
            threshold=state.backend.suited.negtome["threshold"],
            stop=_stop(state),
            **components.usual(state, images=IMAGES),
        )
    )


def _stop(state: AppState) -> float:
    return float(state.backend.suited.negtome.get("stop") or 0)


def build(state: AppState) -> components.Tab:
    """Lay the tab out and wire it."""
    actions = Diversity(state)
    suited = NegToMe(**state.backend.suited.negtome)
    page = state.backend.page
    prompts = page.diversity
    here = "" if page.variety is None else f": {page.variety.here}"
    gr.Markdown(
        f"Models repeat themselves{here}. **NegToMe** ({paper(NegToMe)}) pushes "
        "every picture of a batch away from what it has in common with the others; what the prompt asks for stays.",
        elem_classes="intro",
    )
    tries = components.examples(prompts, "diversity")
    with components.work() as (asked, results, more):
        with asked:
            prompt = gr.Textbox(prompts[0], label="Draw", elem_id="diversity-prompt", max_lines=3)
            alpha = gr.Slider(
                0,
                20,
                suited.alpha,
                step=0.1,
                label="How strongly (alpha)",
                elem_id="diversity-alpha",
                buttons=[],
            )
            button = components.buttons("Draw both batches", "diversity")
        with results:
            said = gr.Markdown(
                label="What happened", elem_id="diversity-said", elem_classes="said", min_height=48
            )
            before = components.gallery("Plain", "diversity-before")
            after = components.gallery("Pushed apart by NegToMe, the same seeds", "diversity-after")
            numbers = components.numbers("diversity")
            where, when = components.acted()
            python, sheet = components.to_take_away("diversity")
        with more:
            settings = components.settings(state, images=IMAGES, least=2)
            with gr.Accordion("What is pushed, and when", open=False):
                reference = gr.Radio(
                    [("each from all others", "others"), ("all from the first", "first")],
                    value="others",
                    label="From what",
                )
                threshold = components.threshold(suited.threshold)
                stop = components.until(state.backend.suited.negtome.get("stop"))
            components.vocabulary(state)
    outputs = [sheet, said, before, after, where, when, python, numbers]
    events, begun = components.wire(
        state,
        actions.push_apart,
        [prompt, reference, alpha, threshold, stop, *settings],
        outputs,
        triggers=[button.draw.click, prompt.submit],
        api_name="push_apart",
        buttons=button,
        said=said,
        cleared={numbers: "", python: ""},
        filled={example: [(prompt, value)] for example, value in zip(tries, prompts, strict=True)},
    )
    return components.Tab(
        events,
        button,
        outputs,
        said,
        warm_up=None if state.backend.domain is None else warm_up,
        begun=begun,
    )
