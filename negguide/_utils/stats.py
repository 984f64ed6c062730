"""How sure a measured value is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95% interval."""


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927), (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        share: p, in [0, 1].
        n: outcomes, above 0; no whole number where outcomes that resemble each other count as fewer.

    Returns:
        Both ends, in [0, 1]; the share is between them, whatever the rounding.
    """
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@dataclass(frozen=True)
class Rate:
    """A measured value with its 95% interval; ``n`` is the number of judged images."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def to_dict(self) -> dict[str, float | int]:
        """As JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def share(outcomes: Sequence[bool]) -> Rate:
    """Share of ``True`` with Wilson's score interval.

    Raises:
        ValueError: when ``outcomes`` is empty.
    """
    n = len(outcomes)
    if n == 0:
        raise ValueError("outcomes is empty; a share needs at least one judged image")
    p = sum(outcomes) / n
    return Rate(p, *wilson(p, n), n)


def mean(values: Sequence[float], *, samples: int = 2000, seed: int = 0) -> Rate:
    """Mean with a bootstrap interval over ``values`` (percentiles of ``samples`` resamplings).

    Raises:
        ValueError: when ``values`` is empty.
    """
    if not len(values):
        raise ValueError("values is empty; a mean needs at least one value")
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), (samples, len(data)))
    low, high = np.percentile(data[draws].mean(axis=1), (2.5, 97.5))
    return Rate(float(data.mean()), float(low), float(high), len(data))
