"""What every tab shares: the model, its limits, one visitor's run with its progress, and pictures to show."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import gradio as gr
from gradio.context import LocalContext
from PIL import Image

from negguide import Negative, plot_maps, plot_trace
from negguide.demo.backend import Backend, Drawn, Run
from negguide.demo.clients import Clients
from negguide.demo.limits import GRAIN, Limits, text, whole
from negguide.demo.messages import complaint, validation_messages, weighted
from negguide.demo.outputs import Outputs
from negguide.demo.stopping import NotWantedError, StoppedError, Stops
from negguide.methods import AUTO, negatives_of
from negguide.methods.validation import number
from negguide.models import revision
from negguide.pictures import file_name, grid, save_png, versions
from negguide.version import __version__

SHOWN = 384
"""Smaller pictures are enlarged by a whole factor to at least so many pixels before they are shown."""
MAX_SHOWN = 1 << 22
"""Pixels of a picture that was enlarged."""
MAX_SEED = 2**31 - 1
MAX_WEIGHT = 100
"""Of what is left out."""

Draw = Callable[[Run, str], Drawn]


class Step(Protocol):
    """Says that a step begins, and under which title; `count` of them are done then."""

    def __call__(self, title: str, count: int = 1) -> threading.Event:
        """Begin a step of so many pictures under this title; the event is set when the visitor stops it."""
        ...


@dataclass(frozen=True, eq=False)
class AppState:
    """The backend, and what holds for everybody who uses it."""

    backend: Backend
    limits: Limits
    outputs: Outputs
    clients: Clients
    stops: Stops = field(default_factory=Stops)
    lasting: bool = False
    """Whether what is written stays as long as the page."""

    def plain(
        self,
        prompt: str,
        images: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        size: int,
        least: int = 1,
    ) -> Run:
        """The run without any negative, from the settings that all tabs have.

        Raises:
            TypeError, ValueError: naming the setting, its value and what would be right.
        """
        limits = self.limits
        first = whole("seed", seed, 0, MAX_SEED)
        count = whole("images", images, least, limits.max_images)
        if not 0 <= guidance_scale <= 30:
            raise ValueError(f"guidance scale must be from 0 to 30, got {guidance_scale}")
        chosen = None
        if self.backend.resizable:
            chosen = whole("size", size, GRAIN, limits.max_size)
            if chosen % GRAIN:
                raise ValueError(f"size must be a multiple of {GRAIN}, got {chosen}")
        return Run(
            prompt=self.words("prompt", prompt),
            steps=whole("steps", steps, 1, limits.max_steps),
            guidance_scale=float(guidance_scale),
            seeds=tuple(range(first, first + count)),
            size=chosen,
        )

    @property
    def size(self) -> int:
        """Pixels along an edge to begin with: the model's own, or the largest that may be asked for."""
        return max(min(self.backend.size, self.limits.max_size) // GRAIN, 1) * GRAIN

    def words(self, name: str, value: str) -> str:
        """A prompt or a negative that the model can read.

        Raises:
            ValueError: when it is empty, too long, or not in the embedded model's language.
        """
        stripped = text(name, value)
        if not stripped:
            example = (
                "to leave out, like “black glasses”"
                if name == "negative"
                else "to draw, like “a bear wearing glasses”"
            )
            raise ValueError(f"The {name} is empty; write what {example}.")
        domain = self.backend.domain
        wrong = weighted(stripped) or (None if domain is None else complaint(stripped, domain.language()))
        if wrong:
            raise ValueError(wrong)
        return stripped

    def negative(self, value: str, weight: float | Literal["auto"], start: float, stop: float) -> Negative:
        """What to leave out, from one row of a page.

        Raises:
            TypeError, ValueError: naming what is wrong in the words of the page.
        """
        prompt = self.words("negative", value)
        if weight != AUTO and not 0 <= number("weight", weight) <= MAX_WEIGHT:
            raise ValueError(f"The weight of “{prompt}” must be from 0 to {MAX_WEIGHT}, got {weight:g}.")
        if not 0 <= start < stop <= 1:
            raise ValueError(
                f"“{prompt}” must begin to act before it ends: from a share of the steps, 0 to 1, until a later one; "
                f"got from {start:g} until {stop:g}."
            )
        return Negative(prompt, weight, start, stop)

    def stop(self, session: str | None) -> None:
        """A visitor stops what is drawn, and what waits; without a session there is nobody who could."""
        if session is not None:
            self.clients.start_over(session)
            self.stops.stop(session)

    @contextmanager
    def working(
        self, request: gr.Request, progress: Callable[..., Any], total: int, unit: str
    ) -> Iterator[Step]:
        """A function to be called before each of `total` steps, with what is done; it gives the flag of Stop.

        It ends the work when the same visitor pressed Stop, or has gone; errors become messages on the page.
        """
        done = 0
        with validation_messages(), self.stops.running(request.session_hash) as stop:
            event_id = LocalContext.event_id.get(None)

            def step(title: str, count: int = 1) -> threading.Event:
                nonlocal done
                if stop.is_set():
                    raise StoppedError
                if not self.clients.waits_for(event_id):
                    raise NotWantedError
                progress((done, total), desc=title, unit=unit)
                done += count
                return stop

            yield step

    @contextmanager
    def drawing(
        self, request: gr.Request, progress: Callable[..., Any], runs: Sequence[Run]
    ) -> Iterator[Draw]:
        """A function that draws one of `runs` under a title, with one progress bar over all of them.

        Stop, pressed by the same visitor, ends it, and so does a client that has gone; errors become messages on the
        page.
        """
        total = sum(run.steps for run in runs)
        with validation_messages(), self.working(request, progress, total, "steps") as step:
            self._check_budget(runs)
            for run in runs:
                check_windows(run)

            def draw(run: Run, title: str) -> Drawn:
                stop = step(title, 0)
                if self.lasting:
                    # drawn for nobody yet
                    self.clients.let_go_first(stop)
                return self.backend.of(run).draw(run, lambda: step(title), stop)

            yield draw

    def _check_budget(self, runs: Sequence[Run]) -> None:
        asked, most = sum(run.evaluations for run in runs), self.limits.max_evaluations
        if asked > most:
            raise ValueError(
                f"This would take {asked} evaluations of the model (images × steps × predictions); {most} are made in "
                "one go. Ask for fewer images, steps, or things beside each other."
            )

    def folder(self) -> Path:
        """A new folder for files that are served."""
        return self.outputs.new(lasting=self.lasting)

    def shown(self, image: Image.Image) -> str:
        """The picture as a file of this call, as large as a page wants it; its path.

        A picture in memory would be written by Gradio to a place that its content names, over what another visitor with
        the same picture is reading.
        """
        return self._file(enlarged(image))

    def heatmap(self, drawn: Drawn) -> str | None:
        """Where the negatives acted in each picture, as a file; None where none did."""
        if drawn.trace is None or not drawn.trace.maps:
            return None
        return self._file(plot_maps(drawn.trace, [enlarged(image) for image in drawn.images]))

    def curves(self, drawn: Drawn) -> str | None:
        """How much the negatives acted at each step, as a file; None without any."""
        return None if drawn.trace is None else self._file(plot_trace(drawn.trace))

    def _file(self, image: Image.Image) -> str:
        path = self.folder() / "picture.png"
        image.save(path)
        return str(path)

    def sheet(
        self,
        columns: Sequence[tuple[str, Run, Sequence[Image.Image]]],
        title: str,
        *,
        as_rows: bool = False,
    ) -> str:
        """A labelled picture of (label, run, images), written as a PNG with its settings inside; its path."""
        seeds = [f"seed {seed}" for seed in columns[0][1].seeds]
        labels = [label for label, _, _ in columns]
        rows = [list(images) for _, _, images in columns]
        if not as_rows:
            rows, labels, seeds = [list(row) for row in zip(*rows, strict=True)], seeds, labels
        # of each model its last column
        last = {self.backend.of(run).model: run for _, run, _ in columns}
        footer = "; ".join(
            f"{Path(model).name if Path(model).is_absolute() else model} · {run.steps} steps · guidance scale "
            f"{run.guidance_scale:g}"
            for model, run in last.items()
        )
        picture = grid(
            rows,
            row_labels=labels,
            column_labels=seeds,
            title=title,
            footer=f"{footer} · negguide {__version__}",
        )
        settings = {
            "command": "demo",
            "model": self.backend.model,
            "columns": [{"label": label, **run.to_dict()} for label, run, _ in columns],
            "revision": revision(self.backend.model),
            **({} if len(last) == 1 else {"revisions": {model: revision(model) for model in last}}),
            "versions": versions(),
        }
        path = self.folder() / f"{file_name(title)}.png"
        save_png(picture, path, settings)
        return str(path)


def check_windows(run: Run) -> None:
    """Refuse what would act in none of a run's steps, in the words of a page.

    Raises:
        ValueError: naming what, and what to change.
    """
    for method in run.methods:
        names = [f"“{one.prompt}”" for one in negatives_of([method])] or [method.label]
        for name, window in zip(names, method.windows, strict=True):
            # places on the noise schedule are known in the run alone
            if not window.by_timestep and not window.steps([None] * run.steps):
                steps = f"{run.steps} step" + "s" * (run.steps > 1)
                raise ValueError(
                    f"{name} would never act: the part from {window.start} to {window.stop} of {steps} holds none of "
                    "them. Ask for more steps, or let it act until later."
                )


def enlarged(image: Image.Image) -> Image.Image:
    """The picture as large as a page wants it, of at most `MAX_SHOWN` pixels where it was smaller."""
    factor = min(-(-SHOWN // min(image.size)), math.isqrt(MAX_SHOWN // (image.width * image.height)))
    if factor <= 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
