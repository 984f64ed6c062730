"""Probes: given both members of a pair, which one is the negative? Chance is 50%.

This pairwise form is the strongest attack that sees one modality alone, since all that the two members share cancels.
With f(x) the features of a caption or an image, a probe decides by the sign of w·(f(negative) - f(positive)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

try:
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
except ImportError as error:
    raise ImportError("the audit needs scipy and scikit-learn: pip install scipy scikit-learn") from error

from negguide._utils.stats import Z95, Rate, wilson

LIMIT = 0.55
"""A probe that is right more often than this tells negatives from positives."""
FEWEST = 20
"""Fewer pairs than this (or fewer than ``FOLDS`` sources) are not judged on their own."""
FOLDS = 5
OVERALL = "all"

Matrix = Any
"""A numpy array or a scipy sparse matrix, of float64."""


class Accuracy(Rate):
    """Share of the pairs whose negative was told, with its 95% interval; ``n`` is their number."""

    @property
    def told(self) -> bool:
        """More than ``LIMIT``."""
        return self.value > LIMIT

    @property
    def likely_told(self) -> bool:
        """More than ``LIMIT``, and more than one standard error above chance: small categories are noisy."""
        return self.told and self.value - 0.5 > (self.high - self.low) / (2 * Z95)


@dataclass(frozen=True)
class Probe:
    """One attack on one modality.

    Attributes:
        name: as it stands in reports.
        differences: [pairs, features] f(negative) - f(positive); sparse for counts of words.
        rule: "sign" picks by the sign of one feature, in the direction that is right more often on the training
            folds; "linear" is a logistic regression without intercept.
        has: [pairs] bool, the pairs that have what the probe looks at; ``None`` for all.
    """

    name: str
    differences: Matrix
    rule: Literal["sign", "linear"]
    has: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Verdict:
    """How a probe did: accuracy over all pairs and by family, each cross-validated on its own.

    ``margins`` [pairs] of the same places: on held-out pairs, positive where the probe was right; NaN for pairs
    that are not there.
    """

    accuracies: Mapping[str, Accuracy]
    margins: Mapping[str, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: an accuracy a category."""
        return {name: accuracy.to_dict() for name, accuracy in self.accuracies.items()}


def judge(probe: Probe, sources: Sequence[str], families: Sequence[str] = ()) -> Verdict:
    """Cross-validate ``probe`` over all pairs and within each family that is large enough.

    Args:
        sources: [pairs] pairs of one source are in one fold.
        families: [pairs]; empty = over all pairs only.
    """
    source, family = np.asarray(sources), np.asarray(families)
    has = np.ones(len(source), dtype=bool) if probe.has is None else probe.has
    accuracies, margins = {}, {}
    for name in (OVERALL, *sorted(set(families))):
        rows = np.flatnonzero(has if name == OVERALL else has & (family == name))
        if len(rows) < FEWEST or len(set(source[rows])) < FOLDS:
            continue
        held_out = held_out_margins(probe.differences[rows], probe.rule, source[rows])
        margins[name] = np.full(len(source), np.nan)
        margins[name][rows] = held_out
        accuracies[name] = accuracy(held_out, source[rows])
    return Verdict(accuracies, margins)


def held_out_margins(differences: Matrix, rule: str, sources: np.ndarray) -> np.ndarray:
    """[pairs] the margin of each pair by the rule that was learned on the other folds; 0 where it cannot decide.

    Deterministic: the folds are drawn with a fixed seed.
    """
    margins = np.zeros(differences.shape[0])
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(differences, groups=sources):
        learned = _by_sign(differences[train]) if rule == "sign" else _linear(differences[train])
        margins[test] = np.asarray(differences[test] @ learned).ravel()
    # what is left of exact ties after a sum of floating point numbers
    return np.where(np.abs(margins) < 1e-9, 0.0, margins)


def _by_sign(differences: Matrix) -> np.ndarray:
    signs: np.ndarray = np.sign(np.sign(differences).sum(axis=0))
    return signs


def _linear(differences: Matrix) -> np.ndarray:
    scale = np.ones(differences.shape[1])
    if not sparse.issparse(differences):
        # around zero: the two orders of a pair are the same pair
        scale = np.sqrt(np.square(differences).mean(axis=0))
        scale[scale == 0] = 1.0
        differences = differences / scale
    # Every other pair is shown in the other order, so that there are two classes; without an intercept that is all
    # the same to the regression.
    order = np.where(np.arange(differences.shape[0]) % 2, -1.0, 1.0)
    shown = (
        sparse.diags(order) @ differences if sparse.issparse(differences) else order[:, None] * differences
    )
    solver = "lbfgs" if sparse.issparse(shown) else "newton-cholesky"
    model = LogisticRegression(C=1.0, fit_intercept=False, solver=solver, max_iter=1000, tol=1e-3)
    model.fit(shown, order)
    learned: np.ndarray = model.coef_[0] / scale
    return learned


def accuracy(margins: np.ndarray, sources: np.ndarray) -> Accuracy:
    """Share of positive margins, a tie counting half, with Wilson's interval.

    Pairs of one source are alike, so the number of pairs is divided by the design effect of the sources. Where all
    pairs are told, or none is, how alike they are cannot be seen: those of a source then count as one outcome, and the
    effect is sum of m² / n for sources of m pairs (Kish 1965, Survey Sampling).

    Raises:
        ValueError: there is no pair.
    """
    n = len(margins)
    if n == 0:
        raise ValueError("margins is empty; an accuracy needs at least one pair")
    right = (np.sign(margins) + 1) / 2
    value = float(right.mean())
    _, index = np.unique(sources, return_inverse=True)
    plain = value * (1 - value) * n
    if plain > 0:
        residuals = np.bincount(index, weights=right - value)
        effect = max(1.0, float(np.square(residuals).sum()) / plain)
    else:
        effect = float(np.square(np.bincount(index)).sum()) / n
    return Accuracy(value, *wilson(value, n / effect), n)
