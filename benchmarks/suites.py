"""The prompts and negatives of overlap.py, and how the judge tells what a picture keeps and what is gone.

Settings are chosen on the suites whose names begin with "first"; the others are for reporting alone. No prompt stands
with the same negatives in two suites, and no two suites share a seed.

| suite | cases | a case |
|---|---|---|
| `first` | 20 | one negative that overlaps its prompt |
| `heavy` | 46 | one negative that says the whole prompt and more: two characters, views, accessories, places, counts |
| `first-several`, `several` | 16, 40 | two or four negatives at once, some of them not in the picture |
| `first-absent`, `absent` | 12, 45 | one negative that is not in the picture, beside one that is |

What a negative is against is what it says and its prompt does not: "a bear wearing black glasses" is against black
glasses where the prompt is "a bear wearing glasses".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from negguide.toyworld import ACCESSORIES, KINDS, Scene, parse
from negguide.toyworld.language import joined
from negguide.toyworld.measure import agreement
from negguide.toyworld.scene import ANY_COLOR

SEEDS_PER_CASE = 1000
"""How far apart the first seeds of two cases of a suite are."""


@dataclass(frozen=True)
class Fact:
    """One thing that a picture may show.

    Attributes:
        field: of a `Character`, or "background".
        value: what it is; `ANY_COLOR` for an accessory of whatever colour.
        kind: of which characters; None = of any.
    """

    field: str
    value: str
    kind: str | None = None

    def shows(self, seen: Scene) -> bool:
        """Whether a picture of `seen` has it, in any of its characters."""
        if self.field == "background":
            return seen.background == self.value
        values = [getattr(c, self.field) for c in seen.characters if self.kind in (None, c.kind)]
        if self.value == ANY_COLOR:
            return any(value is not None for value in values)
        return self.value in values


def unwanted(prompt: str, negative: str) -> tuple[Fact, ...]:
    """What `negative` says and `prompt` does not.

    Of two different characters only the one that the negative says it of counts.

    Raises:
        ValueError: it says nothing that the prompt does not, or a text is not of the world's language.
    """
    said, avoided = parse(prompt), parse(negative)
    facts: list[Fact] = []
    for place, character in enumerate(avoided.left_to_right):
        same = said.left_to_right[place] if said.count == avoided.count else None
        for field in ("kind", "fur", "view", *ACCESSORIES):
            value = getattr(character, field)
            if value is not None and value != getattr(same, field, None):
                facts.append(Fact(field, value, character.kind if said.relation else None))
    if avoided.background not in (None, said.background):
        facts.append(Fact("background", avoided.background))
    if not facts:
        raise ValueError(f"negative={negative!r} says nothing that prompt={prompt!r} does not")
    return tuple(dict.fromkeys(facts))


@dataclass(frozen=True)
class Case:
    """A prompt, and what it is drawn without.

    Attributes:
        prompt, negatives: the texts.
        present: of a negative that is not in the picture: another one that is, to compare with.
    """

    prompt: str
    negatives: tuple[str, ...]
    present: str | None = None

    @cached_property
    def _facts(self) -> list[tuple[Fact, ...]]:
        return [unwanted(self.prompt, negative) for negative in self.negatives]

    @property
    def with_present(self) -> Case:
        """The same prompt without the thing that is in the picture."""
        if self.present is None:
            raise ValueError(f"the case of {self.prompt!r} names no present negative")
        return Case(self.prompt, (self.present,))

    @property
    def together(self) -> str:
        """All negatives as the one text of a classic negative prompt."""
        return self.negatives[0] if len(self.negatives) == 1 else joined(self.negatives)

    def kept(self, seen: Scene) -> bool:
        """Whether everything that the prompt says is there."""
        return all(agreement(parse(self.prompt), seen).values())

    def gone(self, seen: Scene) -> list[bool]:
        """Of each negative, whether nothing that it is against is there."""
        return [not any(fact.shows(seen) for fact in facts) for facts in self._facts]

    def removed(self, seen: Scene) -> bool:
        """Whether nothing of any negative is there."""
        return all(self.gone(seen))


@dataclass(frozen=True)
class Suite:
    """Cases that are drawn and judged together.

    Attributes:
        name: as `--suite` has it.
        title: for people.
        kind: what is measured: "removed" (one negative), "several" or "absent".
        cases: makes the list.
        seed: the first one.
        images: how many a case, by default.
    """

    name: str
    title: str
    kind: str
    cases: Callable[[], list[Case]]
    seed: int
    images: int

    def seeds(self, number: int, images: int) -> list[int]:
        """Of the case of this number."""
        if images > SEEDS_PER_CASE:
            raise ValueError(f"images={images}: a case has {SEEDS_PER_CASE} seeds of its own")
        first = self.seed + SEEDS_PER_CASE * number
        return list(range(first, first + images))


def one(prompt: str, negative: str) -> Case:
    return Case(prompt, (negative,))


def first() -> list[Case]:
    """Four ways of overlapping for each of the five kinds."""
    rows = []
    for kind in KINDS:
        rows += [
            one(f"a {kind} wearing glasses", "black glasses"),
            one(f"a {kind} wearing glasses", f"a {kind} wearing black glasses"),
            one(f"a {kind}", f"a brown {kind}"),
            one(f"a {kind} wearing a hat", f"a brown {kind} wearing a hat"),
        ]
    return rows


def heavy() -> list[Case]:
    """Negatives that say the whole prompt and one thing more."""
    rows = []
    for a, side, b in (
        ("bear", "left", "cat"),
        ("rabbit", "right", "dog"),
        ("robot", "left", "bear"),
        ("dog", "left", "rabbit"),
        ("cat", "right", "robot"),
        ("bear", "right", "rabbit"),
        ("robot", "right", "dog"),
        ("cat", "left", "dog"),
    ):
        rows.append(one(f"a {a} to the {side} of a {b}", f"a {a} to the {side} of a brown {b}"))
    for a, side, b in (
        ("dog", "left", "cat"),
        ("robot", "right", "rabbit"),
        ("bear", "left", "dog"),
        ("rabbit", "left", "robot"),
        ("cat", "right", "bear"),
    ):
        pair = f"a {a} to the {side} of a {b} wearing"
        rows.append(one(f"{pair} glasses", f"{pair} black glasses"))
    for kind in KINDS:
        rows += [
            one(f"a {kind} in side view", f"a brown {kind} in side view"),
            one(f"a {kind} in back view", f"a {kind} in front view"),
        ]
    for kind in ("cat", "dog", "robot"):
        rows.append(
            one(f"a {kind} in side view wearing glasses", f"a {kind} in side view wearing black glasses")
        )
    for kind in ("bear", "dog", "robot"):
        rows.append(one(f"a {kind} wearing a hat and a scarf", f"a brown {kind} wearing a hat and a scarf"))
    for kind in ("cat", "rabbit"):
        # green as the trademark character's
        rows.append(one(f"a {kind} wearing a hat and a scarf", f"a {kind} wearing a green hat and a scarf"))
    for kind, other in (("bear", "a hat"), ("cat", "a scarf"), ("rabbit", "a hat")):
        rows.append(
            one(f"a {kind} wearing {other} and glasses", f"a {kind} wearing {other} and black glasses")
        )
    for kind, place in (("bear", "on a beach"), ("cat", "at night"), ("dog", "in the snow")):
        rows.append(one(f"a {kind} {place}", f"a brown {kind} {place}"))
    for kind, place in (("rabbit", "in a room"), ("robot", "in a meadow"), ("bear", "in the snow")):
        rows.append(one(f"a {kind} wearing glasses {place}", f"a {kind} wearing black glasses {place}"))
    for count, kinds in (("two", "rabbits"), ("three", "bears"), ("two", "cats")):
        rows.append(one(f"{count} {kinds}", f"{count} brown {kinds}"))
    for count, kinds in (("two", "robots"), ("three", "dogs"), ("two", "bears")):
        rows.append(one(f"{count} {kinds} wearing glasses", f"{count} {kinds} wearing black glasses"))
    return rows


def first_several() -> list[Case]:
    """Two and four negatives at once, for choosing."""
    return [
        Case(prompt, tuple(negatives))
        for prompt, *negatives in (
            ("a bear wearing glasses", "brown fur", "black glasses"),
            ("a cat wearing glasses", "black glasses", "front view"),
            ("a rabbit wearing glasses", "black glasses", "in a room"),
            ("a dog", "brown fur", "front view"),
            ("a robot wearing a hat", "brown fur", "in a meadow"),
            ("a bear wearing a scarf", "brown fur", "in the snow"),
            ("a cat wearing a hat and glasses", "black glasses", "in a meadow"),
            ("two dogs", "brown fur", "in a room"),
            ("a bear wearing glasses", "black glasses", "brown fur", "a scarf", "in the snow"),
            ("a cat wearing glasses", "brown fur", "black glasses", "a hat", "on a beach"),
            ("a rabbit wearing glasses", "brown fur", "black glasses", "front view", "a hat"),
            ("a dog wearing glasses", "brown fur", "black glasses", "front view", "in the snow"),
            ("a robot wearing glasses", "brown fur", "black glasses", "a scarf", "in a meadow"),
            ("a dog", "brown fur", "front view", "a hat", "in a room"),
            ("a robot wearing a hat", "brown fur", "front view", "glasses", "at night"),
            ("an explorer in the snow", "a green hat", "a purple scarf", "orange fur", "glasses"),
        )
    ]


def several() -> list[Case]:
    """Two and four negatives at once, for reporting."""
    rows: list[tuple[str, ...]] = []
    for kind in KINDS:
        rows += [
            (f"a {kind} wearing glasses", f"brown {kind}", "black glasses"),
            (f"a {kind} wearing a hat", f"brown {kind}", "front view"),
        ]
    rows += [
        ("a bear wearing glasses", "black glasses", "on a beach"),
        ("a cat wearing glasses", "black glasses", "a scarf"),
        ("a rabbit wearing glasses", "black glasses", "a hat"),
        ("a dog wearing glasses", "black glasses", "at night"),
        ("a robot wearing glasses", "black glasses", "in the snow"),
        ("a bear", "brown fur", "a hat"),
        ("a cat", "brown fur", "on a beach"),
        ("a rabbit", "brown fur", "a scarf"),
        ("a dog in the snow", "brown fur", "glasses"),
        ("a robot", "brown fur", "at night"),
    ]
    for kind, place, other in (
        ("bear", "in the snow", "a hat"),
        ("cat", "on a beach", "a scarf"),
        ("rabbit", "at night", "in a room"),
        ("dog", "in a room", "on a beach"),
        ("robot", "in a meadow", "at night"),
    ):
        present = (f"a {kind} wearing glasses", f"brown {kind}", "black glasses")
        rows += [(*present, "a scarf", place), (*present, "front view", other)]
    rows += [
        ("a bear", "brown fur", "front view", "a hat", "on a beach"),
        ("a cat", "brown fur", "front view", "glasses", "a scarf"),
        ("a rabbit", "brown fur", "front view", "a scarf", "at night"),
        ("a dog", "brown fur", "front view", "a hat", "a scarf"),
        ("a robot", "brown fur", "front view", "glasses", "in the snow"),
        ("a bear wearing glasses and a scarf", "brown fur", "black glasses", "a hat", "at night"),
        ("a cat wearing a hat and glasses", "brown fur", "black glasses", "a scarf", "in a room"),
        ("a rabbit wearing glasses on a beach", "brown fur", "black glasses", "a hat", "a scarf"),
        ("an explorer", "a green hat", "a purple scarf", "orange fur", "front view"),
        ("an explorer on a beach", "a purple scarf", "orange fur", "front view", "glasses"),
    ]
    return [Case(prompt, tuple(negatives)) for prompt, *negatives in rows]


def first_absent() -> list[Case]:
    """Negatives that are not in the picture, for choosing."""
    return [
        Case(prompt, (negative,), present)
        for prompt, negative, present in (
            ("a bear wearing a hat", "glasses", "brown fur"),
            ("a dog wearing a hat", "glasses", "brown fur"),
            ("a robot wearing a hat", "glasses", "brown fur"),
            ("a cat at night", "in the snow", "brown fur"),
            ("a rabbit on a beach", "in a room", "brown fur"),
            ("a cat wearing glasses at night", "in the snow", "black glasses"),
            ("a dog wearing glasses on a beach", "in a meadow", "black glasses"),
            ("a bear in side view", "front view", "brown fur"),
            ("a robot in side view", "front view", "brown fur"),
            ("a rabbit wearing a hat", "a robot", "brown fur"),
            ("a cat wearing a hat", "a dog", "brown fur"),
            ("a white bear", "brown fur", "front view"),
        )
    ]


def absent() -> list[Case]:
    """Negatives that are not in the picture, for reporting: accessories, places, kinds, views and colours."""
    rows: list[tuple[str, str, str]] = []
    places = ("on a beach", "in the snow", "at night", "in a room", "in a meadow")
    for i, kind in enumerate(KINDS):
        other, place, elsewhere = KINDS[(i + 1) % 5], places[i], places[(i + 2) % 5]
        rows += [
            (f"a {kind} wearing glasses", "a scarf", "black glasses"),
            (f"a {kind} wearing glasses", f"a {kind} wearing a hat", "black glasses"),
            (f"a {kind} wearing glasses {place}", elsewhere, "black glasses"),
            (f"a {kind} wearing a scarf", "glasses", "brown fur"),
            (f"a {kind}", "a hat", "brown fur"),
            (f"a {kind}", f"a {other}", "brown fur"),
            (f"a {kind} in side view", "back view", "brown fur"),
            (f"a {kind} {place}", elsewhere, "brown fur"),
            (f"a grey {kind}", "brown fur", "front view"),
        ]
    return [Case(prompt, (negative,), present) for prompt, negative, present in rows]


SUITES = {
    suite.name: suite
    for suite in (
        Suite("first", "Negatives that overlap the prompt", "removed", first, 0, 10),
        Suite("heavy", "Negatives that say the whole prompt and more", "removed", heavy, 1_000_000, 5),
        Suite("several", "Several negatives", "several", several, 2_000_000, 10),
        Suite("absent", "Negatives that are not in the picture", "absent", absent, 3_000_000, 5),
        Suite("first-several", "Several negatives, for choosing", "several", first_several, 4_000_000, 10),
        Suite("first-absent", "Absent negatives, for choosing", "absent", first_absent, 5_000_000, 10),
    )
}


def by_count(cases: Sequence[Case]) -> dict[int, list[int]]:
    """{how many negatives: the numbers of the cases that have so many}, in their order."""
    counts: dict[int, list[int]] = {}
    for number, case in enumerate(cases):
        counts.setdefault(len(case.negatives), []).append(number)
    return counts
