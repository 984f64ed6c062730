"""What every tab shares: the model, its limits, one visitor's run with its progress, and pictures to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from negguide import plot_maps, plot_trace
from negguide.demo.backend import Backend, Drawn, Run
from negguide.demo.limits import GRAIN, Limits, text, whole
from negguide.demo.outputs import Outputs
from negguide.demo.stopping import Stops
from negguide.demo.words import complaint, said_on_the_page
from negguide.models import revision
from negguide.pictures import file_name, grid, save_png, versions
from negguide.version import __version__

SHOWN = 384
"""Smaller pictures are enlarged by a whole factor to at least so many pixels before they are shown."""
MAX_SHOWN = 1 << 22
"""Pixels of a picture that was enlarged."""
MAX_SEED = 2**31 - 1

Draw = Callable[[Run, str], Drawn]


@dataclass(frozen=True, eq=False)
class Studio:
    """The backend, and what holds for everybody who uses it."""

    backend: Backend
    limits: Limits
    outputs: Outputs
    stops: Stops = field(default_factory=Stops)

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
            raise ValueError(f"The {name} is empty; write what to draw, like “a bear wearing glasses”.")
        wrong = complaint(stripped) if self.backend.toyworld else None
        if wrong:
            raise ValueError(wrong)
        return stripped

    @contextmanager
    def drawing(
        self, request: gr.Request, progress: Callable[..., Any], runs: Sequence[Run]
    ) -> Iterator[Draw]:
        """A function that draws one of `runs` under a title, with one progress bar over all of them.

        Stop, pressed by the same visitor, ends it; errors become messages on the page.
        """
        total = sum(run.steps for run in runs)
        done = 0
        with said_on_the_page(), self.stops.running(request.session_hash) as stop:

            def draw(run: Run, title: str) -> Drawn:
                def on_step() -> None:
                    nonlocal done
                    done += 1
                    progress((done, total), desc=title, unit="steps")

                progress((done, total), desc=title, unit="steps")
                return self.backend.draw(run, on_step, stop)

            yield draw

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
        path = self.outputs.new() / "picture.png"
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
        run = columns[-1][1]
        name = Path(self.backend.model).name if Path(self.backend.model).is_absolute() else self.backend.model
        footer = (
            f"{name} · {run.steps} steps · guidance scale {run.guidance_scale:g} · negguide {__version__}"
        )
        picture = grid(rows, row_labels=labels, column_labels=seeds, title=title, footer=footer)
        settings = {
            "command": "demo",
            "model": self.backend.model,
            "columns": [{"label": label, **run.to_dict()} for label, run, _ in columns],
            "revision": revision(self.backend.model),
            "versions": versions(),
        }
        path = self.outputs.new() / f"{file_name(title)}.png"
        save_png(picture, path, settings)
        return str(path)


def enlarged(image: Image.Image) -> Image.Image:
    """The picture as large as a page wants it, of at most `MAX_SHOWN` pixels where it was smaller."""
    factor = min(-(-SHOWN // min(image.size)), math.isqrt(MAX_SHOWN // (image.width * image.height)))
    if factor <= 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
