"""What is compared: the plain picture, the classic negative prompt, and methods by their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from negguide.benchmark.suites import DIVERSITY, OVERLAP, Item
from negguide.methods import Method, Negative, registered_methods
from negguide.methods.choices import methods_in_words, options_of
from negguide.models import defaults

PLAIN, CLASSIC = "plain", "negative-prompt"
"""The columns without a method."""
_STRENGTHS = ("scale", "alpha")
"""The arguments that can be a method's strength, the first that it has; of others it is the negative's weight."""


@dataclass(frozen=True)
class Column:
    """One thing that is compared.

    Attributes:
        key: "plain", "negative-prompt", or a method's key.
        strength: a method's scale (NegToMe's alpha), or the weight of the negative where it has none; None = its own.
    """

    key: str
    strength: float | None = None

    @property
    def name(self) -> str:
        """As it is asked for, e.g. "nag:8"."""
        return self.key if self.strength is None else f"{self.key}:{self.strength:g}"

    @property
    def label(self) -> str:
        """For people, e.g. "NAG 8"."""
        kind = _methods().get(self.key)
        label = self.key.replace("-", " ") if kind is None else kind.label
        return label if self.strength is None else f"{label} {self.strength:g}"

    def objection(self, item: Item, images: int, references: bool) -> str | None:
        """Why the column cannot act on an item of a suite, whatever the model; None when it can.

        Args:
            images: in the call.
            references: whether there are images to stay away from.
        """
        kind = _methods().get(self.key)
        if self.key == PLAIN:
            return None
        if kind is None or kind.space != "token":
            return None if item.negative else "the prompts of the suite have no negative in words"
        if references or images > 1:
            return None
        return (
            f"{kind.label} needs other images to stay away from: a suite of kind diversity, which draws several in a "
            "call, or of kind reference"
        )

    def negative_prompt(self, item: Item) -> str:
        """The classic negative prompt with which an item is drawn; "" = without."""
        return item.negative if self.key == CLASSIC else ""

    def methods(self, item: Item, model: str, references: Sequence[Image.Image]) -> tuple[Method, ...]:
        """The methods with which an item is drawn, none for the columns without.

        Args:
            references: to stay away from; empty = the images of the call stay away from one another.
        """
        kind = _methods().get(self.key)
        if kind is None:
            return ()
        given: dict[str, Any] = {} if self.strength is None else {_strength(kind): self.strength}
        own = defaults(model).arguments(kind.key, images=bool(references))
        if kind.space == "token":
            return (kind(reference=list(references) or "others", **{**own, **given}),)
        if "weight" in given:
            return (kind(Negative(item.negative, weight=given["weight"]), **own),)
        return (kind(item.negative, **{**own, **given}),)


def columns_of(methods: str | None, kind: str) -> tuple[Column, ...]:
    """The columns that `--methods` names; plain is always the first, as what the others are compared with.

    Args:
        methods: names with commas between, each with ":STRENGTH" or without; None = what suits the kind of suite.

    Raises:
        ValueError: an unknown or doubled name, or a wrong strength.
    """
    if methods is None:
        apart = [method.key for method in registered_methods("token")]
        names = {OVERLAP: [CLASSIC, *methods_in_words()], DIVERSITY: apart}.get(kind, [CLASSIC, *apart])
    else:
        names = [name.strip() for name in methods.split(",")]
    found = [_column(name) for name in names if name != PLAIN]
    twice = [name for name, times in Counter(column.name for column in found).items() if times > 1]
    if twice:
        raise ValueError(f"--methods {methods!r}: {twice[0]} is there more than once")
    return (Column(PLAIN), *found)


def _column(name: str) -> Column:
    key, colon, strength = name.partition(":")
    kinds = _methods()
    if key not in (CLASSIC, *kinds):
        known = ", ".join((PLAIN, CLASSIC, *kinds))
        raise ValueError(
            f"--methods: {name!r} is unknown; use {known}, with :STRENGTH behind it where it has one"
        )
    if not colon:
        return Column(key)
    try:
        number = float(strength)
        if key == CLASSIC:
            raise ValueError("a classic negative prompt has no strength")
        kind = kinds[key]
        # a wrong number is refused here, not after an hour of drawing
        argument = _strength(kind)
        if argument == "weight":
            Negative("something", weight=number)
        elif kind.space == "token":
            kind(**{argument: number})
        else:
            kind("something", **{argument: number})
    except (TypeError, ValueError) as error:
        raise ValueError(f"--methods: {name!r}: {error}") from error
    return Column(key, number)


def _methods() -> dict[str, Any]:
    """{key: method} of all that are registered, from inside and from outside."""
    return {method.key: method for method in registered_methods()}


def _strength(kind: Any) -> str:
    options = options_of(kind)
    found = next((name for name in _STRENGTHS if name in options), "weight")
    if found == "weight" and kind.space == "token":
        raise ValueError(f"{kind.label} has no strength")
    return found
