"""Pieces of the page that several tabs have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from negguide.demo.limits import GRAIN
from negguide.demo.studio import MAX_SEED, Studio
from negguide.demo.words import VOCABULARY

# Gradio's interactive components have no common class that its types know.
Component = Any

DEVICE = "device"
"""The queue of everything that draws: one at a time."""


@dataclass(frozen=True)
class Tab:
    """A tab that was built: the events that Stop ends, its Stop button, and where its results and words are shown.

    `begin` is what the page fills in when it opens, (input, value), beside the values that the inputs have by default.
    """

    events: list[Any]
    stop: gr.Button
    outputs: list[Component]
    said: Component
    begin: Sequence[tuple[Component, Any]] = ()


@dataclass(frozen=True)
class Buttons:
    """Draw and Stop."""

    draw: gr.Button
    stop: gr.Button


def settings(studio: Studio, *, images: int, least: int = 1) -> list[Component]:
    """Number of images, seed, steps, guidance scale and size, in that order."""
    with gr.Row():
        count = up_to(studio.limits.max_images, images, "Images", least=least, info="one seed each")
        seed = _seed("of the first image")
    with gr.Accordion("Sampling", open=False), gr.Row():
        steps, scale = _steps(studio)
        size = up_to(
            # for a limit that is no multiple, the slider ends below it
            studio.limits.max_size // GRAIN * GRAIN,
            studio.size,
            "Size",
            least=GRAIN,
            step=GRAIN,
            info="pixels along an edge",
            visible=studio.backend.resizable,
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


def sampling(studio: Studio) -> list[Component]:
    """Seed, steps and guidance scale, in that order."""
    with gr.Row():
        seed = _seed("")
        return [seed, *_steps(studio)]


def _seed(info: str) -> Component:
    return gr.Number(
        0, label="Seed", info=info or None, precision=0, minimum=0, maximum=MAX_SEED, min_width=140
    )


def _steps(studio: Studio) -> list[Component]:
    backend, most = studio.backend, studio.limits.max_steps
    return [
        up_to(most, backend.steps, "Steps"),
        gr.Slider(
            0, 30, backend.suited.guidance_scale, step=0.5, label="Guidance scale", min_width=140, buttons=[]
        ),
    ]


def vocabulary(studio: Studio) -> None:
    """The words of the embedded model."""
    if studio.backend.toyworld:
        with gr.Accordion("Words you can use", open=False):
            gr.Markdown(VOCABULARY, elem_classes="vocabulary")


def until(stop: float | None) -> gr.Slider:
    """The slider that says when NegToMe ends to act; at 0, or None, as published for the model."""
    return gr.Slider(
        0, 1, stop or 0, step=0.05, label="Acts until (share of the steps; 0: as published)", buttons=[]
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
    return Buttons(draw, stop)


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


def wire(
    fn: Callable[..., Any],
    inputs: Sequence[Component],
    outputs: Sequence[Component],
    *,
    triggers: Sequence[Any],
    api_name: str,
    progress_on: Component,
    filled: Mapping[gr.Button, Sequence[tuple[Component, Any]]],
) -> list[Any]:
    """Run `fn` on every trigger, and on every example button after it has filled in its values; gives the events.

    Args:
        filled: for each example button, (input, value) of what it fills in.
    """
    how: dict[str, Any] = {
        "fn": fn,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "concurrency_id": DEVICE,
        "concurrency_limit": 1,
        "show_progress_on": progress_on,
    }
    events = [gr.on(list(triggers), api_name=api_name, **how)]
    # on a phone the results lie below everything that can be set
    show = (
        f"() => {{ if (innerWidth < 700) document.getElementById('{progress_on.elem_id}').scrollIntoView() }}"
    )
    gr.on(
        [*triggers, *(button.click for button in filled)],
        None,
        js=show,
        api_visibility="private",
        queue=False,
    )
    for button, values in filled.items():
        into, contents = zip(*values, strict=True)
        event = button.click(
            filling(contents),
            outputs=list(into),
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        events.append(event.then(api_visibility="private", **how))
    return events


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
            show_label=False,
            interactive=False,
            elem_id=f"{name}-sheet",
            buttons=["download"],
        )
    return script, sheet


def slider(label: str, elem_id: str) -> Component:
    """Two pictures of one seed under a line that can be dragged."""
    gr.Markdown(label, elem_classes="title")
    return gr.ImageSlider(
        label=label,
        show_label=False,
        elem_id=elem_id,
        format="png",
        interactive=False,
        max_height=420,
        buttons=["download"],
    )


def gallery(label: str, elem_id: str, columns: int = 4) -> Component:
    """Several pictures, all to be seen at once."""
    gr.Markdown(label, elem_classes="title")
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=columns,
        allow_preview=False,
        format="png",
        object_fit="contain",
        height="auto",
        elem_id=elem_id,
        elem_classes=["seeds", {3: "three", 4: "four"}[columns]],
        interactive=False,
        buttons=["download_all"],
    )


def acted() -> tuple[Component, Component]:
    """Where the negatives acted in the pictures, and how much at each step."""
    with gr.Accordion("Where and how much it acted", open=False):
        where = gr.Image(
            label="Where", format="png", show_label=False, interactive=False, buttons=["fullscreen"]
        )
        when = gr.Image(
            label="Step by step", format="png", show_label=False, interactive=False, buttons=["fullscreen"]
        )
    return where, when
