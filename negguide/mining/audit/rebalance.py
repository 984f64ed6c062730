"""Drop as few items as possible so that no probe tells negatives from positives any more.

Why sums: a logistic regression without intercept on the differences d_i = f(negative_i) - f(positive_i), all of them
labelled alike, is best with zero weights exactly when sum_i d_i = 0: then each word stands as often in the negatives
as in the positives, and the captions together are as long. So a linear programme keeps the most items such that
|sum_i d_ij| <= c sqrt(sum_i d_ij²), both sums over the kept items, for every feature j of a probe that tells, within
the family of categories where it tells: an excess of c standard deviations, which for c = 2 is what chance leaves.
Where words are replaced, this is a largest circulation: "red hat" may become "blue hat" as often as the other way
round; "add" is kept against "remove", since pick-the-shorter tells each of them. When the probe still tells, c is
lowered, and at last the items that it tells most surely are dropped, as SugarCrepe (arXiv 2306.14610) and AFLite
(arXiv 2002.04108) do.

Exchanged roles: each member of a pair is the hard negative of the other, so (image, caption, negative image, negative
caption) may be used the other way round, which hides every tell of the captions. But where the original is a photo,
it hides nothing from a model that sees both modalities: "rendered, and worded by an editor" still belong together.
Therefore roles are exchanged only where the original caption was rendered too (a control) and that render can take
the place of the original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from negguide.mining.audit.pairs import Pair
from negguide.mining.audit.probes import FEWEST, OVERALL, Accuracy, Probe, judge

TIGHTNESS = (2.0, 1.5, 1.0, 0.5, 0.2, 0.0)
"""c, in the order in which it is tried."""
_SELDOM = 3
"""Words of fewer pairs are not balanced: no probe can learn them from the other folds."""
_BINS = 4
_ROUNDS = 60
_BOUND_ROUNDS = 10
_AIM = 0.52
"""What the last resort brings the accuracy of a probe to."""


@dataclass(frozen=True)
class Balance:
    """A choice of pairs.

    Attributes:
        kept: in their roles, in the order of the set.
        exchanged: ids of the kept pairs whose roles are exchanged.
        dropped: id to reason.
        rendered: the renders of the captions stand in for the originals.
    """

    kept: tuple[Pair, ...]
    exchanged: frozenset[str]
    dropped: Mapping[str, str]
    rendered: bool = False


def rebalance(
    pairs: Sequence[Pair],
    probes: Callable[[Sequence[Pair]], list[Probe]],
    drop: Mapping[str, str] | None = None,
    *,
    rendered: bool = False,
) -> Balance:
    """Choose pairs that no probe of ``probes`` tells; the same choice each time for the same pairs.

    Overall, a probe must not be better than 55%. Within a family it must not be better than 55% and one standard error
    above chance, which is the same from 100 pairs on. A family of which less than a tenth and fewer than 20 pairs are
    left is dropped: what is left has the tell. So is everything when fewer than 20 pairs are left in all.

    Args:
        pairs: the set.
        probes: makes the probes for any choice of pairs in any roles.
        drop: id to reason, items that are dropped beforehand.
        rendered: let the render of each caption stand in for the original image, and drop the items without one. A
            photo is never a negative; with renders on both sides, no probe of images can use that.

    Raises:
        RuntimeError: the probes contradict each other for so long that no choice was found.
    """
    dropped = {pair.id: drop[pair.id] for pair in pairs if drop and pair.id in drop}
    if rendered:
        dropped = {pair.id: "no rendered original" for pair in pairs if not pair.exchangeable} | dropped
    left = [pair.rendered() if rendered else pair for pair in pairs if pair.id not in dropped]
    chosen = list(left)
    levels: dict[tuple[str, str], int] = {}
    reason = ""

    for _ in range(_ROUNDS):
        if len(chosen) < FEWEST:
            reason = reason or f"fewer than {FEWEST} pairs, too few to be judged"
            return Balance((), frozenset(), {pair.id: reason for pair in left} | dropped, rendered)
        told = _told(chosen, probes(chosen))
        if not told:
            as_mined = {id(pair) for pair in left}
            exchanged = frozenset(pair.id for pair in chosen if id(pair) not in as_mined)
            return Balance(tuple(chosen), exchanged, dropped, rendered)
        worst = max(told, key=lambda found: found.accuracy.value)
        reason = f"{worst.probe} told the negatives of {worst.where}: {100 * worst.accuracy.value:.0f}%"
        lowered = False
        for found in told:
            level = levels.get((found.where, found.probe), -1) + 1
            if level < len(TIGHTNESS):
                levels[found.where, found.probe] = level
                lowered = True
        if lowered:
            tightness = {place: TIGHTNESS[level] for place, level in levels.items()}
            chosen = _without_scraps(_balanced(left, probes(left), tightness), left)
        else:
            surest = _surest(worst.margins)
            lost = {chosen[i].id for i in surest}
            chosen = [pair for pair in chosen if pair.id not in lost]
            left = [pair for pair in left if pair.id not in lost]
            dropped |= dict.fromkeys(lost, reason)
        kept = {pair.id for pair in chosen}
        for pair in left:
            if pair.id in kept:
                dropped.pop(pair.id, None)
            else:
                dropped.setdefault(pair.id, reason)
    raise RuntimeError(f"no balanced choice was found in {_ROUNDS} rounds; please report this with the set")


@dataclass(frozen=True, eq=False)
class _Told:
    """A probe that tells the negatives, where, how well, and its margins [pairs]."""

    probe: str
    where: str
    accuracy: Accuracy
    margins: np.ndarray


def _told(pairs: Sequence[Pair], probes: Sequence[Probe]) -> list[_Told]:
    sources, families = [pair.source for pair in pairs], [pair.family for pair in pairs]
    found = []
    for probe in probes:
        verdict = judge(probe, sources, families)
        for where, accuracy in verdict.accuracies.items():
            if accuracy.told if where == OVERALL else accuracy.likely_told:
                found.append(_Told(probe.name, where, accuracy, verdict.margins[where]))
    return found


def _surest(margins: np.ndarray) -> list[int]:
    """The pairs that a probe tells most surely, so many that it is right for ``_AIM`` of the rest.

    A margin of NaN is none of its pairs.
    """
    judged = np.flatnonzero(~np.isnan(margins))
    right = float((np.sign(margins[judged]) + 1).sum() / 2)
    too_many = max(1, int(np.ceil((right - _AIM * len(judged)) / (1 - _AIM))))
    return [int(i) for i in judged[np.argsort(-margins[judged], kind="stable")[:too_many]]]


def _without_scraps(chosen: list[Pair], pairs: Sequence[Pair]) -> list[Pair]:
    """Without the families of which next to nothing is left: that has the tell, and cannot be judged."""
    before, after = (Counter(pair.family for pair in some) for some in (pairs, chosen))
    return [pair for pair in chosen if after[pair.family] >= min(FEWEST, before[pair.family] / 10)]


def _balanced(
    pairs: Sequence[Pair], probes: Sequence[Probe], tightness: Mapping[tuple[str, str], float]
) -> list[Pair]:
    """The most of ``pairs``, in their roles, with every feature within its bound.

    Args:
        tightness: by family (or ``OVERALL``) and probe.
    """
    families = np.asarray([pair.family for pair in pairs])
    by_name = {probe.name: probe for probe in probes}
    parts, scales = [], []
    for (where, name), c in tightness.items():
        if name in by_name:
            members = np.ones(len(pairs)) if where == OVERALL else (families == where).astype(float)
            part = _features(by_name[name], members)
            parts.append(part)
            scales.append(np.full(part.shape[1], c))
    features = sparse.hstack(parts).tocsr()
    exchangeable = np.asarray([pair.exchangeable for pair in pairs])
    squares = features.multiply(features).T.tocsr()
    kept = np.ones(len(pairs))
    for _ in range(_BOUND_ROUNDS):
        deviations = np.sqrt(squares @ kept)
        roles = _largest_choice(features, exchangeable, np.concatenate(scales) * deviations, deviations)
        before, kept = kept, np.abs(roles)
        if kept.sum() == before.sum():
            break
    return [pair if role > 0 else pair.exchanged() for pair, role in zip(pairs, roles, strict=True) if role]


def _features(probe: Probe, members: np.ndarray) -> sparse.csr_matrix:
    """[pairs, features] what the probe looks at, in units that do not matter; zero for all but the members."""
    values = probe.differences
    if sparse.issparse(values):
        part = sparse.diags(members) @ values
    elif probe.rule == "sign":
        # the sign, and again within ranks of size: short and long differences may point different ways
        size = np.abs(values[:, 0]) * members
        inner = np.linspace(0, 1, _BINS + 1)[1:-1]
        edges = np.unique(np.quantile(size[size > 0], inner)) if size.any() else np.empty(0)
        rank = np.digitize(size, edges, right=True)
        signs = np.sign(values) * members[:, None]
        part = sparse.csr_matrix(np.hstack([signs, signs * (rank[:, None] == np.arange(_BINS))]))
    else:
        scale = np.sqrt(np.square(values).mean(axis=0))
        scaled = np.clip(values / np.where(scale > 0, scale, 1.0), -3, 3)
        part = sparse.csr_matrix(scaled * members[:, None])
    part = part.tocsc()
    return part[:, np.diff(part.indptr) >= _SELDOM].tocsr()


def _largest_choice(
    features: sparse.csr_matrix, exchangeable: np.ndarray, bounds: np.ndarray, units: np.ndarray
) -> np.ndarray:
    """Roles [pairs] in {1, 0, -1} (as it is, dropped, exchanged), with few zeros, and |features.T roles| <= bounds.

    A linear programme, whose features become constraints when they are out of bounds, and rounding: each fractional
    pair in turn takes the role that keeps the sums nearest to their bounds, in ``units``.
    """
    from scipy.optimize import linprog

    pairs, turned = len(exchangeable), np.flatnonzero(exchangeable)
    # one column a choice: each pair as it is, then each exchangeable pair exchanged
    owner = np.concatenate([np.arange(pairs), turned])
    columns = sparse.vstack([features, -features[turned]]).T.tocsr()
    # Among equal choices a seeded one, not the first in the set; and no exchange without need.
    liking = 1 + 1e-3 * np.random.default_rng(0).random(len(owner))
    liking[pairs:] -= 1e-3
    once = sparse.csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(pairs, len(owner)))
    bound = np.zeros(len(bounds), dtype=bool)
    solution = np.concatenate([np.ones(pairs), np.zeros(len(turned))])
    while True:
        excess = np.abs(columns @ solution) > bounds + 1e-6
        if not (excess & ~bound).any():
            break
        bound |= excess
        active = columns[bound]
        solved = linprog(
            -liking,
            A_ub=sparse.vstack([active, -active, once]),
            b_ub=np.concatenate([bounds[bound], bounds[bound], np.ones(pairs)]),
            bounds=(0, 1),
            method="highs",
        )
        solution = solved.x
    roles = solution[:pairs].copy()
    roles[turned] -= solution[pairs:]
    mass = np.asarray(once @ solution).ravel()
    return _rounded(roles, mass, features, exchangeable, bounds, units)


def _rounded(
    roles: np.ndarray,
    mass: np.ndarray,
    features: sparse.csr_matrix,
    exchangeable: np.ndarray,
    bounds: np.ndarray,
    units: np.ndarray,
) -> np.ndarray:
    whole = np.abs(np.abs(roles) - mass) + np.abs(mass - np.round(mass)) < 1e-6
    result = np.where(whole, np.round(roles), roles)
    total = np.asarray(features.T @ result).ravel()
    units = np.where(units > 0, units, 1.0)
    for i in np.flatnonzero(~whole):
        own = slice(features.indptr[i], features.indptr[i + 1])
        places, row = features.indices[own], features.data[own]
        others = total[places] - result[i] * row
        # what is kept more than half is kept where it can be, in one role or the other
        options = [1.0, -1.0] if exchangeable[i] else [1.0]
        if mass[i] < 0.5 or not exchangeable[i]:
            options.append(0.0)
        costs = []
        for role in options:
            sums = np.abs(others + role * row)
            excess = np.maximum(0.0, sums - bounds[places]) / units[places]
            costs.append(np.square(excess).sum() + 1e-3 * np.square(sums / units[places]).sum())
        result[i] = options[int(np.argmin(costs))]
        total[places] = others + result[i] * row
    return result
