"""Drop as few items as possible so that no probe tells negatives from positives any more.

Why sums: a logistic regression without intercept on the differences d_i = f(negative_i) - f(positive_i), all of them
labelled alike, is best with zero weights exactly when sum_i d_i = 0: then each word stands as often in the negatives
as in the positives, and the captions together are as long. So within each family of categories a linear programme
keeps the most items such that |sum_i d_ij| <= c sqrt(sum_i d_ij²) for every feature j, both sums over the kept items:
an excess of c standard deviations, which for c = 1 is what chance leaves. Where words are replaced, this is a largest
circulation: "red hat" may become "blue hat" as often as the other way round; "add" is kept against "remove", since
pick-the-shorter tells each of them. When a probe still tells the negatives, c is lowered, and at last the items that
the probe tells most surely are dropped, as SugarCrepe (arXiv 2306.14610) and AFLite (arXiv 2002.04108) do.

Exchanged roles: each member of a pair is the hard negative of the other, so (image, caption, negative image, negative
caption) may be used the other way round, which hides every tell of the captions. But where the original is a photo,
it hides nothing from a model that sees both modalities: "rendered, and worded by an editor" still belong together.
Therefore roles are exchanged only where the original caption was rendered too (a control) and that render can take
the place of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from negguide.mining.audit.pairs import Pair
from negguide.mining.audit.probes import FEWEST, OVERALL, Probe, Verdict, judge

TIGHTNESS = (1.0, 0.5, 0.2, 0.0)
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

    Overall, a probe must not be better than 55%. Within a family it must not be better than 55% with an interval above
    chance. A family of which less than a tenth and fewer than 20 pairs are left is dropped: what is left has the tell.
    So is everything when fewer than 20 pairs are left in all.

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
    pairs = [pair.rendered() if rendered else pair for pair in pairs if pair.id not in dropped]
    families = sorted({pair.family for pair in pairs})
    tightness = dict.fromkeys(families, -1)
    chosen = {pair.id: pair for pair in pairs}

    for _ in range(_ROUNDS):
        kept = [chosen[pair.id] for pair in pairs if pair.id in chosen]
        if len(kept) < FEWEST:
            nothing = {
                pair.id: f"fewer than {FEWEST} pairs without tells, too few to be judged" for pair in kept
            }
            return Balance((), frozenset(), dropped | nothing, rendered)
        told = _told(kept, probes(kept))
        if not told:
            exchanged = frozenset(pair.id for pair in pairs if chosen.get(pair.id, pair) is not pair)
            return Balance(tuple(kept), exchanged, dropped, rendered)
        worst: dict[str, tuple[float, str, str, np.ndarray]] = {}
        for probe, verdict, where in told:
            value, margins = verdict.accuracies[where].value, verdict.margins[where]
            # what only all families together give away is looked for in each of them
            for family in families if where == OVERALL else [where]:
                if family not in worst or value > worst[family][0]:
                    worst[family] = (value, probe, where, margins)
        for family, (value, probe, where, margins) in worst.items():
            reason = f"{probe} told the negatives of {where}: {100 * value:.0f}%"
            if tightness[family] + 1 < len(TIGHTNESS):
                tightness[family] += 1
                members = [pair for pair in pairs if pair.family == family]
                balanced = _balanced(members, probes, TIGHTNESS[tightness[family]])
            else:
                members = [pair for pair in kept if pair.family == family]
                own = [i for i, pair in enumerate(kept) if pair.family == family]
                balanced = _without_the_surest(members, margins[own])
            if len(balanced) < min(FEWEST, sum(pair.family == family for pair in pairs) / 10):
                balanced = []
            for pair in (pair for pair in pairs if pair.family == family):
                chosen.pop(pair.id, None)
                dropped.setdefault(pair.id, reason)
            for pair in balanced:
                chosen[pair.id] = pair
                dropped.pop(pair.id)
    raise RuntimeError(f"no balanced choice was found in {_ROUNDS} rounds; please report this with the set")


def _told(pairs: Sequence[Pair], probes: Sequence[Probe]) -> list[tuple[str, Verdict, str]]:
    """Name of the probe, its verdict, and where it tells the negatives."""
    sources, families = [pair.source for pair in pairs], [pair.family for pair in pairs]
    found = []
    for probe in probes:
        verdict = judge(probe, sources, families)
        for where, accuracy in verdict.accuracies.items():
            if accuracy.told if where == OVERALL else accuracy.surely_told:
                found.append((probe.name, verdict, where))
    return found


def _without_the_surest(pairs: Sequence[Pair], margins: np.ndarray) -> list[Pair]:
    """Without the pairs that a probe tells most surely, so many that it is right for ``_AIM`` of the rest."""
    right = float((np.sign(margins) + 1).sum() / 2)
    too_many = max(1, int(np.ceil((right - _AIM * len(pairs)) / (1 - _AIM))))
    surest = set(np.argsort(-margins, kind="stable")[:too_many].tolist())
    return [pair for i, pair in enumerate(pairs) if i not in surest]


def _balanced(
    pairs: Sequence[Pair], probes: Callable[[Sequence[Pair]], list[Probe]], tightness: float
) -> list[Pair]:
    """The most of ``pairs``, in their roles, with the sum of every feature within its bound."""
    features = _features(probes(pairs))
    squares = features.multiply(features).T.tocsr()
    exchangeable = np.flatnonzero([pair.exchangeable for pair in pairs])
    # one column a choice: each pair as it is, then each exchangeable pair exchanged
    owner = np.concatenate([np.arange(len(pairs)), exchangeable])
    sums = sparse.vstack([features, -features[exchangeable]]).tocsr()
    kept = np.ones(len(pairs))
    for _ in range(_BOUND_ROUNDS):
        chosen = _largest_choice(owner, len(pairs), sums, tightness * np.sqrt(squares @ kept))
        before, kept = kept, np.bincount(owner[chosen], minlength=len(pairs)).astype(float)
        if kept.sum() == before.sum():
            break
    result: dict[int, Pair] = {}
    for choice in chosen:
        pair = pairs[owner[choice]]
        result[int(owner[choice])] = pair if choice < len(pairs) else pair.exchanged()
    return [result[i] for i in sorted(result)]


def _features(probes: Sequence[Probe]) -> sparse.csr_matrix:
    """[pairs, features] what the probes look at, in units that do not matter."""
    parts = []
    for probe in probes:
        values = probe.differences
        if sparse.issparse(values):
            parts.append(values)
        elif probe.rule == "sign":
            # the sign, and again within ranks of size: short and long differences may point different ways
            size = np.abs(values[:, 0])
            inner = np.linspace(0, 1, _BINS + 1)[1:-1]
            edges = np.unique(np.quantile(size[size > 0], inner)) if size.any() else np.empty(0)
            rank = np.digitize(size, edges, right=True)
            signs = np.sign(values)
            parts.append(sparse.csr_matrix(np.hstack([signs, signs * (rank[:, None] == np.arange(_BINS))])))
        else:
            scale = np.sqrt(np.square(values).mean(axis=0))
            scaled = values / np.where(scale > 0, scale, 1.0)
            parts.append(sparse.csr_matrix(np.clip(scaled, -3, 3)))
    stacked = sparse.hstack(parts).tocsc()
    return stacked[:, np.diff(stacked.indptr) >= _SELDOM].tocsr()


def _largest_choice(owner: np.ndarray, pairs: int, sums: sparse.csr_matrix, bounds: np.ndarray) -> list[int]:
    """Columns x in {0, 1}, at most one an owner, as many as can be with |sums.T x| <= bounds.

    A linear programme (its corners are nearly all whole: the constraints are few), rounded down, then filled up.
    Only features that are out of bounds become constraints.
    """
    from scipy.optimize import linprog

    # Among equal choices a seeded one, not the first in the set; and no exchange without need.
    liking = 1 + 1e-3 * np.random.default_rng(0).random(len(owner))
    liking[pairs:] -= 1e-3
    once = sparse.csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(pairs, len(owner)))
    columns = sums.T.tocsr()
    bound = np.zeros(len(bounds), dtype=bool)
    solution = np.concatenate([np.ones(pairs), np.zeros(len(owner) - pairs)])
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

    whole = solution > 1 - 1e-6
    total = np.asarray(columns @ whole.astype(float)).ravel()
    taken = set(owner[whole].tolist())
    chosen = np.flatnonzero(whole).tolist()
    for choice in np.flatnonzero(~whole & (solution > 1e-6)):
        row = np.asarray(sums[choice].todense()).ravel()
        # never past a bound, or further past one that rounding down has left behind
        allowed = (np.abs(total + row) <= np.maximum(bounds, np.abs(total)) + 1e-6).all()
        if owner[choice] not in taken and allowed:
            chosen.append(int(choice))
            taken.add(int(owner[choice]))
            total += row
    return chosen
