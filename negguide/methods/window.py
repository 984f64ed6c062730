"""When a method acts: windows by fractions of the steps, or by places on the noise schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from negguide.guidance import active
from negguide.methods.validation import number

_ROUNDING = 0.01
"""In timesteps: schedulers and dtypes round."""


@dataclass(frozen=True)
class Timestep:
    """A place on the noise schedule, for `start` and `stop` of a method or a negative.

    Published windows are places on the schedule, not numbers of steps: how noisy an image is decides what can still
    change in it, and a schedule that is shifted, as that of most flow models at large sizes, spends more of its steps
    where the noise is strong.

    Args:
        value: 1000 is pure noise and 0 the image. For flow models it is 1000 times the noise's share sigma, after any
            shift; for models with a discrete schedule (Stable Diffusion) the training timestep, out of 1000.

    A step is inside a window when start >= its timestep >= stop, both ends included, as published.

    Raises:
        TypeError, ValueError: the value is no number from 0 to 1000.

    Example:
        >>> NegToMe("others", stop=Timestep(900))  # from pure noise down to t = 900
        >>> Negative("snow", start=Timestep(800), stop=Timestep(400))
    """

    value: float

    def __post_init__(self) -> None:
        value = number("value of Timestep", self.value)
        if not 0 <= value <= 1000:
            raise ValueError(f"Timestep must be from 0, the image, to 1000, pure noise, got {value:g}")
        object.__setattr__(self, "value", value)

    def __repr__(self) -> str:
        return f"Timestep({self.value:g})"


Edge = float | Timestep
"""Where a window begins or ends: a fraction of the steps, or a place on the noise schedule."""


class Window(NamedTuple):
    """A window of a method.

    Attributes:
        owner: whose it is, for messages.
        start, stop: fractions of the steps, or timesteps.
        default: whether the user left both open, so that they are the method's or the model family's. Such a window
            always holds at least the first step.
    """

    owner: str
    start: Edge
    stop: Edge
    default: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds every step of any run."""
        return self.start in (0, Timestep(1000)) and self.stop in (1, Timestep(0))

    @property
    def by_timestep(self) -> bool:
        """Whether it needs to know the noise schedule."""
        return isinstance(self.start, Timestep) or isinstance(self.stop, Timestep)

    def steps(self, timesteps: Sequence[float | None]) -> frozenset[int]:
        """The steps of a run that are inside.

        Args:
            timesteps: of each step, 1000 = pure noise; None where it is not known.

        Raises:
            ValueError: an end is a timestep, and those of the run are not known.
        """
        count = len(timesteps)
        inside = frozenset(
            step for step in range(count) if self._begun(step, timesteps) and not self._ended(step, timesteps)
        )
        return inside or frozenset([0] if self.default else [])

    def _begun(self, step: int, timesteps: Sequence[float | None]) -> bool:
        if isinstance(self.start, Timestep):
            return self._known(timesteps[step]) <= self.start.value + _ROUNDING
        return self.start == 0 or active(self.start, 1.0, step, len(timesteps))

    def _ended(self, step: int, timesteps: Sequence[float | None]) -> bool:
        if isinstance(self.stop, Timestep):
            return self._known(timesteps[step]) < self.stop.value - _ROUNDING
        return not active(0.0, self.stop, step, len(timesteps))

    def _known(self, timestep: float | None) -> float:
        if timestep is None:
            raise ValueError(
                f"start={self.start}, stop={self.stop} of {self.owner} is a place on the noise schedule, and that of "
                "this run is not known; give fractions of the steps"
            )
        return timestep

    def in_words(self) -> str:
        """E.g. "0-50% of the steps" or "t 1000-900"."""
        if not isinstance(self.start, Timestep) and not isinstance(self.stop, Timestep):
            return f"{100 * self.start:g}-{100 * self.stop:g}% of the steps"
        if isinstance(self.stop, Timestep) and (self.start == 0 or isinstance(self.start, Timestep)):
            begin = self.start.value if isinstance(self.start, Timestep) else 1000
            return f"t {begin:g}-{self.stop.value:g}"
        return f"from {_place(self.start)} to {_place(self.stop)}"


def check_window(start: Any, stop: Any) -> tuple[Edge, Edge]:
    """The window [start, stop) as numbers and timesteps.

    Raises:
        TypeError, ValueError: it ends before it begins, or outside of the run.
    """
    start, stop = (
        edge if isinstance(edge, Timestep) else number(name, edge)
        for name, edge in (("start", start), ("stop", stop))
    )
    if isinstance(start, Timestep) and isinstance(stop, Timestep):
        if start.value <= stop.value:
            raise ValueError(
                f"start must be noisier than stop, got {start=}, {stop=}; timesteps go from 1000 to 0"
            )
    elif isinstance(start, Timestep) or isinstance(stop, Timestep):
        fraction, right = (
            (stop, "0 < stop <= 1") if isinstance(start, Timestep) else (start, "0 <= start < 1")
        )
        if not 0 <= fraction <= 1 or fraction == (0 if fraction is stop else 1):
            raise ValueError(f"a fraction of the steps must satisfy {right}, got {start=}, {stop=}")
    elif not 0 <= start < stop <= 1:
        hint = "; timesteps are written Timestep(900)" if max(start, stop) > 1 else ""
        raise ValueError(f"start and stop must satisfy 0 <= start < stop <= 1, got {start=}, {stop=}{hint}")
    return start, stop


def edge_to_json(edge: Edge) -> Any:
    """A number, or {"timestep": number}."""
    return {"timestep": edge.value} if isinstance(edge, Timestep) else edge


def edge_from_json(data: Any) -> Any:
    """The inverse of `edge_to_json`; what is neither is left as it is, for `check_window` to refuse."""
    if isinstance(data, Mapping) and set(data) == {"timestep"}:
        return Timestep(data["timestep"])
    return data


def _place(edge: Edge) -> str:
    return f"t {edge.value:g}" if isinstance(edge, Timestep) else f"{100 * edge:g}% of the steps"
