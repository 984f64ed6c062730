"""How much a negative view weighs, as a function of the azimuth: curves that are plain values.

A curve is any `curve(turn) -> weight` of the turn |azimuth| in degrees, from 0 (front) to 180 (back); the weight is
>= 0 and finite. The ones here are frozen dataclasses, so that a preset can be read, compared and changed with
`dataclasses.replace`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Curve = Callable[[float], float]
"""Turn in degrees, 0 to 180, to a weight >= 0."""


@dataclass(frozen=True)
class Decay:
    """`f(x) = a exp(-b x) + c` for x from 0 to 1, and 0 where x > end.

    Args:
        a, b, c: scale, rate and shift.
        end: where it drops to 0; 1 = nowhere.

    Raises:
        ValueError: a value that is not finite, or an `end` outside of 0 to 1.
    """

    a: float
    b: float = 0.0
    c: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("a", "b", "c", "end"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} of Decay must be a finite number, got {getattr(self, name)!r}")
        if not 0 <= self.end <= 1:
            raise ValueError(f"end of Decay must be from 0 to 1, got {self.end!r}")

    def __call__(self, closeness: float) -> float:
        """The weight at a closeness."""
        return 0.0 if closeness > self.end else self.a * math.exp(-self.b * closeness) + self.c


@dataclass(frozen=True)
class Halves:
    """One `Decay` between front and side, another between side and back, as threestudio and stable-dreamfusion have it.

    Formula: `front_side(x)` for a turn below 90, with x how close the camera is to the negative's own view (1 - turn/90
    of the front, turn/90 of the side); `side_back(2 - turn/90)` from 90 on, the closeness to the side.

    Args:
        view: of the negative.
        front_side, side_back: the two halves.
    """

    view: Literal["front", "side"]
    front_side: Decay
    side_back: Decay

    def __post_init__(self) -> None:
        if self.view not in ("front", "side"):
            raise ValueError(f"view of Halves must be 'front' or 'side', got {self.view!r}")

    def __call__(self, turn: float) -> float:
        """The weight where the camera is turned so many degrees from the front."""
        if turn >= 90:
            return self.side_back(2 - turn / 90)
        return self.front_side(1 - turn / 90 if self.view == "front" else turn / 90)


@dataclass(frozen=True)
class Ramp:
    """Straight lines between points, level before the first and behind the last.

    Args:
        points: (turn in degrees, weight) with rising turns, at least one; `Ramp(((0, 1.5),))` is constant.

    Raises:
        ValueError: no points, turns that do not rise or lie outside of 0 to 180, weights that are negative.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        turns = [turn for turn, _ in self.points]
        rising = all(before < after for before, after in itertools.pairwise(turns))
        if not turns or not rising or not all(0 <= turn <= 180 for turn in turns):
            raise ValueError(f"points of Ramp must have rising turns from 0 to 180, got {self.points!r}")
        if not all(0 <= weight < math.inf for _, weight in self.points):
            raise ValueError(f"points of Ramp must have finite weights >= 0, got {self.points!r}")

    def __call__(self, turn: float) -> float:
        """The weight where the camera is turned so many degrees from the front."""
        if turn <= self.points[0][0]:
            return self.points[0][1]
        for (start, low), (stop, high) in itertools.pairwise(self.points):
            if turn <= stop:
                return low + (high - low) * (turn - start) / (stop - start)
        return self.points[-1][1]
