"""Negatives in words, and Perp-Neg, which subtracts them in score space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from negguide.methods.values import (
    Load,
    MaskLike,
    Save,
    Stored,
    at_least_one,
    boolean,
    check_mask,
    check_window,
    known_keys,
    loaded,
    non_negative,
    stored,
)


@dataclass(frozen=True, eq=False)
class Negative(Stored):
    """One thing to leave out.

    Args:
        prompt: what to leave out, in words ("black glasses"). It may overlap with the prompt.
        weight: strength, >= 0 (1 = as strong as the method itself says).
        start, stop: the window in which it acts, fractions of the steps, 0 <= start < stop <= 1. stop=None is the
            method's own: the first half of the steps in `PerpNeg`, where composition and attributes are decided, and
            all steps in `NAG`, `ONG` and `VSF`, as published.
        mask: where it acts (see `MaskLike`), with the aspect ratio of the image; None = everywhere.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    prompt: str
    weight: float = 1.0
    start: float = 0.0
    stop: float | None = None
    mask: MaskLike | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"prompt must be a string, got {self.prompt!r}")
        if not self.prompt.strip():
            raise ValueError(f"prompt of a Negative must say what to leave out, got {self.prompt!r}")
        object.__setattr__(self, "weight", non_negative("weight", self.weight))
        start, stop = check_window(self.start, 1.0 if self.stop is None else self.stop)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", None if self.stop is None else stop)
        if self.mask is not None:
            check_mask("mask", self.mask)

    @property
    def window(self) -> tuple[float, float]:
        """(start, stop) of a negative that a method holds, where `stop` is a number."""
        assert self.stop is not None
        return self.start, self.stop

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The negative as JSON data; `save` stores the mask (see the text of `negguide.methods`)."""
        return {name: stored(getattr(self, name), save) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Negative:
        """The inverse of `to_dict`."""
        values = known_keys(data, tuple(cls.__dataclass_fields__), "Negative")
        return cls(**{**values, "mask": loaded("mask", values.get("mask"), load)})


class NegativesMethod(Stored):
    """What the methods that take negatives in words share: the list of negatives, and JSON.

    A subclass is a frozen dataclass whose first field is `negatives`.
    """

    negatives: tuple[Negative, ...]
    default_stop: ClassVar[float]

    def _hold(self, negatives: Sequence[Negative | str]) -> None:
        """Check the negatives of the constructor and keep them with the method's own window where none is given."""
        name = type(self).__name__
        if not negatives:
            raise ValueError(f"{name} needs at least one negative, e.g. {name}('black glasses')")
        for negative in negatives:
            if not isinstance(negative, Negative | str):
                hint = f"; unpack it: {name}(*negatives)" if isinstance(negative, list | tuple) else ""
                raise TypeError(f"negatives must be Negative objects or strings, got {negative!r}{hint}")
        held = [Negative(n) if isinstance(n, str) else n for n in negatives]
        held = [replace(n, stop=self.default_stop) if n.stop is None else n for n in held]
        object.__setattr__(self, "negatives", tuple(held))

    def with_negatives(self, *negatives: Negative | str) -> Self:
        """The same method with other negatives."""
        return type(self)(*negatives, **self._options())

    def _options(self) -> dict[str, Any]:
        fields = self.__dataclass_fields__  # type: ignore[attr-defined]
        return {name: getattr(self, name) for name in fields if name != "negatives"}

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self._options().items()]
        return f"{type(self).__name__}({', '.join([*map(repr, self.negatives), *options])})"

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The method as JSON data; `save` stores the masks (see the text of `negguide.methods`)."""
        negatives = [negative.to_dict(save) for negative in self.negatives]
        return {"method": type(self).__name__, "negatives": negatives, **self._options()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Any:
        """The inverse of `to_dict`."""
        fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
        values = known_keys(data, ("method", *fields), cls.__name__)
        values.pop("method", None)
        negatives = [Negative.from_dict(n, load) for n in values.pop("negatives", ())]
        return cls(*negatives, **values)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class PerpNeg(NegativesMethod):
    """Perp-Neg (arXiv 2304.04968): subtract only what of each negative is perpendicular to the prompt.

    With p = cond - uncond and n_k = negative_k - uncond the prediction is
    uncond + g (p - sum_k weight_k (n_k - <n_k, p> / |p|^2 p)).

    Args:
        negatives: one or more `Negative` or plain strings.
        joint: also make each negative perpendicular to the ones before it, so that two wordings of one thing do not
            count twice.
        refresh_every: ask the model for each negative only every so many steps; in between its last n_k, scaled by |p|
            over the |p| of that step, is projected on each step's own p. 1 asks at every step. A step that does not ask
            costs what guidance alone costs.
        adaptive: let negative k rest for the rest of the run once its share weight_k |perpendicular part of n_k| / |p|
            has fallen below half of the largest it has been; an image by itself, so that its batch mates do not
            matter. A negative that rests in every image is no longer asked for. The host learns of it without waiting
            for the device, if need be a step later.

    Raises:
        ValueError: without any negative, or for a `refresh_every` below 1.
        TypeError: for anything that is neither a `Negative` nor a string.
    """

    default_stop = 0.5

    negatives: tuple[Negative, ...]
    joint: bool
    refresh_every: int
    adaptive: bool

    def __init__(
        self, *negatives: Negative | str, joint: bool = False, refresh_every: int = 1, adaptive: bool = False
    ) -> None:
        self._hold(negatives)
        object.__setattr__(self, "joint", boolean("joint", joint))
        object.__setattr__(self, "refresh_every", at_least_one("refresh_every", refresh_every))
        object.__setattr__(self, "adaptive", boolean("adaptive", adaptive))
