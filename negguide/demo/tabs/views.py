"""The tab "Views and 3D": solids of the embedded world, with and without what tells their cameras apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from negguide import PerpNeg
from negguide.demo import components
from negguide.demo.limits import whole
from negguide.demo.messages import JUDGE, as_markdown, validation_messages
from negguide.demo.methods import paper
from negguide.demo.solids import (
    MADE,
    NOTHING,
    PERP_NEG,
    PROMPT,
    ROUNDS,
    SAID_BY,
    faces_at_the_back,
    solid_of,
    turntable,
)
from negguide.demo.state import MAX_SEED, AppState
from negguide.views import SolidFit

PREVIEW_EVERY = 5
"""Rounds between two turntables of a solid as it is so far."""


@dataclass(frozen=True, eq=False)
class Views:
    """The actions of the tab."""

    state: AppState

    def turn_around(
        self,
        prompt: str,
        views: str,
        seed: int,
        rounds: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Fit a solid to a prompt of the embedded world, and show it from all around.

        Args:
            prompt: one character without a view, e.g. "a bear".
            views: what tells the cameras apart: nothing, words, or perp-neg (words, and Perp-Neg against other views).
            seed: another solid for another seed.
            rounds: how often it is rendered, denoised and fitted; fewer are coarser.

        Returns:
            The turntable as a GIF, and what happened.
        """
        with validation_messages():
            words = self.state.words("prompt", prompt)
            count = whole("rounds", rounds, 1, ROUNDS)
            fit = solid_of(self.state.backend.pipe, words, views, whole("seed", seed, 0, MAX_SEED), count)
        with self.state.working(request, progress, count, "rounds") as step:
            while fit.done < count:
                step("Fitting the solid")
                with self.state.backend.device_lock:
                    fit.round()
                if fit.done % PREVIEW_EVERY == 0 and fit.done < count:
                    yield self._shown(fit), f"*After {fit.done} of {count} rounds …*"
            yield self._shown(fit), _verdict(fit, words, views)

    def _shown(self, fit: SolidFit) -> str:
        path = self.state.folder() / "turntable.gif"
        path.write_bytes(turntable(fit))
        return str(path)


def _verdict(fit: SolidFit, prompt: str, views: str) -> str:
    behind, faces = faces_at_the_back(fit)
    said = f"{faces or 'none'} of {behind} pictures"
    how = SAID_BY[views].partition(":")[0]
    return (
        f"**“{as_markdown(prompt)}” from behind: a face in {said}.** They were taken from 135 to 225 degrees; "
        f"what told the cameras apart was {how}. {JUDGE}"
    )


def build(state: AppState) -> components.Tab:
    """Lay the tab out and wire it."""
    actions = Views(state)
    gr.Markdown(
        "A solid (a simple 3D figure) is made from pictures of all its sides. A model that mostly draws fronts puts a "
        "face on each of them. **Perp-Neg** "
        f"({paper(PerpNeg)}) was invented against that: the prompt says which side a camera sees, and what only the "
        "other sides have is left out.",
        elem_classes="intro",
    )
    solids = state.backend.solids
    tries = components.examples(solids, "views")
    with components.work() as (asked, results, more):
        with asked:
            prompt = gr.Textbox(solids[0], label="Make a solid of", elem_id="views-prompt", max_lines=2)
            views = gr.Radio(
                [(label, key) for key, label in SAID_BY.items()],
                value=PERP_NEG,
                label="What tells the cameras apart",
                elem_id="views-said-by",
            )
            button = components.buttons("Make a solid", "views")
        with results:
            said = gr.Markdown(
                f"**“{PROMPT}” made in advance:** on the left the prompt alone, on the right with the views in words "
                "and Perp-Neg. Watch the back of the head.",
                label="What happened",
                elem_id="views-said",
                elem_classes="said",
                min_height=48,
            )
            own = gr.Image(
                label="The solid from all around",
                elem_classes="quiet",
                format="gif",
                interactive=False,
                visible=True,
                height=260,
                buttons=["download", "fullscreen"],
                elem_id="views-own",
            )
            gr.Markdown(f"“{PROMPT}”, made in advance from one seed", elem_classes="title")
            with gr.Row(elem_classes="pair"):
                for said_by, label in ((NOTHING, "the prompt alone"), (PERP_NEG, "view words and Perp-Neg")):
                    with gr.Column(min_width=120):
                        gr.Image(
                            str(MADE[said_by]),
                            label=f"“{PROMPT}” from all around, {label}",
                            elem_classes="quiet",
                            format="gif",
                            interactive=False,
                            buttons=["fullscreen"],
                            elem_id=f"views-{said_by}",
                        )
                        gr.Markdown(label, elem_classes="title")
        with more:
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=140)
                rounds = gr.Slider(
                    1,
                    ROUNDS,
                    ROUNDS,
                    step=1,
                    label="Rounds",
                    info="fewer are coarser",
                    min_width=140,
                    buttons=[],
                )
            gr.Markdown(
                f'{ROUNDS} rounds take about a minute on two cores. `negguide views "a bear" --object bear.glb` makes '
                "a mesh as well.",
                elem_classes="title",
            )
            components.vocabulary(state)
    outputs = [own, said]
    events, begun = components.wire(
        state,
        actions.turn_around,
        [prompt, views, seed, rounds],
        outputs,
        triggers=[button.draw.click, prompt.submit],
        api_name="turn_around",
        buttons=button,
        said=said,
        cleared={},
        filled={example: [(prompt, value)] for example, value in zip(tries, solids, strict=True)},
    )
    return components.Tab(events, button, outputs, said, begun=begun)
