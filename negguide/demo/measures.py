"""Numbers beside the pictures: by the embedded model's judge; for other models by a CLIP judge, where there is one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from negguide.demo.backend import Backend
from negguide.mining.verify.judge import ClipJudge
from negguide.toyworld import is_trademark, load_judge, parse
from negguide.toyworld.measure import agreement
from negguide.views import SolidFit
from negguide.views.embedded import as_image


def agree(images: Sequence[Image.Image], text: str) -> int:
    """How many of the images show all that `text` says."""
    said = parse(text)
    return sum(all(agreement(said, seen).values()) for seen in load_judge().read(images))


def fur_colours(images: Sequence[Image.Image]) -> int:
    """How many fur colours the images show."""
    seen = load_judge().read(images)
    return len({scene.characters[0].fur for scene in seen if scene.characters})


def fur_entropy(images: Sequence[Image.Image]) -> float:
    """Entropy of the fur colours over its maximum for as many images: 0 = all the same, 1 = all different."""
    seen = load_judge().read(images)
    furs = Counter(scene.characters[0].fur if scene.characters else None for scene in seen)
    n = len(images)
    return abs(sum(count / n * math.log(count / n) for count in furs.values())) / math.log(n)


BACK = tuple(range(135, 226, 15))
"""Azimuths from which a solid is seen from behind, in degrees."""


def faces_at_the_back(fit: SolidFit) -> tuple[int, int]:
    """From how many azimuths a solid was looked at from behind, and in how many of the pictures there is a face."""
    images = [as_image(picture) for picture in fit.turntable(tuple(float(at) for at in BACK))]
    seen = load_judge().read(images)
    return len(BACK), sum(bool(scene.characters) and scene.characters[0].view == "front" for scene in seen)


def features(backend: Backend, images: Sequence[Image.Image]) -> Tensor | None:
    """Unit vectors, [len(images), d], whose cosine says how alike two images are; None where nothing looks at them."""
    if backend.toyworld:
        return load_judge().embed(images)
    judge = backend.judge
    if not isinstance(judge, ClipJudge):
        return None
    return judge.towers.encode_images(images)


def pairwise_distance(vectors: Tensor) -> float:
    """Mean of 1 - cosine over all pairs of the unit vectors [n, d]."""
    n = len(vectors)
    similar = vectors @ vectors.T
    return float(1 - (similar.sum() - similar.diagonal().sum()) / (n * (n - 1)))


def distance(vectors: Tensor, reference: Tensor) -> float:
    """Mean of 1 - cosine between the unit vectors [n, d] and the one of the reference, [1, d]."""
    return float(1 - (vectors @ reference[0]).mean())


def trademarks(images: Sequence[Image.Image]) -> int:
    """How many of the images show the trademark character alone."""
    seen = load_judge().read(images)
    return sum(scene.count == 1 and is_trademark(scene.characters[0]) for scene in seen)
