"""Pieces of the page that several tabs have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gradio as gr

from negguide.demo.endings import NOTHING, on_page
from negguide.demo.limits import GRAIN
from negguide.demo.state import MAX_SEED, AppState

# Gradio's interactive components have no common class that its types know.
Component = Any


@dataclass(frozen=True)
class Tab:
    """A tab that was built: the events that Stop ends, its buttons, and where its results and words are shown.

    Attributes:
        events: those that draw.
        buttons: Draw and Stop.
        outputs: of the events, in their order.
        said: the one of them that says what happened.
        begin: what the page fills in when it opens, (input, value), beside the values that the inputs have by default.
        warm_up: draws what is shown when the tab is opened first; None = nothing.
        begun: of a visit, whether something of the visitor's own or the warm-up example is shown already.
    """

    events: list[Any]
    buttons: Buttons
    outputs: list[Component]
    said: Component
    begin: Sequence[tuple[Component, Any]] = ()
    warm_up: Callable[[AppState], Sequence[Any]] | None = None
    begun: gr.State | None = None


@dataclass(frozen=True)
class Buttons:
    """Draw and Stop; `label` is what Draw says while nothing is drawn."""

    draw: gr.Button
    stop: gr.Button
    label: str


DEVICE = "device"
"""The queue of everything that draws: one at a time."""
RESTART = "Start over with these words"
"""What Draw says, and does, while something is drawn."""


def settings(state: AppState, *, images: int, least: int = 1) -> list[Component]:
    """Number of images, seed, steps, guidance scale and size, in that order."""
    with gr.Row():
        count = up_to(state.limits.max_images, images, "Images", least=least, info="one seed each")
        seed = _seed("of the first image")
    with gr.Accordion("Sampling", open=False), gr.Row():
        steps, scale = _steps(state)
        size = up_to(
            # for a limit that is no multiple, the slider ends below it
            state.limits.max_size // GRAIN * GRAIN,
            state.size,
            "Size",
            least=GRAIN,
            step=GRAIN,
            info="pixels along an edge",
            visible=state.backend.resizable,
        )
    return [count, seed, steps, scale, size]


def up_to(most: int, value: int, label: str, *, least: int = 1, step: int = 1, **more: Any) -> Component:
    """A slider of whole numbers up to a limit; it stands still where the limit leaves no choice."""
    return gr.Slider(
        least,
        # Gradio wants two different ends; what is above the limit is refused by the action itself
        max(most, least + step),
        min(value, most),
        step=step,
        label=label,
        min_width=140,
        buttons=[],
        interactive=most > least,
        **more,
    )


def sampling(state: AppState) -> list[Component]:
    """Seed, steps and guidance scale, in that order."""
    with gr.Row():
        seed = _seed("")
        return [seed, *_steps(state)]


def _seed(info: str) -> Component:
    return gr.Number(
        0, label="Seed", info=info or None, precision=0, minimum=0, maximum=MAX_SEED, min_width=140
    )


def _steps(state: AppState) -> list[Component]:
    backend, most = state.backend, state.limits.max_steps
    return [
        up_to(most, backend.steps, "Steps", info="more are finer and slower"),
        gr.Slider(
            0,
            30,
            backend.suited.guidance_scale,
            step=0.5,
            label="Guidance scale",
            info="how strongly the prompt acts",
            min_width=140,
            buttons=[],
        ),
    ]


def vocabulary(state: AppState) -> None:
    """The words of a closed world, as a table."""
    words = state.backend.page.words
    if words:
        with gr.Accordion("Words you can use", open=False):
            rows = (f"| **{kind}** | {said} |" for kind, said in words)
            gr.Markdown("\n".join(("| | |", "|---|---|", *rows)), elem_classes="vocabulary")


def threshold(value: float | None) -> gr.Slider:
    """The slider that says how alike two tokens must be to be pushed apart."""
    return gr.Slider(
        -1,
        1,
        value,
        step=0.05,
        label="How alike (threshold)",
        info="how similar two patches (tokens) must be to be pushed apart, as a cosine; lower pushes more",
        buttons=[],
    )


def until(stop: float | None) -> gr.Slider:
    """The slider that says when NegToMe ends to act; at 0, or None, as published for the model."""
    return gr.Slider(
        0,
        1,
        stop or 0,
        step=0.05,
        label="Acts until",
        info="fraction of the steps; 0: as published for the model",
        buttons=[],
    )


def buttons(label: str, name: str, *, interactive: bool = True) -> Buttons:
    """Draw and Stop, side by side."""
    with gr.Row(elem_classes="actions"):
        draw = gr.Button(
            label,
            variant="primary",
            scale=3,
            min_width=140,
            elem_id=f"{name}-draw",
            interactive=interactive,
        )
        stop = gr.Button("Stop", variant="secondary", scale=1, min_width=80, elem_id=f"{name}-stop")
    return Buttons(draw, stop, label)


def examples(labels: Sequence[str], name: str) -> list[gr.Button]:
    """One button for each example, in a line that wraps."""
    with gr.Row(elem_classes="examples"):
        gr.HTML("Try one:", elem_classes="try", padding=False)
        return [
            gr.Button(label, size="sm", elem_classes="example", elem_id=f"{name}-example-{i}", min_width=40)
            for i, label in enumerate(labels)
        ]


def filling(contents: Sequence[Any]) -> Callable[[], Any]:
    """What gives these values to as many inputs, whenever it is called."""

    def fill() -> Any:
        # Gradio takes updates apart when it sends them, and there are further visitors
        fresh = copy.deepcopy(list(contents))
        return fresh[0] if len(fresh) == 1 else fresh

    return fill


def usual(state: AppState, *, images: int) -> dict[str, Any]:
    """The settings that a page begins with, as the arguments of an action that nobody asked for."""
    return {
        "images": min(images, state.limits.max_images),
        "seed": 0,
        "steps": min(state.backend.steps, state.limits.max_steps),
        "guidance_scale": state.backend.suited.guidance_scale,
        "size": state.size,
        "request": SimpleNamespace(session_hash=None),
        "progress": lambda *_, **__: None,
    }


def last(results: Iterator[Sequence[Any]]) -> list[Any]:
    """The results of an action with all that came of it, of which the last may leave some as they were before."""
    shown: list[Any] = []
    for result in results:
        kept = shown or [None] * len(result)
        shown = [old if new == gr.skip() else new for old, new in zip(kept, result, strict=True)]
    return shown


def wire(
    state: AppState,
    fn: Callable[..., Any],
    inputs: Sequence[Component],
    outputs: Sequence[Component],
    *,
    triggers: Sequence[Any],
    api_name: str,
    buttons: Buttons,
    said: Component,
    cleared: Mapping[Component, Any],
    filled: Mapping[gr.Button, Sequence[tuple[Component, Any]]],
    after: tuple[Callable[..., Any], Sequence[Component], Sequence[Component]] | None = None,
) -> tuple[list[Any], gr.State]:
    """Run `fn` on every trigger, on every example button after it has filled in its values, and for programs.

    What the same visitor is drawing already ends, what is shown of it is taken away, and while something is drawn the
    button says that it starts over.

    Args:
        said: the output that says what happened; progress is shown on it.
        cleared: what an output shows while there is no result, where that is not None.
        filled: for each example button, (input, value) of what it fills in.
        after: what is called when all is drawn, with its inputs and outputs.

    Returns:
        The events that draw, and whether a visit has begun to draw.
    """
    begun = gr.State(False)
    run: dict[str, Any] = {
        "inputs": list(inputs),
        "outputs": list(outputs),
        "concurrency_id": DEVICE,
        "concurrency_limit": 1,
        "show_progress_on": said,
        # the one before ends by itself
        "trigger_mode": "multiple",
    }
    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    empty = ["*Drawing …*" if output is said else cleared.get(output) for output in outputs]

    # in the server's own thread, as is all that changes the queue
    async def start(request: gr.Request) -> list[Any]:
        state.clients.start_over(request.session_hash)
        state.clients.leave_queue(request.session_hash)
        return [gr.update(value=RESTART), True, *copy.deepcopy(empty)]

    async def is_busy(request: gr.Request) -> bool:
        return await state.clients.is_busy(request.session_hash, [event["id"] for event in events])

    async def end(request: gr.Request) -> Any:
        return gr.skip() if await is_busy(request) else gr.update(value=buttons.label)

    async def failed(request: gr.Request) -> Any:
        if await is_busy(request):
            return gr.skip(), gr.skip()
        # refused before the action began, or by the queue
        return f"{NOTHING} The message in the corner says why.", gr.update(value=buttons.label)

    # an event of no page, so that programs get errors where a page has words
    gr.on([], fn, api_name=api_name, **run)
    run |= {"fn": on_page(fn, outputs, said), "api_visibility": "private"}
    first = gr.on(list(triggers), start, None, [buttons.draw, begun, *outputs], **quick)
    events = [first.then(**run)]
    for button, values in filled.items():
        into, contents = zip(*values, strict=True)
        event = button.click(filling(contents), outputs=list(into), **quick)
        event = event.then(start, None, [buttons.draw, begun, *outputs], **quick)
        events.append(event.then(**run))
    for event in events:
        event.then(end, None, buttons.draw, **quick)
        event.failure(failed, None, [said, buttons.draw], **quick)
        if after is not None:
            event.success(after[0], list(after[1]), list(after[2]), **quick)
    # on a phone the results lie below what is asked
    show = (
        f"() => {{ if (innerWidth < 700) document.getElementById('{said.elem_id}').scrollIntoView"
        "({behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth'}) }"
    )
    gr.on(
        [*triggers, *(button.click for button in filled)],
        None,
        js=show,
        api_visibility="private",
        queue=False,
    )
    return events, begun


@contextmanager
def work() -> Iterator[tuple[gr.Column, gr.Column, gr.Column]]:
    """What is asked, what came of it, and what else can be set; on a narrow page below each other in this order."""
    with gr.Row(elem_classes="work", equal_height=False):
        asked = gr.Column(elem_classes="asked", min_width=0)
        results = gr.Column(elem_classes="results", min_width=0)
        more = gr.Column(elem_classes="more", min_width=0)
        yield asked, results, more


def python(name: str) -> Component:
    """The settings as Python code."""
    with gr.Accordion("The same in Python", open=False):
        return gr.Code(language="python", label="Python", elem_id=f"{name}-python", interactive=False)


def to_take_away(name: str) -> tuple[Component, Component]:
    """The settings as Python code, and everything as one PNG."""
    script = python(name)
    with gr.Accordion("All as one PNG, with its settings inside", open=False):
        sheet = gr.Image(
            type="filepath",
            label="All as one PNG",
            elem_classes="quiet",
            interactive=False,
            elem_id=f"{name}-sheet",
            buttons=["download", "fullscreen"],
        )
    return script, sheet


def slider(elem_id: str) -> Component:
    """Two pictures of one seed under a line that can be dragged, or moved by the keys."""
    return gr.ImageSlider(
        label="Two pictures of one seed",
        show_label=False,
        elem_id=elem_id,
        elem_classes="two",
        format="png",
        interactive=False,
        max_height=420,
        buttons=["download", "fullscreen"],
    )


def gallery(label: str, elem_id: str, columns: int = 4, *, zoom: bool = True) -> Component:
    """Several pictures, all to be seen at once; with `zoom`, one fills the place when it is clicked."""
    gr.Markdown(label, elem_classes="title")
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=columns,
        allow_preview=zoom,
        preview=False,
        format="png",
        object_fit="contain",
        height="auto",
        elem_id=elem_id,
        elem_classes=["seeds", {3: "three", 4: "four"}[columns]],
        interactive=False,
        buttons=["download_all", "fullscreen"],
    )


def numbers(name: str) -> Component:
    """Counts and measures, under the pictures."""
    return gr.Markdown(label="In numbers", elem_id=f"{name}-numbers", elem_classes="said small")


def acted() -> tuple[Component, Component]:
    """Where the negatives acted in the pictures, and how much at each step."""
    with gr.Accordion("Where and how much it acted", open=False):
        gr.Markdown(
            "Warm colours: where the negatives changed the picture most. The curves: how much at each step, from noise "
            "on the left to the picture on the right."
        )
        where = gr.Image(
            label="Where it acted",
            format="png",
            elem_classes="quiet",
            interactive=False,
            buttons=["fullscreen"],
        )
        when = gr.Image(
            label="How much at each step",
            format="png",
            elem_classes="quiet",
            interactive=False,
            buttons=["fullscreen"],
        )
    return where, when
