"""The tab "Leave out": things left out in words, by each method, beside the plain picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from negguide.demo import components
from negguide.demo.backend import Backend
from negguide.demo.examples import USUAL_NEGATIVES, LeaveOut
from negguide.demo.methods import CLASSIC, PLAIN, method_labels, paper, scales
from negguide.demo.state import AppState
from negguide.demo.tabs.leave_out import BESIDE, NEGATIVES, Negatives, use_of
from negguide.methods.base import Space
from negguide.methods.choices import methods_in_words

AUTOMATIC_STOP = 0.5
"""Until when negatives that weigh themselves act on the embedded model, unless told."""
IMAGES = 4
"""Seeds that are drawn unless another number is chosen."""
_WHERE: dict[Space, str] = {
    "score": "It acts on the model's predictions at each step, one for the prompt and one for each negative; it needs "
    "a guidance scale above 1.",
    "attention": "It acts in attention, where the picture reads the words, and works without a guidance scale too, as "
    "few-step models are used.",
    "token": "It acts on the patches of the picture (tokens).",
}
"""{where a method acts: what that means}."""
ROWS_SHOWN = 2
"""Negatives that are on the page before it is asked for more."""


def warm_up(state: AppState) -> list[Any]:
    """The results of the first example."""
    first = _examples(state.backend)[0]
    weight, start, stop = _strength(state.backend, first.method, False)
    arguments: dict[str, Any] = {}
    for number, text in enumerate(_filled_up(first.negatives), start=1):
        arguments |= {
            f"negative_{number}": text,
            f"weight_{number}": weight,
            f"start_{number}": start,
            f"stop_{number}": stop,
        }
    return components.last(
        Negatives(state).leave_out(
            prompt=first.prompt,
            **arguments,
            method=first.method,
            beside=True,
            **components.usual(state, images=IMAGES),
        )
    )


def _examples(backend: Backend) -> tuple[LeaveOut, ...]:
    # without guidance, by what acts without
    return tuple(
        one if backend.guided else replace(one, method=backend.way) for one in backend.page.leave_out
    )


def _strength(backend: Backend, way: str, automatic: bool) -> tuple[float, float, float]:
    """Weight, start and stop that a row of the page begins with."""
    weight, start, stop = backend.strength(way, automatic=automatic)
    # longer, what takes the place of the negative gets soft on embedded models
    return weight, start, AUTOMATIC_STOP if automatic and backend.domain is not None else stop


def weighs_itself(way: str) -> bool:
    """Whether negatives can weigh themselves in this way of leaving out."""
    kind = methods_in_words().get(way)
    return kind is not None and kind.weighs_automatically


def _filled_up(negatives: Sequence[str]) -> list[str]:
    """The texts of all rows, "" where there is none."""
    return [*negatives, *[""] * (NEGATIVES - len(negatives))]


def build(state: AppState) -> components.Tab:
    """Lay the tab out and wire it."""
    actions = Negatives(state)
    domain = state.backend.domain
    chosen = _examples(state.backend)
    first = chosen[0]
    gr.Markdown(
        "Say what to draw and what to leave out. A **classic negative prompt** pushes away from everything it says, "
        "including what it shares with the prompt: leave out *black glasses*, and the glasses go too. **Perp-Neg** "
        "takes away only what the prompt did not ask for.",
        elem_classes="intro",
    )
    tries = components.examples([one.label(first.method) for one in chosen], "negatives")
    with components.work() as (asked, results, more):
        with asked:
            prompt = gr.Textbox(first.prompt, label="Draw", elem_id="negatives-prompt", max_lines=3)
            rows = [
                _row(state, number, first.negatives[0] if number == 1 else "")
                for number in range(1, ROWS_SHOWN + 1)
            ]
            presets = _presets() if domain is None else []
            button = components.buttons("Draw", "negatives")
        with results:
            said = gr.Markdown(
                label="What happened", elem_id="negatives-said", elem_classes="said", min_height=48
            )
            slider = components.slider("negatives-slider")
            with gr.Row(elem_classes="under", equal_height=True):
                sides = gr.Markdown(
                    label="What the two pictures are", elem_id="negatives-sides", elem_classes="title sides"
                )
                use = gr.Button(use_of(0), size="sm", min_width=110, scale=0, elem_id="negatives-use")
            shown_seed = gr.State(0)
            gallery = components.gallery(
                "All seeds; click one to put it above", "negatives-gallery", columns=3, zoom=False
            )
            numbers = components.numbers("negatives")
            where, when = components.acted()
            python, sheet = components.to_take_away("negatives")
        with more:
            method = gr.Radio(
                [(label, key) for key, label in method_labels().items()],
                value=first.method,
                label="How it is left out",
                elem_id="negatives-method",
            )
            explained = gr.Markdown(
                explanation(first.method), elem_id="negatives-explained", elem_classes="title"
            )
            beside = gr.Checkbox(True, label=BESIDE)
            settings = components.settings(state, images=IMAGES)
            with gr.Accordion("More to leave out, and when each acts", open=False):
                automatic = gr.Checkbox(
                    False,
                    label="let each weight follow how much of it is in the picture",
                    elem_id="negatives-automatic",
                )
                rows += [_row(state, number, "") for number in range(ROWS_SHOWN + 1, NEGATIVES + 1)]
                windows = [_window(state, number) for number in range(1, NEGATIVES + 1)]
            own = scales(state.backend.suited)
            with gr.Accordion(f"Strength of {', '.join(own)}", open=False):
                said_of_own = ", ".join(f"{label} {value:g}" for label, value in own.items())
                scale = gr.Number(None, label="Scale", info=f"empty: what suits the model ({said_of_own})")
            components.vocabulary(state)
    rows = [[*row, *window] for row, window in zip(rows, windows, strict=True)]
    inputs = [prompt, *(field for row in rows for field in row), method, beside, *settings, scale, automatic]
    outputs = [sheet, said, slider, gallery, where, when, python, numbers, sides]
    strengths = [field for row in rows for field in row[1:]]

    def by_way(way: str, itself: bool) -> list[Any]:
        # Perp-Neg's weight and window are not those of the methods in attention space
        weight, start, stop = _strength(state.backend, way, itself)
        return [
            value
            for _ in range(NEGATIVES)
            # each its own: Gradio takes updates apart
            for value in (gr.update(value=weight, interactive=not itself), start, stop)
        ]

    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    method.input(
        lambda way: [
            gr.update(value=False, visible=weighs_itself(way)),
            explanation(way),
            *by_way(way, False),
        ],
        method,
        [automatic, explained, *strengths],
        **quick,
    )
    automatic.input(by_way, [method, automatic], strengths, **quick)
    for preset, text in zip(presets, USUAL_NEGATIVES.values(), strict=False):
        preset.click(components.filling([text]), None, rows[ROWS_SHOWN - 1][0], **quick)

    def values_of(example: LeaveOut) -> list[tuple[Any, Any]]:
        named = [
            gr.update(value=False, visible=weighs_itself(example.method)),
            example.prompt,
            example.method,
            explanation(example.method),
            *_filled_up(example.negatives),
            *by_way(example.method, False),
        ]
        fields = [automatic, prompt, method, explained, *(row[0] for row in rows), *strengths]
        return list(zip(fields, named, strict=True))

    gallery.select(
        actions.show_seed,
        gallery,
        [slider, sides, shown_seed, use],
        api_visibility="private",
        show_progress="hidden",
    )
    use.click(lambda seed: seed, shown_seed, settings[1], **quick)
    events, begun = components.wire(
        state,
        actions.leave_out,
        inputs,
        outputs,
        triggers=[button.draw.click, prompt.submit, *(row[0].submit for row in rows)],
        api_name="leave_out",
        buttons=button,
        said=said,
        cleared={numbers: "", sides: "", python: ""},
        filled={example: values_of(one) for example, one in zip(tries, chosen, strict=True)},
        after=(lambda seed: (seed, gr.update(value=use_of(int(seed)))), [settings[1]], [shown_seed, use]),
    )
    # not the components' own values, which are the defaults of the API
    return components.Tab(
        events,
        button,
        outputs,
        said,
        begin=values_of(first),
        warm_up=None if domain is None else warm_up,
        begun=begun,
    )


def explanation(way: str) -> str:
    """What a way of leaving out does, in one line, and where it was published."""
    if way == PLAIN:
        return "Nothing is left out."
    if way == CLASSIC:
        return "Pushes away from everything that the words say, including what the prompt asks for."
    kind = methods_in_words()[way]
    summary = f"{kind.summary[0].upper()}{kind.summary[1:]}"
    return f"{summary} ({paper(kind)}). {_WHERE[kind.space]}"


def _presets() -> list[gr.Button]:
    """What people leave out of almost everything, one button each."""
    with gr.Row(elem_classes="examples"):
        gr.HTML("Usual negative text:", elem_classes="try", padding=False)
        return [
            gr.Button(name, size="sm", elem_classes="example", elem_id=f"negatives-preset-{i}", min_width=40)
            for i, name in enumerate(USUAL_NEGATIVES)
        ]


def _row(state: AppState, number: int, value: str) -> list[Any]:
    """What to leave out, and its weight."""
    weight, _, _ = state.backend.strength()
    with gr.Row(elem_classes="negative", equal_height=True):
        text = gr.Textbox(
            value,
            label="Leave out" if number == 1 else f"Leave out ({number})",
            elem_id=f"negatives-negative-{number}",
            max_lines=2,
            scale=3,
            min_width=150,
        )
        slider = gr.Slider(
            0,
            5,
            weight,
            step=0.1,
            label=f"Weight{'' if number == 1 else f' ({number})'}",
            min_width=120,
            scale=2,
            buttons=[],
            elem_id=f"negatives-weight-{number}",
        )
    return [text, slider]


def _window(state: AppState, number: int) -> list[Any]:
    """When it acts, in shares of the steps."""
    _, start, stop = state.backend.strength()
    with gr.Row():
        return [
            gr.Slider(
                0, 1, value, step=0.05, label=f"({number}) acts {edge}", info=info, min_width=130, buttons=[]
            )
            for edge, value, info in (
                ("from", start, "share of the steps"),
                ("until", stop, "1 is the end"),
            )
        ]
