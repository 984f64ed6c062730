"""What a score matrix says about a model: pure functions of scores, and intervals for their means.

A score is the similarity of an image and a text, the higher the closer. A tie never counts as right: a model that
gives everything the same score has understood nothing. Nor does an item of which a score is NaN or infinite.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor

from negguide._utils.stats import Z95, wilson

DIFFERENCE_OF_COSINES = (-2.0, 2.0)
"""The least and the greatest."""
# fmt: off
STUDENT95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452,
)
# fmt: on
"""Student's quantile of a two-sided 95% interval for 1 to 29 degrees of freedom; beyond, the normal one serves."""


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
    return _estimate(int(flags.sum()) / n, n, n)


def mean(
    values: Tensor | Sequence[float], *, bounds: tuple[float, float] = DIFFERENCE_OF_COSINES
) -> Estimate:
    """Mean with Student's interval, m ± t s / sqrt(n), t of n - 1 degrees of freedom, as far as it lies in `bounds`.

    Where all values are equal, as a single one is, s says nothing. Then a share of at most u = z² / (n + z²) of all
    items can have another value, anywhere in `bounds` = (a, b), and the interval is m - u (m - a) to m + u (b - m). For
    values of 0 or 1 in (0, 1) that is Wilson's; for a single value it is most of `bounds`.

    Args:
        values: [N] or a list, in `bounds`.
        bounds: the least and the greatest that a value can be.

    Raises:
        ValueError: when there are no values.

    Source: Student 1908, Biometrika 6; Wilson 1927, Journal of the American Statistical Association 22, for u.
    """
    data = torch.as_tensor(values, dtype=torch.float64)
    n = data.numel()
    if n == 0:
        raise ValueError("values is empty; a mean needs at least one")
    if bool((data == data[0]).all()):
        value, unseen = float(data[0]), wilson(0, n)[1]
        return Estimate(value, value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value), n)
    centre = float(data.mean())
    quantile = STUDENT95[n - 2] if n - 2 < len(STUDENT95) else Z95
    half = quantile * float(data.std()) / math.sqrt(n)
    return Estimate(centre, max(bounds[0], centre - half), min(bounds[1], centre + half), n)


def macro(outcomes: Tensor, groups: Sequence[str]) -> Estimate:
    """Mean over the groups of the proportion of True in each: every group counts the same, whatever its size.

    The interval is Wilson's for the number of outcomes of which a simple proportion would be as sure,
    n = q (1 - q) / v. Here v = sum over k of q_k (1 - q_k) / n_k / K² is the variance of the mean over K groups, and q
    the mean of q_k = (x_k + 2) / (n_k + 4): with two right and two wrong outcomes more, a group without errors, or of
    one item, has its share of the doubt. Of a single group, or of groups that are all alike, it is Wilson's interval of
    all outcomes.

    Args:
        outcomes: bool [N].
        groups: the group of each.

    Raises:
        ValueError: when there are no outcomes.

    Source: Agresti and Coull 1998, The American Statistician 52 (two and two); Korn and Graubard 1998, Survey
    Methodology 24 (the effective number of outcomes).
    """
    if len(groups) == 0:
        raise ValueError("outcomes is empty; a mean over groups needs at least one")
    size, right = Counter(groups), Counter(compress(groups, outcomes.tolist()))
    value = sum(right[group] / n for group, n in size.items()) / len(size)
    shrunk = {group: (right[group] + 2) / (n + 4) for group, n in size.items()}
    variance = sum(q * (1 - q) / size[group] for group, q in shrunk.items()) / len(size) ** 2
    centre = sum(shrunk.values()) / len(size)
    return _estimate(value, centre * (1 - centre) / variance, len(groups))


def _estimate(value: float, effective: float, n: int) -> Estimate:
    """A proportion with Wilson's interval of `effective` outcomes, which holds it whatever the rounding."""
    low, high = wilson(value, effective)
    return Estimate(value, min(low, value), max(high, value), n)


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
