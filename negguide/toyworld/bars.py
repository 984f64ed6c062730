"""A measured figure beside what it should reach, and the held-out scenes that everything is measured on."""

from __future__ import annotations

from dataclasses import dataclass

from negguide._utils.stats import Rate
from negguide.toyworld.scene import Scene
from negguide.toyworld.train.data import batch_of_scenes

SEED = 2026


@dataclass(frozen=True)
class Bar:
    """One measured figure and what it should reach.

    Attributes:
        model: whose figure it is.
        name: what is measured.
        rate: the figure with its interval.
        at_least, at_most: the bar; None for both is a figure without one.
        unit: "%", or "dB" of a mean that is no share.
    """

    model: str
    name: str
    rate: Rate
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "%"

    @property
    def passed(self) -> bool | None:
        """Whether the figure is where it should be; None = no bar is set."""
        if self.at_most is not None:
            return self.rate.value <= self.at_most
        return None if self.at_least is None else self.rate.value >= self.at_least

    @property
    def goal(self) -> dict[str, float | None]:
        """The bar as JSON has it."""
        return {"at_least": self.at_least} if self.at_most is None else {"at_most": self.at_most}

    @property
    def bar_in_words(self) -> str:
        """The bar as a table shows it; "" without one."""
        if self.at_least is None and self.at_most is None:
            return ""
        sign, bar = ("", self.at_least) if self.at_most is None else ("≤ ", self.at_most)
        assert bar is not None
        return f"{sign}{bar:.0f} dB" if self.unit == "dB" else f"{sign}{100 * bar:.0f}%"


def held_out_scenes(count: int, *, characters: int | None = None, biased: bool = True) -> list[Scene]:
    """``count`` scenes of the held-out tenth; with ``characters``, only scenes of so many different ones."""
    scenes: list[Scene] = []
    step = 0
    while len(scenes) < count:
        drawn, _ = batch_of_scenes(SEED, step, 256, test=True, biased=biased)
        if characters is not None:
            drawn = [
                s for s in drawn if s.count == characters and (characters == 1 or s.relation is not None)
            ]
        scenes += drawn
        step += 1
    return scenes[:count]
