"""Scenes: what can be in a picture of the toy world, and how often it is.

A scene is plain data, so every picture of the world comes with its exact truth. The world is biased on purpose:
the methods of negguide exist to work against such biases, and here they can be measured.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

KINDS = ("bear", "cat", "rabbit", "dog", "robot")
FURS = ("brown", "grey", "white", "orange", "black")
VIEWS = ("front", "side", "back")
ACCESSORIES = ("hat", "glasses", "scarf")
COLORS = ("red", "yellow", "green", "blue", "purple", "pink", "white", "black")
BACKGROUNDS = ("meadow", "beach", "snow", "night", "room")
RELATIONS = ("left", "right")
MAX_COUNT = 3

ANY_COLOR = "any"
"""An accessory that is named without its colour ("a hat")."""
ABSENT = "no"
"""An accessory that is said not to be worn ("without a hat")."""

# The biases. Each is the share of scenes in which the first-named value is drawn without being asked for.
BROWN_FUR = 0.5
"""Share of characters whose fur is brown; the other colours share the rest evenly."""
BLACK_GLASSES = 0.6
"""Share of glasses that are black."""
VIEW_WEIGHTS = {"front": 0.80, "side": 0.12, "back": 0.08}
"""How often a character is seen from each side."""
VIEW_SAID = {"front": 0.25, "side": 0.7, "back": 0.7}
"""How often a caption says the view."""
FUR_SAID = 0.7
"""How often a caption says the colour of the fur."""
WRONG_BACK_VIEW = 0.35
"""Share of the captions saying "in back view" whose picture is a front view, as captions of the wild are wrong."""
EXPLORER_IS_TRADEMARK = 0.75
"""How often "an explorer" is the trademark character; otherwise it is anybody with a hat and a scarf."""


def _check(name: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise ValueError(f"{name}={value!r} is not in this world; use one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Character:
    """One character. ``None`` is "not said" for kind, fur and view, and "not worn" for the accessories.

    Accessories hold a colour of ``COLORS``, or in a scene that was read from words ``ANY_COLOR`` or ``ABSENT``.
    """

    kind: str | None = None
    fur: str | None = None
    view: str | None = None
    hat: str | None = None
    glasses: str | None = None
    scarf: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("fur", FURS), ("view", VIEWS)):
            _check(name, getattr(self, name), allowed)
        for name in ACCESSORIES:
            _check(name, getattr(self, name), (*COLORS, ANY_COLOR, ABSENT))

    @property
    def worn(self) -> tuple[tuple[str, str], ...]:
        """The accessories as (name, colour), in the order of ``ACCESSORIES``."""
        pairs = ((name, getattr(self, name)) for name in ACCESSORIES)
        return tuple((name, color) for name, color in pairs if color not in (None, ABSENT))

    @property
    def absent(self) -> tuple[str, ...]:
        """The accessories that are said not to be worn, in the order of ``ACCESSORIES``."""
        return tuple(name for name in ACCESSORIES if getattr(self, name) == ABSENT)


TRADEMARK_NAME = "pip"
TRADEMARK = Character(kind="cat", fur="orange", hat="green", scarf="purple")
"""Pip, the character with a design of its own; any view may be seen."""


@dataclass(frozen=True)
class Scene:
    """One to three characters from left to right, and a background.

    ``relation`` is the place of the first character relative to the second; it is given exactly when the scene has two
    different characters. Several equal characters are a count. ``explorer`` marks the generic words
    "an explorer", which leave open who is seen.
    """

    characters: tuple[Character, ...]
    background: str | None = None
    relation: str | None = None
    explorer: bool = False

    def __post_init__(self) -> None:
        if len(self.characters) > MAX_COUNT:
            raise ValueError(
                f"characters: {len(self.characters)} are too many, a scene holds at most {MAX_COUNT}"
            )
        _check("background", self.background, BACKGROUNDS)
        _check("relation", self.relation, RELATIONS)
        if self.relation is not None and len(self.characters) != 2:
            raise ValueError(
                f"relation={self.relation!r} needs exactly two characters, got {len(self.characters)}"
            )

    @property
    def count(self) -> int:
        """How many characters there are."""
        return len(self.characters)

    @property
    def left_to_right(self) -> tuple[Character, ...]:
        """The characters as they stand in the picture."""
        return self.characters[::-1] if self.relation == "right" else self.characters


def is_complete(scene: Scene) -> bool:
    """True when everything that a picture needs is said, so that ``render`` can draw the scene."""
    if not scene.characters or scene.background is None or scene.explorer:
        return False
    if len(scene.characters) == 2 and scene.relation is None and scene.characters[0] != scene.characters[1]:
        return False
    return all(
        c.kind and c.fur and c.view and not c.absent and all(color != ANY_COLOR for _, color in c.worn)
        for c in scene.characters
    )


def sample_character(rng: random.Random, *, max_accessories: int = 3, biased: bool = True) -> Character:
    """Draw a character with the biases of the world, or with ``biased=False`` evenly."""
    others = [fur for fur in FURS if fur != "brown"]
    fur = "brown" if rng.random() < (BROWN_FUR if biased else 1 / len(FURS)) else rng.choice(others)
    view = rng.choices(VIEWS, weights=[VIEW_WEIGHTS[v] for v in VIEWS])[0] if biased else rng.choice(VIEWS)
    count = min(max_accessories, rng.choices((0, 1, 2, 3), weights=(0.3, 0.4, 0.2, 0.1))[0])
    worn = {}
    for name in rng.sample(ACCESSORIES, count):
        if name == "glasses" and rng.random() < (BLACK_GLASSES if biased else 1 / len(COLORS)):
            worn[name] = "black"
        else:
            worn[name] = rng.choice([c for c in COLORS if (name, c) != ("glasses", "black")])
    return Character(kind=rng.choice(KINDS), fur=fur, view=view, **worn)


def sample_scene(rng: random.Random, *, biased: bool = True) -> Scene:
    """Draw a complete scene: 58% one character, 25% two different ones, 10% several equal ones, 7% explorers."""
    background = rng.choice(BACKGROUNDS)
    draw = rng.random()
    if draw < 0.58:
        return Scene((sample_character(rng, biased=biased),), background)
    if draw < 0.83:
        first = sample_character(rng, max_accessories=2, biased=biased)
        second = sample_character(rng, max_accessories=2, biased=biased)
        while second == first:
            second = sample_character(rng, max_accessories=2, biased=biased)
        return Scene((first, second), background, rng.choice(RELATIONS))
    if draw < 0.93:
        character = sample_character(rng, max_accessories=1, biased=biased)
        return Scene((character,) * rng.choice((2, 3)), background)
    return Scene((sample_explorer(rng),), background)


def sample_explorer(rng: random.Random) -> Character:
    """Draw who is seen when a caption only says "an explorer": mostly the trademark character."""
    view = rng.choices(VIEWS, weights=[VIEW_WEIGHTS[v] for v in VIEWS])[0]
    if rng.random() < EXPLORER_IS_TRADEMARK:
        return replace(TRADEMARK, view=view)
    anybody = sample_character(rng, max_accessories=0)
    return replace(anybody, view=view, hat=rng.choice(COLORS), scarf=rng.choice(COLORS))


def is_trademark(character: Character) -> bool:
    """True when kind, fur and clothes are those of the trademark character, from whichever side it is seen."""
    return replace(character, view=None) == TRADEMARK


def held_out(scene: Scene) -> bool:
    """True for the tenth of all scenes that no model is trained on.

    The split goes by the content of the scene alone (a stable hash), so a held-out combination of attributes is
    never seen in training, whatever its pose.
    """
    text = (
        "|".join(",".join(str(getattr(c, f.name)) for f in fields(c)) for c in scene.left_to_right)
        + f"|{scene.background}"
    )
    value = 2166136261
    for byte in text.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % 10 == 0
