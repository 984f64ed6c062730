"""What mining asks of a model: one job an image, and a callable that paints jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from negguide.mining.item import Edit, Source

Mode = Literal["generate", "edit", "inpaint"]
"""Paint from the prompt alone, change an image, or change it inside a mask."""
RenderMethod = Literal["perp-neg", "negative-prompt", "plain"]
"""How a painter avoids what a job says: by Perp-Neg, by the classic negative prompt, or not at all."""


@dataclass(frozen=True)
class Job:
    """One image to be painted; what comes out depends on nothing but the job and the painter's settings.

    Attributes:
        prompt: what to paint.
        seed: of the image's own noise, 0 <= seed < 2**53.
        avoid: what must not be seen, as a phrase; empty = nothing.
        weight: how strongly it is avoided.
        image: what to start from, for painters that change an image.
        mask: of ``image``'s size (L): white where it may change.
        group: jobs of one group are pushed away from each other, by painters that do so.
    """

    prompt: str
    seed: int
    avoid: str = ""
    weight: float = 1.0
    image: Image.Image | None = None
    mask: Image.Image | None = None
    group: str = ""


class Painter(Protocol):
    """Paints one image for each job, in their order."""

    def __call__(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One image for each job."""
        ...

    def batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """The places of the jobs that it paints at once: called with these jobs alone it paints the same."""
        ...

    def refusal(self, job: Job) -> str | None:
        """Why this job cannot be painted (too long a prompt), as one short stable phrase; None when it can."""
        ...


class NoRegionError(ValueError):
    """There is no region for this edit; the message is one short stable phrase."""


class Region(Protocol):
    """Says where an image may change for an edit: a mask (L, white where it may) of the image's size.

    Raises:
        NoRegionError: when there is none.
    """

    def __call__(self, source: Source, edit: Edit, image: Image.Image) -> Image.Image:
        """The mask for one edit of an image."""
        ...
