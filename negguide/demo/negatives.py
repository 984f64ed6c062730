"""The tab "Negative prompts": things left out in words, by each method, beside the plain picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import gradio as gr

from negguide import Negative
from negguide.demo import parts
from negguide.demo.as_python import code
from negguide.demo.backend import Backend, Drawn, Run, first_and_rest, joined
from negguide.demo.how import CLASSIC, PLAIN, left_out, method_labels, scales, with_method
from negguide.demo.measures import agree
from negguide.demo.studio import Studio
from negguide.demo.words import as_markdown, said_on_the_page, what_happened
from negguide.methods import AUTO
from negguide.methods.choices import methods_in_words

NEGATIVES = 4

AUTOMATIC_STOP = 0.5
"""Until when negatives that weigh themselves act on the embedded model, unless told."""
ROWS_SHOWN = 2
"""Negatives that are on the page before it is asked for more."""

EXAMPLES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "a bear wearing glasses − black glasses − brown fur": (
        "a bear wearing glasses",
        ("black glasses", "brown fur"),
        "perp-neg",
    ),
    "a bear wearing a hat − a brown bear wearing a hat": (
        "a bear wearing a hat",
        ("a brown bear wearing a hat",),
        "perp-neg",
    ),
    "a cat wearing glasses − black glasses, by NAG": ("a cat wearing glasses", ("black glasses",), "nag"),
}
"""What a button says: prompt, negatives and method."""


@dataclass(frozen=True, eq=False)
class Negatives:
    """The actions of the tab."""

    studio: Studio

    def leave_out(
        self,
        prompt: str,
        negative_1: str,
        weight_1: float,
        start_1: float,
        stop_1: float,
        negative_2: str,
        weight_2: float,
        start_2: float,
        stop_2: float,
        negative_3: str,
        weight_3: float,
        start_3: float,
        stop_3: float,
        negative_4: str,
        weight_4: float,
        start_4: float,
        stop_4: float,
        method: str,
        beside: bool,
        images: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        size: int,
        request: gr.Request,
        scale: float | None = None,
        automatic: bool = False,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to ask for it)
    ) -> Iterator[tuple[Any, ...]]:
        """Draw a prompt with things left out, beside the same seeds drawn plainly.

        Args:
            prompt: what to draw, e.g. "a bear wearing glasses".
            negative_1: what to leave out, e.g. "black glasses"; it may overlap with the prompt. Empty = nothing.
            weight_1: its strength, from 0.
            start_1: when it begins to act, as a fraction of the steps.
            stop_1: when it ends.
            negative_2: a second thing to leave out.
            weight_2: its strength.
            start_2: when it begins to act.
            stop_2: when it ends.
            negative_3: a third thing to leave out.
            weight_3: its strength.
            start_3: when it begins to act.
            stop_3: when it ends.
            negative_4: a fourth thing to leave out.
            weight_4: its strength.
            start_4: when it begins to act.
            stop_4: when it ends.
            method: how the negatives act: plain, negative-prompt, or a method such as perp-neg.
            beside: also draw what a classic negative prompt does with the same words.
            images: how many, each with a seed of its own.
            seed: of the first image.
            steps: denoising steps.
            guidance_scale: strength of the prompt.
            size: pixels along an edge; the embedded model has one size.
            scale: strength, of the methods that have one; none = what suits the model.
            automatic: whether each negative weighs itself by how present it is in the picture, in place of weight_1
                to weight_4; of Perp-Neg alone.

        Returns:
            The labelled pictures as one PNG, a sentence on what happened, the first seed plain and guided, all
            pictures, the trace, and the settings as Python code.
        """
        with said_on_the_page():
            plain = self.studio.plain(prompt, images, seed, steps, guidance_scale, size)
            said = (
                (negative_1, weight_1, start_1, stop_1),
                (negative_2, weight_2, start_2, stop_2),
                (negative_3, weight_3, start_3, stop_3),
                (negative_4, weight_4, start_4, stop_4),
            )
            if automatic:
                self._check_weights([weight for _, weight, _, _ in said])
            negatives = [
                self._negative(text, AUTO if automatic else weight, start, stop)
                for text, weight, start, stop in said
                if text and text.strip()
            ]
            if not negatives and method != PLAIN:
                raise ValueError("Nothing to leave out; write it below the prompt, like “black glasses”.")
            columns = self._columns(plain, method, negatives, scale, beside)
        parts_of = {key: first_and_rest(run) for key, run in columns.items()}
        with self.studio.drawing(
            request, progress, [part for parts in parts_of.values() for part in parts]
        ) as draw:
            drawn: dict[str, list[Drawn]] = {key: [] for key in columns}
            # the plain picture and the asked-for one first, since they go into the slider
            order = list(dict.fromkeys([PLAIN, method, *columns]))
            labels = method_labels()
            for turn in range(len(parts_of[PLAIN])):
                for key in order:
                    drawn[key].append(draw(parts_of[key][turn], labels[key]))
                    if turn == 0:
                        yield self._so_far(columns, drawn, method)
            yield self._all(columns, {key: joined(parts) for key, parts in drawn.items()}, method)

    def show_seed(self, pictures: list[tuple[str, str]], event: gr.SelectData) -> tuple[str, str]:
        """Put the seed of the picture that was clicked into the slider."""
        seed = pictures[event.index][1].split(" · ")[0]
        row = [path for path, caption in pictures if caption.split(" · ")[0] == seed]
        return row[0], row[-1]

    def _check_weights(self, weights: Sequence[float]) -> None:
        usual, _, _ = self.studio.backend.strength()
        for number, weight in enumerate(weights, start=1):
            if weight != usual:
                raise ValueError(
                    f"automatic takes the place of weight_{number}={weight:g}; leave out one of the two"
                )

    def _negative(self, prompt: str, weight: float | Literal["auto"], start: float, stop: float) -> Negative:
        return Negative(self.studio.words("negative", prompt), weight, start, stop)

    def _columns(
        self, plain: Run, method: str, negatives: list[Negative], scale: float | None, beside: bool
    ) -> dict[str, Run]:
        """What is drawn, from left to right; plain is the first and the asked-for method the last."""
        toy = self.studio.backend.toyworld
        columns = {PLAIN: plain}
        if beside and negatives and plain.guidance_scale > 1 and method not in (PLAIN, CLASSIC):
            columns[CLASSIC] = with_method(plain, CLASSIC, negatives, None, toy)
        columns[method] = with_method(plain, method, negatives, scale, toy)
        for run in columns.values():
            self.studio.backend.arguments(run)
        return columns

    def _so_far(self, columns: dict[str, Run], drawn: dict[str, list[Drawn]], method: str) -> tuple[Any, ...]:
        first = {key: parts[0].images[0] for key, parts in drawn.items() if parts}
        seed = columns[PLAIN].seeds[0]
        gallery = [(self.studio.shown(first[key]), _caption(seed, key)) for key in columns if key in first]
        slider = (
            (self.studio.shown(first[PLAIN]), self.studio.shown(first[method]))
            if method in first
            else gr.skip()
        )
        return gr.skip(), gr.skip(), slider, gallery, *[gr.skip()] * 3

    def _all(self, columns: dict[str, Run], drawn: dict[str, Drawn], method: str) -> tuple[Any, ...]:
        backend, run, plain = self.studio.backend, columns[method], columns[PLAIN]
        names = left_out(run)
        title = f"“{run.prompt}”" + (f" minus {' and '.join(f'“{name}”' for name in names)}" if names else "")
        labels = method_labels()
        listed = [(labels[key], columns[key], drawn[key].images) for key in columns]
        gallery = [
            (self.studio.shown(drawn[key].images[i]), _caption(seed, key))
            for i, seed in enumerate(plain.seeds)
            for key in columns
        ]
        trace = drawn[method].trace
        sentence = what_happened(run.methods[0] if run.methods else None, trace, names)
        return (
            self.studio.sheet(listed, title),
            f"**{sentence}**\n\n{self._counted(columns, drawn, names)}",
            (self.studio.shown(drawn[PLAIN].images[0]), self.studio.shown(drawn[method].images[0])),
            gallery,
            self.studio.heatmap(drawn[method]),
            self.studio.curves(drawn[method]),
            code(backend, list(columns.items())),
        )

    def _counted(self, columns: dict[str, Run], drawn: dict[str, Drawn], names: Sequence[str]) -> str:
        """A table of what the judge sees, for the embedded model."""
        if not self.studio.backend.toyworld or not names:
            return ""
        prompt = columns[PLAIN].prompt
        labels = method_labels()
        heads = "".join(f" {labels[key]} |" for key in columns)
        lines = [f"| what the judge sees |{heads}", "|---|" + "---|" * len(columns)]
        for text, label in ((prompt, "all of"), *((name, "still") for name in names)):
            counts = (agree(drawn[key].images, text) for key in columns)
            cells = "".join(f" {count} of {len(drawn[PLAIN].images)} |" for count in counts)
            lines.append(f"| {label} *{as_markdown(text)}* |{cells}")
        return "\n".join(lines)


def greeting(studio: Studio) -> list[Any]:
    """The results of the first example, drawn now."""
    prompt, negatives, method = next(iter(EXAMPLES.values()))
    backend = studio.backend
    automatic = weighs_itself(method)
    weight, start, stop = _strength(backend, method, automatic)
    arguments: dict[str, Any] = {}
    for number, text in enumerate(_filled_up(negatives), start=1):
        arguments |= {
            f"negative_{number}": text,
            f"weight_{number}": weight,
            f"start_{number}": start,
            f"stop_{number}": stop,
        }
    results = Negatives(studio).leave_out(
        prompt=prompt,
        **arguments,
        method=method,
        automatic=automatic,
        beside=True,
        images=2,
        seed=0,
        steps=min(backend.steps, studio.limits.max_steps),
        guidance_scale=backend.suited.guidance_scale,
        size=studio.size,
        request=SimpleNamespace(session_hash=None),
        progress=lambda *_, **__: None,
    )
    *_, last = results
    return list(last)


def _strength(backend: Backend, way: str, automatic: bool) -> tuple[float, float, float]:
    """Weight, start and stop that a row of the page begins with."""
    weight, start, stop = backend.strength(way, automatic=automatic)
    # longer, what takes the place of the negative gets soft on the embedded model
    return weight, start, AUTOMATIC_STOP if automatic and backend.toyworld else stop


def weighs_itself(way: str) -> bool:
    """Whether negatives can weigh themselves in this way of leaving out."""
    kind = methods_in_words().get(way)
    return kind is not None and kind.weighs_automatically


def _filled_up(negatives: Sequence[str]) -> list[str]:
    """The texts of all rows, "" where there is none."""
    return [*negatives, *[""] * (NEGATIVES - len(negatives))]


def _caption(seed: int, key: str) -> str:
    return f"seed {seed} · {method_labels()[key]}"


def build(studio: Studio) -> parts.Tab:
    """Lay the tab out and wire it."""
    actions = Negatives(studio)
    gr.Markdown(
        "Say what to draw and what to leave out. A **classic negative prompt** pushes away from everything it says, "
        "also from what it shares with the prompt. **Perp-Neg** takes away only what the prompt did not ask for."
    )
    tries = parts.examples(list(EXAMPLES), "negatives")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            first = next(iter(EXAMPLES.values()))
            prompt = gr.Textbox(first[0], label="Draw", elem_id="negatives-prompt", max_lines=3)
            rows = [
                _row(studio, number, first[1][0] if number == 1 else "")
                for number in range(1, ROWS_SHOWN + 1)
            ]
            with gr.Accordion("More to leave out", open=False):
                rows += [_row(studio, number, "") for number in range(ROWS_SHOWN + 1, NEGATIVES + 1)]
            method = gr.Radio(
                [(label, key) for key, label in method_labels().items()],
                value=first[2],
                label="How",
                elem_id="negatives-method",
            )
            automatic = gr.Checkbox(
                False, label="weights by how present each is in the picture", elem_id="negatives-automatic"
            )
            beside = gr.Checkbox(True, label="beside it, what a classic negative prompt does")
            button = parts.buttons("Draw", "negatives")
            settings = parts.settings(studio, images=4)
            own = scales(studio.backend.suited)
            with gr.Accordion(f"Strength of {', '.join(own)}", open=False):
                said_of_own = ", ".join(f"{label} {value:g}" for label, value in own.items())
                scale = gr.Number(None, label="Scale", info=f"empty: what suits the model ({said_of_own})")
            parts.vocabulary(studio)
        with gr.Column(scale=3, min_width=320):
            said = gr.Markdown(
                label="What happened", elem_id="negatives-said", elem_classes="said", min_height=48
            )
            slider = parts.slider("Plain on the left, guided on the right; drag the line", "negatives-slider")
            gallery = parts.gallery(
                "The same seeds; click one to put it above", "negatives-gallery", columns=3
            )
            where, when = parts.acted()
            python, sheet = parts.to_take_away("negatives")
    inputs = [prompt, *(field for row in rows for field in row), method, beside, *settings, scale, automatic]
    outputs = [sheet, said, slider, gallery, where, when, python]
    strengths = [field for row in rows for field in row[1:]]

    def by_way(way: str, itself: bool) -> list[Any]:
        # Perp-Neg's weight and window are not those of the methods in attention space
        weight, start, stop = _strength(studio.backend, way, itself)
        return [
            value
            for _ in range(NEGATIVES)
            # each its own: Gradio takes updates apart
            for value in (gr.update(value=weight, interactive=not itself), start, stop)
        ]

    method.input(
        lambda way: [
            gr.update(value=weighs_itself(way), visible=weighs_itself(way)),
            *by_way(way, weighs_itself(way)),
        ],
        method,
        [automatic, *strengths],
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
    automatic.input(
        by_way,
        [method, automatic],
        strengths,
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )

    def values_of(words: str, negatives: Sequence[str], way: str) -> list[tuple[Any, Any]]:
        itself = weighs_itself(way)
        begun = by_way(way, itself)
        named = [gr.update(value=itself, visible=itself), words, way, *_filled_up(negatives), *begun]
        return list(
            zip([automatic, prompt, method, *(row[0] for row in rows), *strengths], named, strict=True)
        )

    gallery.select(actions.show_seed, gallery, slider, api_visibility="private", show_progress="hidden")
    events = parts.wire(
        actions.leave_out,
        inputs,
        outputs,
        triggers=[button.draw.click, prompt.submit, rows[0][0].submit],
        api_name="leave_out",
        progress_on=said,
        filled={
            example: values_of(*chosen) for example, chosen in zip(tries, EXAMPLES.values(), strict=True)
        },
    )
    # not the components' own values, which are the defaults of the API
    return parts.Tab(events, button.stop, outputs, said, begin=values_of(*first))


def _row(studio: Studio, number: int, value: str) -> list[Any]:
    """What to leave out, its weight and its window."""
    usual = studio.backend.strength()
    with gr.Group():
        text = gr.Textbox(
            value,
            label="Leave out" if number == 1 else f"Leave out ({number})",
            elem_id=f"negatives-negative-{number}",
            max_lines=2,
        )
        with gr.Row():
            weight = gr.Slider(
                0,
                5,
                usual[0],
                step=0.1,
                label="Weight",
                min_width=130,
                buttons=[],
                elem_id=f"negatives-weight-{number}",
            )
            start = gr.Slider(0, 1, usual[1], step=0.05, label="From", min_width=130, buttons=[])
            stop = gr.Slider(0, 1, usual[2], step=0.05, label="Until", min_width=130, buttons=[])
    return [text, weight, start, stop]
