"""How sure a measured share is."""

from __future__ import annotations

import math

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95% interval."""


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927), (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        share: p, in [0, 1].
        n: outcomes, above 0; no whole number where outcomes that resemble each other count as fewer.

    Returns:
        Both ends, in [0, 1].
    """
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
