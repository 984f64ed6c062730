"""Numbers beside the pictures: by the judge of a closed world; for other models by a CLIP judge, where there is one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from negguide.benchmark.suites import Check
from negguide.demo.backend import Backend
from negguide.domain import DomainJudge
from negguide.mining.verify.judge import ClipJudge


def agree(reader: DomainJudge, images: Sequence[Image.Image], text: str) -> int:
    """How many of the images show all that `text` says."""
    return sum(reader.shows(images, text))


def still(reader: DomainJudge, images: Sequence[Image.Image], text: str) -> int:
    """In how many of the images what was to be left out is there all the same, be it beside something else."""
    check = Check(text, "", f"Is there {text} in the picture?", yes=False, shown=False)
    return sum(verdict.passed is False for verdict in reader.verdicts(images, [check] * len(images)))


def different(values: Sequence[str | None]) -> int:
    """How many values there are, those that cannot be read aside."""
    return len({value for value in values if value is not None})


def entropy(values: Sequence[str | None]) -> float:
    """Entropy of the values over its maximum for as many: 0 = all the same, 1 = all different."""
    n = len(values)
    return abs(sum(count / n * math.log(count / n) for count in Counter(values).values())) / math.log(n)


def features(backend: Backend, images: Sequence[Image.Image]) -> Tensor | None:
    """Unit vectors, [len(images), d], whose cosine says how alike two images are; None where nothing looks at them."""
    if backend.reader is not None:
        return backend.reader.features(images)
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
