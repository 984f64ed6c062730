"""The toy world as an input: as many pairs as one likes, none of them stored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from negguide.mining.item import Source
from negguide.mining.sources.source import BadSource, Input
from negguide.toyworld.domain import TOYWORLD
from negguide.toyworld.edits import meaning
from negguide.toyworld.language import caption
from negguide.toyworld.render import render
from negguide.toyworld.scene import held_out, sample_scene


class ToyworldScenes(Input):
    """``count`` different complete scenes of the training split, the same ones for the same ``seed``.

    The first scenes do not depend on ``count``.

    Args:
        count: how many pairs.
        seed: other scenes for another seed.
        size: of the images, in pixels.
    """

    world = TOYWORLD
    licence = "apache-2.0"

    def __init__(self, count: int, seed: int = 0, size: int = 64) -> None:
        if count < 1:
            raise ValueError(f"toyworld:{count} is no input; use toyworld:1 or more")
        self.name = f"toyworld:{count}"
        self.count = count
        self.seed = seed
        self.size = size

    @property
    def description(self) -> dict[str, Any]:
        """What it is, as JSON, with its seed and size."""
        return {**super().description, "seed": self.seed, "size": self.size}

    def rows(self) -> Iterator[Source | BadSource]:
        """The scenes, none of them twice."""
        rng = random.Random(f"mine-{self.seed}")
        seen: set[tuple[object, ...]] = set()
        while len(seen) < self.count:
            scene = sample_scene(rng)
            if held_out(scene) or meaning(scene) in seen:
                continue
            yield Source(
                id=f"toyworld-{len(seen):06d}",
                caption=caption(scene),
                load=partial(render, scene, self.size),
                licence=self.licence,
            )
            seen.add(meaning(scene))
