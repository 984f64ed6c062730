"""Shards that are made together: each says what it needs painted and scored, and batches hold what all need.

Most tries pass at once and a few are repeated: the retries of one shard would fill a corner of a batch. So the shards
of a group go on in step, and each step is painted for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from negguide.mining.mined import Mined
from negguide.mining.render.job import Job


@dataclass(frozen=True)
class Painting:
    """Asks for one image of each job; answered by a list of images."""

    jobs: Sequence[Job]


@dataclass(frozen=True)
class Scoring:
    """Asks how well image i and caption i fit; answered by a list of floats."""

    images: Sequence[Image.Image]
    captions: Sequence[str]


T = TypeVar("T")
Part = Generator[Painting | Scoring, Any, T]
"""A part of the way: it yields what it needs, is sent the answer, and returns what came out."""
Steps = Part[Mined]
"""The whole way of a shard."""


def made_together(
    shards: Sequence[Steps],
    paint: Callable[[Sequence[Job]], list[Image.Image]],
    score: Callable[[Sequence[Image.Image], Sequence[str]], list[float]],
) -> list[Mined]:
    """Go through the steps of all shards until each has come out; the same for the same shards in the same order.

    All that want to score do so before any paints: then most want to paint at once.

    Args:
        paint: one image for each job, in their order.
        score: of image i with caption i.
    """
    done: dict[int, Mined] = {}
    asked: dict[int, Painting | Scoring] = {}

    def go_on(shard: int, answer: Any) -> None:
        try:
            asked[shard] = shards[shard].send(answer)
        except StopIteration as end:
            done[shard] = end.value

    for shard in range(len(shards)):
        go_on(shard, None)
    while asked:
        scoring = {shard: one for shard, one in sorted(asked.items()) if isinstance(one, Scoring)}
        painting = {shard: one for shard, one in sorted(asked.items()) if isinstance(one, Painting)}
        answers: list[Any]
        if scoring:
            sizes = {shard: len(one.images) for shard, one in scoring.items()}
            images = [image for one in scoring.values() for image in one.images]
            answers = score(images, [caption for one in scoring.values() for caption in one.captions])
        else:
            sizes = {shard: len(one.jobs) for shard, one in painting.items()}
            answers = paint([job for one in painting.values() for job in one.jobs])
        start = 0
        for shard, size in sizes.items():
            del asked[shard]
            go_on(shard, answers[start : start + size])
            start += size
    return [done[shard] for shard in range(len(shards))]
