"""The action behind the tab "Leave out": a prompt with things left out, by each method, beside the plain picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from negguide import Negative
from negguide.demo.as_python import code
from negguide.demo.backend import Drawn, Run, first_and_rest, joined
from negguide.demo.measures import agree, still
from negguide.demo.messages import JUDGE, as_markdown, validation_messages, verdict, what_happened
from negguide.demo.methods import CLASSIC, PLAIN, method_labels, with_method
from negguide.demo.state import AppState
from negguide.domain import DomainJudge
from negguide.methods import AUTO

NEGATIVES = 4
"""Things that can be left out at once."""
BESIDE = "also draw what a classic negative prompt does"
"""What the page calls `beside`."""


@dataclass(frozen=True, eq=False)
class Negatives:
    """The actions of the tab."""

    state: AppState

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
            The labelled pictures as one PNG, what happened, the first seed by a classic negative prompt (or plain) and
            by the method, all pictures, where the negatives acted, how much at each step, the settings as Python code,
            the same in numbers, and what the two pictures are.
        """
        with validation_messages():
            plain = self.state.plain(prompt, images, seed, steps, guidance_scale, size)
            said = (
                (negative_1, weight_1, start_1, stop_1),
                (negative_2, weight_2, start_2, stop_2),
                (negative_3, weight_3, start_3, stop_3),
                (negative_4, weight_4, start_4, stop_4),
            )
            if automatic:
                self._check_weights([weight for _, weight, _, _ in said])
            negatives = [
                self.state.negative(text, AUTO if automatic else weight, start, stop)
                for text, weight, start, stop in said
                if text and text.strip()
            ]
            if not negatives and method != PLAIN:
                raise ValueError("Nothing to leave out; write it below the prompt, like “black glasses”.")
            columns = self._columns(plain, method, negatives, scale, beside)
        names = () if method == PLAIN else tuple(negative.prompt for negative in negatives)
        parts_of = {key: first_and_rest(run) for key, run in columns.items()}
        with self.state.drawing(
            request, progress, [part for parts in parts_of.values() for part in parts]
        ) as draw:
            drawn: dict[str, list[Drawn]] = {key: [] for key in columns}
            # those that go into the slider first
            order = list(dict.fromkeys([_left(columns), method, *columns]))
            labels = method_labels()
            for turn in range(len(parts_of[PLAIN])):
                for key in order:
                    drawn[key].append(draw(parts_of[key][turn], labels[key]))
                    if turn == 0:
                        yield self._so_far(columns, drawn, method)
            yield self._all(columns, {key: joined(parts) for key, parts in drawn.items()}, method, names)

    def show_seed(
        self, pictures: list[tuple[str, str]], event: gr.SelectData
    ) -> tuple[tuple[str, str], str, int, Any]:
        """Put the seed of the picture that was clicked into the slider."""
        with validation_messages():
            if not isinstance(event.index, int) or not 0 <= event.index < len(pictures or ()):
                raise ValueError("There is no such picture any more; click one that is shown.")
        seed, _, _ = pictures[event.index][1].partition(" · ")
        row = [(path, caption) for path, caption in pictures if caption.partition(" · ")[0] == seed]
        (left, said_left), (right, said_right) = row[max(len(row) - 2, 0)], row[-1]
        number = int(seed.removeprefix("seed "))
        labels = [caption.partition(" · ")[2] for caption in (said_left, said_right)]
        return (left, right), sides_of(labels[0], labels[1], number), number, gr.update(value=use_of(number))

    def _check_weights(self, weights: Sequence[float]) -> None:
        usual, _, _ = self.state.backend.strength()
        for number, weight in enumerate(weights, start=1):
            if weight != usual:
                raise ValueError(
                    f"automatic takes the place of weight_{number}={weight:g}; leave out one of the two"
                )

    def _columns(
        self, plain: Run, method: str, negatives: list[Negative], scale: float | None, beside: bool
    ) -> dict[str, Run]:
        """What is drawn, from left to right; plain is the first and the asked-for method the last."""
        model = self.state.backend.model
        columns = {PLAIN: plain}
        if beside and negatives and plain.guidance_scale > 1 and method not in (PLAIN, CLASSIC):
            try:
                columns[CLASSIC] = with_method(plain, CLASSIC, negatives, None, model)
            except ValueError as error:
                raise ValueError(f"{error}; leave out fewer things, or untick “{BESIDE}”") from error
        columns[method] = with_method(plain, method, negatives, scale, model)
        for run in columns.values():
            self.state.backend.arguments(run)
        return columns

    def _so_far(self, columns: dict[str, Run], drawn: dict[str, list[Drawn]], method: str) -> tuple[Any, ...]:
        first = {key: parts[0].images[0] for key, parts in drawn.items() if parts}
        seed = columns[PLAIN].seeds[0]
        gallery = [(self.state.shown(first[key]), _caption(seed, key)) for key in columns if key in first]
        left = _left(columns)
        slider, sides = gr.skip(), gr.skip()
        if method in first and left in first:
            slider = (self.state.shown(first[left]), self.state.shown(first[method]))
            sides = sides_of(method_labels()[left], method_labels()[method], seed)
        return gr.skip(), gr.skip(), slider, gallery, *[gr.skip()] * 4, sides

    def _all(
        self, columns: dict[str, Run], drawn: dict[str, Drawn], method: str, names: tuple[str, ...]
    ) -> tuple[Any, ...]:
        backend, run, plain = self.state.backend, columns[method], columns[PLAIN]
        title = f"“{run.prompt}”" + (f" minus {' and '.join(f'“{name}”' for name in names)}" if names else "")
        labels = method_labels()
        listed = [(labels[key], columns[key], drawn[key].images) for key in columns]
        gallery = [
            (self.state.shown(drawn[key].images[i]), _caption(seed, key))
            for i, seed in enumerate(plain.seeds)
            for key in columns
        ]
        left = _left(columns)
        return (
            self.state.sheet(listed, title),
            self._verdict(columns, drawn, method, names),
            (self.state.shown(drawn[left].images[0]), self.state.shown(drawn[method].images[0])),
            gallery,
            self.state.heatmap(drawn[method]),
            self.state.curves(drawn[method]),
            code(backend, list(columns.items())),
            self._numbers(columns, drawn, method, names),
            sides_of(labels[left], labels[method], plain.seeds[0]),
        )

    def _verdict(
        self, columns: dict[str, Run], drawn: dict[str, Drawn], method: str, names: tuple[str, ...]
    ) -> str:
        """What happened in plain words; for the embedded model, counted by its judge."""
        run, label = columns[method], method_labels()[method]
        if not names:
            return "**Nothing was left out.** Write it below the prompt, and choose how."
        reader = self.state.backend.reader
        if reader is None:
            left = method_labels()[_left(columns)]
            return (
                f"**The same seeds and words: {left} against {label}.** Look at what was asked for, and at what was to "
                "go."
            )
        images = drawn[method].images
        kept = {"method": agree(reader, images, run.prompt)}
        if CLASSIC in columns and method != CLASSIC:
            kept["classic"] = agree(reader, drawn[CLASSIC].images, run.prompt)
        gone = {name: len(images) - still(reader, images, name) for name in names}
        return verdict(label, run.prompt, kept, gone, len(images))

    def _numbers(
        self, columns: dict[str, Run], drawn: dict[str, Drawn], method: str, names: tuple[str, ...]
    ) -> str:
        """How much the negatives overlap the prompt, and for the embedded model a table of what the judge sees."""
        run = columns[method]
        lines = [what_happened(run.methods[0] if run.methods else None, drawn[method].trace, names)]
        reader = self.state.backend.reader
        if reader is not None and names:
            lines += ["", *_counted(reader, columns, drawn, names), "", JUDGE]
        return "\n".join(lines)


def _counted(
    reader: DomainJudge, columns: dict[str, Run], drawn: dict[str, Drawn], names: Sequence[str]
) -> list[str]:
    """A table of what the judge sees."""
    prompt = columns[PLAIN].prompt
    labels = method_labels()
    heads = "".join(f" {labels[key]} |" for key in columns)
    lines = [f"| what the judge sees |{heads}", "|---|" + "---|" * len(columns)]
    for text, label, count_of in ((prompt, "all of", agree), *((name, "still", still) for name in names)):
        counts = (count_of(reader, drawn[key].images, text) for key in columns)
        cells = "".join(f" {count} of {len(drawn[PLAIN].images)} |" for count in counts)
        lines.append(f"| {label} *{as_markdown(text)}* |{cells}")
    return lines


def _left(columns: Iterable[str]) -> str:
    """What the method is held against: a classic negative prompt, where it is drawn beside it."""
    *others, _ = columns
    return others[-1] if others else PLAIN


def sides_of(left: str, right: str, seed: int) -> str:
    """What the two pictures of the slider are."""
    return f"Left **{left}**, right **{right}**, seed {seed}. Drag the line, or move it with the arrow keys."


def use_of(seed: int) -> str:
    """What the button says that takes a seed over."""
    return f"Use seed {seed}"


def _caption(seed: int, key: str) -> str:
    return f"seed {seed} · {method_labels()[key]}"
