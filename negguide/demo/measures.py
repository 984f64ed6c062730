"""Numbers beside the pictures. The embedded model's judge reads them; for other models there is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from PIL import Image

from negguide.toyworld import is_trademark, load_judge, parse
from negguide.toyworld.measure import agreement


def agree(images: Sequence[Image.Image], text: str) -> int:
    """How many of the images show all that `text` says."""
    said = parse(text)
    return sum(all(agreement(said, seen).values()) for seen in load_judge().read(images))


def fur_entropy(images: Sequence[Image.Image]) -> float:
    """Entropy of the fur colours over its maximum for as many images: 0 = all the same, 1 = all different."""
    seen = load_judge().read(images)
    furs = Counter(scene.characters[0].fur if scene.characters else None for scene in seen)
    n = len(images)
    return abs(sum(count / n * math.log(count / n) for count in furs.values())) / math.log(n)


def pairwise_distance(images: Sequence[Image.Image]) -> float:
    """Mean of 1 - cosine of the judge's features over all pairs of the images."""
    features = load_judge().embed(images)
    n = len(images)
    similar = features @ features.T
    return float(1 - (similar.sum() - similar.diagonal().sum()) / (n * (n - 1)))


def distances(images: Sequence[Image.Image], reference: Image.Image) -> list[float]:
    """1 - cosine of the judge's features between each image and the reference."""
    judge = load_judge()
    cosines = judge.embed(images) @ judge.embed([reference])[0]
    return [float(1 - cosine) for cosine in cosines]


def trademarks(images: Sequence[Image.Image]) -> int:
    """How many of the images show the trademark character alone."""
    seen = load_judge().read(images)
    return sum(scene.count == 1 and is_trademark(scene.characters[0]) for scene in seen)
