"""What a score matrix says about a model: pure functions of scores, and intervals for their means.

A score is the similarity of an image and a text, the higher the closer. A tie never counts as right: a model that
gives everything the same score has understood nothing. Nor does an item of which a score is NaN or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from negguide._utils.stats import Z95, wilson


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, and the number of outcomes it is made of."""

    value: float
    low: float
    high: float
    n: int


def text_correct(scores: Tensor) -> Tensor:
    """Winoground's text score: each image takes its own caption, s(C0,I0) > s(C1,I0) and s(C1,I1) > s(C0,I1).

    Args:
        scores: [N, 2, 2], `scores[n, i, c]` of image i and caption c; the diagonal is what belongs together.

    Returns:
        bool [N]; 25% is chance.

    Source: arXiv 2204.03162.
    """
    _check_pairs(scores)
    better = (scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])
    return better & scores.isfinite().flatten(1).all(dim=1)


def image_correct(scores: Tensor) -> Tensor:
    """Winoground's image score: each caption takes its own image, s(C0,I0) > s(C0,I1) and s(C1,I1) > s(C1,I0).

    Arguments and chance as in `text_correct`.
    """
    _check_pairs(scores)
    better = (scores[:, 0, 0] > scores[:, 1, 0]) & (scores[:, 1, 1] > scores[:, 0, 1])
    return better & scores.isfinite().flatten(1).all(dim=1)


def group_correct(scores: Tensor) -> Tensor:
    """Winoground's group score: text and image score together; 1/6 is chance for independent scores."""
    return text_correct(scores) & image_correct(scores)


def choice_correct(scores: Tensor, answer: Tensor) -> Tensor:
    """The right option beats every other one: s[n, answer] > max of the rest.

    SugarCrepe is the case of two options, zero-shot classification the one where options are classes.

    Args:
        scores: [N, K], K >= 2; options that an item does not have are -inf.
        answer: int64 [N].

    Returns:
        bool [N]; 1/K is chance.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"scores has shape {list(scores.shape)}; a choice needs [N, K] with at least two options"
        )
    right = scores.gather(1, answer[:, None])[:, 0]
    others = scores.scatter(1, answer[:, None], -torch.inf).amax(dim=1)
    return (right > others) & right.isfinite()


def retrieved(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """R@k: is something relevant among the first k of the gallery?

    A wrong entry with the same score goes before a right one, so ties lose; so does one whose score is not finite, and
    a query with such a score of a right entry is wrong.

    Args:
        scores: [Q, G] of queries and gallery entries.
        relevant: bool [Q, G], at least one True in every row.

    Returns:
        bool [Q].
    """
    if not bool(relevant.any(dim=1).all()):
        raise ValueError("relevant has a query without anything relevant; it can never be answered")
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    # not >=, which is false for NaN
    before = ((~(scores < best) | ~scores.isfinite()) & ~relevant).sum(dim=1)
    return (before < k) & (scores.isfinite() | ~relevant).all(dim=1)


def hard_positives_correct(caption: Tensor, paraphrases: Tensor, negative: Tensor) -> Tensor:
    """Do the caption *and* all its paraphrases beat the negative caption, min(s(C), s(P1), ...) > s(C')?

    A model that learned "other words, other meaning" gets the caption right and fails here (arXiv 2409.17958).

    Args:
        caption, negative: [N], scores with the caption's image.
        paraphrases: [N, P]; +inf where an item has fewer.

    Returns:
        bool [N]; 1/(P + 2) is chance.
    """
    worst = torch.minimum(caption, paraphrases.amin(dim=1))
    return (worst > negative) & caption.isfinite() & negative.isfinite()


def proportion(outcomes: Tensor | Sequence[bool]) -> Estimate:
    """Proportion of True with Wilson's score interval.

    Raises:
        ValueError: when there are no outcomes.
    """
    flags = torch.as_tensor(outcomes, dtype=torch.bool)
    n = flags.numel()
    if n == 0:
        raise ValueError("outcomes is empty; a proportion needs at least one")
    p = int(flags.sum()) / n
    return Estimate(p, *wilson(p, n), n)


def mean(values: Tensor | Sequence[float]) -> Estimate:
    """Mean with its normal interval, m ± z s / sqrt(n).

    Raises:
        ValueError: when there are no values.
    """
    data = torch.as_tensor(values, dtype=torch.float64)
    n = data.numel()
    if n == 0:
        raise ValueError("values is empty; a mean needs at least one")
    centre = float(data.mean())
    half = Z95 * float(data.std()) / math.sqrt(n) if n > 1 else 0.0
    return Estimate(centre, centre - half, centre + half, n)


def macro(outcomes: Tensor, groups: Sequence[str], *, samples: int = 2000) -> Estimate:
    """Mean over the groups of the proportion of True in each: every group counts the same, whatever its size.

    The interval is the bootstrap's within the groups (percentiles of `samples` resamplings, fixed seed).

    Raises:
        ValueError: when there are no outcomes.
    """
    if len(groups) == 0:
        raise ValueError("outcomes is empty; a mean over groups needs at least one")
    rng = np.random.default_rng(0)
    values, draws = [], np.zeros(samples)
    for group in sorted(set(groups)):
        flags = outcomes[torch.tensor([g == group for g in groups])]
        values.append(float(flags.float().mean()))
        draws += rng.binomial(len(flags), values[-1], samples) / len(flags)
    low, high = np.percentile(draws / len(values), (2.5, 97.5))
    return Estimate(sum(values) / len(values), float(low), float(high), len(groups))


def difference(after: Estimate, before: Estimate) -> Estimate:
    """after - before with the interval that the two intervals give (Newcombe 1998, method 10, independent proportions).

    d - sqrt((a - a_low)² + (b_high - b)²) to d + sqrt((a_high - a)² + (b - b_low)²). Two models that answer the same
    items agree on most of them, so the true interval is narrower.
    """
    d = after.value - before.value
    low = math.hypot(after.value - after.low, before.high - before.value)
    high = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(d, d - low, d + high, after.n)


def _check_pairs(scores: Tensor) -> None:
    if scores.ndim != 3 or scores.shape[1:] != (2, 2):
        raise ValueError(f"scores has shape {list(scores.shape)}; two images and two captions need [N, 2, 2]")
