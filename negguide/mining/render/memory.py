"""Painted batches in storage, so that a run that dies in the middle of a shard does not paint them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from negguide.image_files import png_of, read_image
from negguide.mining.packed import pack, unpack
from negguide.mining.render.job import Job, Painter
from negguide.storage import write_whole


class Memory:
    """A painter that paints batch by batch, and keeps each batch in a folder until the shard is complete.

    Batches are remembered whole: what an image's last bits are may depend on the size of its batch.

    Args:
        painter: what paints.
        folder: of the shard's batches.
        painted: is told the number of images after each batch that was painted, and not found.

    Raises:
        OSError: the disk is full, or cannot be written; the batches before stay.
    """

    def __init__(self, painter: Painter, folder: Path, painted: Callable[[int], None]) -> None:
        self.painter, self.folder, self.painted = painter, folder, painted

    def __call__(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One image for each job, in their order."""
        images: dict[int, Image.Image] = {}
        for places in self.painter.batches(jobs):
            batch = [jobs[place] for place in places]
            images |= zip(places, self._batch(batch), strict=True)
        return [images[place] for place in range(len(jobs))]

    def batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Those of the painter."""
        return self.painter.batches(jobs)

    def refusal(self, job: Job) -> str | None:
        """That of the painter."""
        return self.painter.refusal(job)

    def _batch(self, jobs: Sequence[Job]) -> list[Image.Image]:
        kept = self.folder / f"{_digest(jobs)}.tar"
        if kept.is_file():
            return [
                read_image(content, name=f"{kept}: {name}")
                for name, content in unpack(kept.read_bytes()).items()
            ]
        images = self.painter(jobs)
        try:
            content, _ = pack((f"{place:04d}.png", png_of(image)) for place, image in enumerate(images))
            write_whole(kept, content)
        except OSError as error:
            raise OSError(
                f"what was painted cannot be written to {self.folder}: {error.strerror or error}; all that was painted "
                "before is kept, and the same command goes on from there"
            ) from error
        self.painted(len(images))
        return images


def _digest(jobs: Sequence[Job]) -> str:
    return hashlib.sha256(json.dumps([_said(job) for job in jobs]).encode()).hexdigest()[:16]


def _said(job: Job) -> list[object]:
    pixels = [
        None if image is None else hashlib.sha256(image.tobytes()).hexdigest()
        for image in (job.image, job.mask)
    ]
    return [job.prompt, job.seed, job.avoid, job.weight, job.group, *pixels]
