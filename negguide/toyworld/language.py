"""The English of the toy world: captions of scenes, a parser back, and the closed vocabulary.

The grammar, in which square brackets are optional parts::

    caption   = group [relation group] [place] | [fragment {"and" fragment}] [place]
    group     = number [fur] kind ["with" fur "fur"] ["in" view "view"] [wearing] [without]
              | "pip" ["in" view "view"] | "an" ["explorer"] ["in" view "view"]
    wearing   = ("wearing" | "with") item {"and" item}
    without   = "without" ["a"] name {"and" ["a"] name}      (read with ``negation=True`` alone)
    item      = ["a"] [color] name
    name      = "hat" | "glasses" | "scarf"
    relation  = "to the left of" | "to the right of"
    place     = "in a meadow" | "on a beach" | "in the snow" | "at night" | "in a room"
    fragment  = item | fur "fur" | view "view" | [fur] kind

Fragments ("black glasses", "back view") are what people write into a negative prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from negguide.toyworld.scene import (
    ABSENT,
    ACCESSORIES,
    ANY_COLOR,
    BACKGROUNDS,
    COLORS,
    FUR_SAID,
    FURS,
    KINDS,
    MAX_COUNT,
    TRADEMARK,
    TRADEMARK_NAME,
    VIEW_SAID,
    VIEW_WEIGHTS,
    VIEWS,
    WRONG_BACK_VIEW,
    Character,
    Scene,
    is_trademark,
)

PLACES = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "snow": "in the snow",
    "night": "at night",
    "room": "in a room",
}
NUMBERS = {1: "a", 2: "two", 3: "three"}
SYNONYMS = {"bunny": "rabbit", "gray": "grey", "spectacles": "glasses", "cap": "hat"}
PLURALS = {f"{kind}s": kind for kind in KINDS} | {"bunnies": "rabbit"}
_FUNCTION_WORDS = ("a", "an", "two", "three", "in", "on", "at", "the", "to", "of", "with", "wearing", "and")
NEGATION = "without"
"""The word for what is not worn. Pictures of the world never came with it: no embedded model has learned it."""
_OTHER_WORDS = ("fur", "view", "left", "right", "explorer", TRADEMARK_NAME)


@cache
def vocabulary(*, negation: bool = False) -> tuple[str, ...]:
    """Every word that a caption may hold, sorted; with ``negation=True``, ``NEGATION`` is the last."""
    words = {*_FUNCTION_WORDS, *_OTHER_WORDS, *KINDS, *FURS, *VIEWS, *ACCESSORIES, *COLORS, *BACKGROUNDS}
    return (*sorted(words | set(SYNONYMS) | set(PLURALS)), *((NEGATION,) if negation else ()))


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Say everything that ``scene`` holds; with ``rng``, in one of several wordings with the same meaning."""
    parts = []
    if scene.explorer:
        view = scene.characters[0].view if scene.characters else None
        parts.append("an explorer" + (f" in {view} view" if view else ""))
    elif scene.relation is not None:
        first, second = (_group(c, 1, rng) for c in scene.characters)
        relation = scene.relation
        if rng is not None and rng.random() < 0.5:
            first, second = second, first
            relation = "left" if relation == "right" else "right"
        parts.append(f"{first} to the {relation} of {second}")
    elif scene.characters:
        parts.append(_group(scene.characters[0], scene.count, rng))
    if scene.background:
        parts.append(PLACES[scene.background])
    return " ".join(parts)


def training_caption(scene: Scene, rng: random.Random) -> str:
    """Caption ``scene`` as the wild would: things left unsaid, other wordings, fragments, and some wrong views.

    Colours of fur and views are said as often as ``FUR_SAID`` and ``VIEW_SAID`` tell, accessories nine times in
    ten; and a front view is called "back view" so often that ``WRONG_BACK_VIEW`` of all such captions are wrong.
    """
    character = scene.characters[0]
    if scene.count == 1 and is_trademark(character) and rng.random() < 0.8:
        said = Character(view=_said_view(character.view, rng))
        if rng.random() < 0.8:
            return caption(Scene((said,), _said(scene.background, 0.7, rng), explorer=True))
        name = TRADEMARK_NAME + (f" in {said.view} view" if said.view else "")
        return f"{name} {PLACES[scene.background or '']}" if rng.random() < 0.7 else name
    explorer = scene.count == 1 and not is_trademark(character) and character.hat and character.scarf
    if explorer and not character.glasses and rng.random() < 0.6:
        said = Character(view=_said_view(character.view, rng))
        return caption(Scene((said,), _said(scene.background, 0.7, rng), explorer=True))
    if scene.count == 1 and rng.random() < 0.1:
        return _fragment_of(scene, rng)
    if scene.relation is None:
        said = _half_said(character, rng)
        return caption(Scene((said,) * scene.count, _said(scene.background, 0.7, rng)), rng)
    pair = tuple(_half_said(c, rng) for c in scene.characters)
    return caption(Scene(pair, _said(scene.background, 0.7, rng), scene.relation), rng)


def parse(text: str, *, negation: bool = False) -> Scene:
    """Read a caption or a fragment back into a scene; what is not said is ``None`` there.

    Args:
        text: a caption of this world's grammar.
        negation: also read "without a hat", as ``ABSENT``. Text-to-image models do not: that is what negatives are for.

    Raises:
        ValueError: a word outside the vocabulary (the message lists it) or words in an order the grammar does not know.
    """
    words = words_of(text)
    known = set(vocabulary(negation=negation))
    unknown = [word for word in words if word not in known]
    if NEGATION in unknown:
        raise ValueError(
            f"prompt={text!r}: {NEGATION!r} is no word to draw from; leave it out of the prompt and give what is "
            f"not wanted as a negative, like Negative('hat')"
        )
    if unknown:
        raise ValueError(
            f"prompt={text!r}: the toy world does not know {', '.join(map(repr, dict.fromkeys(unknown)))}; "
            f"its words are: {', '.join(vocabulary())}"
        )
    return _Parser(text, [SYNONYMS.get(word, word) for word in words]).scene()


def check(text: str) -> None:
    """Refuse what the embedded models cannot draw.

    Raises:
        ValueError: as `parse`, and for a text without a word.
    """
    if parse(text) == Scene(()):
        raise ValueError(f"{text!r} holds no word; write a caption like 'a bear wearing glasses'")


def is_fragment(text: str) -> bool:
    """Whether a text says parts ("black glasses", "a hat at night") and names no character by a number or a name."""
    return not _Parser(text, [SYNONYMS.get(word, word) for word in words_of(text)]).at_group()


def joined(texts: Sequence[str]) -> str:
    """One caption that says what all of ``texts`` say: their parts joined by "and", the place last.

    Raises:
        ValueError: when the grammar has no such caption, as for two places, or for two colours of fur.
    """
    parts, places = [], []
    for text in texts:
        words = " ".join(words_of(text))
        place = next((place for place in PLACES.values() if f" {words}".endswith(f" {place}")), "")
        parts.append(words.removesuffix(place).strip())
        places.append(place)
    caption = " and ".join(part for part in parts if part)
    caption = " ".join([caption, *dict.fromkeys(place for place in places if place)]).strip()
    parse(caption)
    return caption


def places_of_words(text: str) -> list[int | None]:
    """For each word of a caption, the place from the left of the character that it speaks of.

    Of several equal characters it is the first; None for the words between two characters and for those of a place.

    Raises:
        ValueError: as `parse`.
    """
    scene = parse(text)
    words = words_of(text)
    said = next((len(place.split()) for place in PLACES.values() if " ".join(words).endswith(place)), 0)
    places: list[int | None] = [0] * (len(words) - said) + [None] * said
    if scene.relation is not None:
        at = next(i for i in range(len(words)) if words[i : i + 4] == ["to", "the", scene.relation, "of"])
        first = 0 if scene.relation == "left" else 1
        places[:at] = [first] * at
        places[at : at + 4] = [None] * 4
        places[at + 4 : len(words) - said] = [1 - first] * (len(words) - said - at - 4)
    return places


def in_view(text: str, view: str) -> str:
    """The caption with "in `view` view" behind the character, in the words of ``text``.

    Raises:
        ValueError: no view of this world, or a text that the grammar does not know, that says a view already, that has
            no character, or two different ones.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r} is not in the toy world; it has {', '.join(VIEWS)}")
    scene = parse(text)
    if any(character.view is not None for character in scene.characters):
        raise ValueError(f"prompt={text!r} says a view already; leave it out, the camera gives it")
    seen = replace(scene, characters=tuple(replace(one, view=view) for one in scene.characters))
    words = text.split()
    for at in range(1, len(words) + 1):
        turned = " ".join([*words[:at], "in", view, "view", *words[at:]])
        try:
            if parse(turned) == seen:
                return turned
        except ValueError:
            # not the place where the grammar has the view
            continue
    raise ValueError(
        f"prompt={text!r}: a view is of one kind of character, e.g. 'a bear wearing a hat in the snow'"
    )


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; commas and full stops say nothing."""
    return text.lower().replace(",", " ").replace(".", " ").split()


def _said(value: str | None, probability: float, rng: random.Random) -> str | None:
    return value if rng.random() < probability else None


def _said_view(view: str | None, rng: random.Random) -> str | None:
    """The view as a caption says it, wrong as often as ``WRONG_BACK_VIEW`` wants."""
    if view is None:
        return None
    # Of the captions that say "back view", w shall be wrong: b right ones ask for b w / (1 - w) wrong ones, which
    # are taken from the front views.
    right = VIEW_WEIGHTS["back"] * VIEW_SAID["back"]
    wrong = right * WRONG_BACK_VIEW / (1 - WRONG_BACK_VIEW) / VIEW_WEIGHTS["front"]
    if view == "front" and rng.random() < wrong:
        return "back"
    return _said(view, VIEW_SAID[view], rng)


def _half_said(character: Character, rng: random.Random) -> Character:
    worn = {}
    for name, color in character.worn:
        if rng.random() < 0.9:
            worn[name] = ANY_COLOR if rng.random() < 0.15 else color
    return Character(
        kind=character.kind,
        fur=_said(character.fur, FUR_SAID, rng),
        view=_said_view(character.view, rng),
        **worn,
    )


def _fragment_of(scene: Scene, rng: random.Random) -> str:
    character = scene.characters[0]
    facts = [f"{character.fur} fur", f"{_said_view(character.view, rng) or character.view} view"]
    facts += [item(name, color) for name, color in character.worn]
    if rng.random() < 0.25 and scene.background:
        return PLACES[scene.background]
    return " and ".join(rng.sample(facts, min(len(facts), rng.choice((1, 1, 2)))))


def item(name: str, color: str, rng: random.Random | None = None) -> str:
    """Words for one accessory: ``("hat", "red")`` is "a red hat", ``("glasses", "any")`` is "glasses"."""
    if rng is not None and rng.random() < 0.12:
        name = {"hat": "cap", "glasses": "spectacles"}.get(name, name)
    words = [name] if color == ANY_COLOR else [color, name]
    if name not in ("glasses", "spectacles"):
        words.insert(0, "a")
    return " ".join(words)


def _group(character: Character, count: int, rng: random.Random | None) -> str:
    def one_in(n: int) -> bool:
        return rng is not None and rng.random() < 1 / n

    if is_trademark(character):
        return TRADEMARK_NAME + (f" in {character.view} view" if character.view else "")
    kind = character.kind or ""
    if kind == "rabbit" and one_in(8):
        kind = "bunny"
    if count > 1:
        kind = "bunnies" if kind == "bunny" else f"{kind}s"
    fur = character.fur
    if fur == "grey" and one_in(8):
        fur = "gray"
    words = []
    if fur and one_in(6):
        words += [kind, "with", fur, "fur"]
    elif fur:
        words += [fur, kind]
    else:
        words += [kind]
    words.insert(0, "an" if count == 1 and words[0] == "orange" else NUMBERS[count])
    if character.view:
        words += ["in", character.view, "view"]
    if character.worn:
        words.append("with" if one_in(5) else "wearing")
        worn = list(character.worn)
        if rng is not None:
            rng.shuffle(worn)
        words.append(" and ".join(item(name, color, rng) for name, color in worn))
    if character.absent:
        words.append(NEGATION)
        words.append(" and ".join(item(name, ANY_COLOR) for name in character.absent))
    return " ".join(words)


class _Parser:
    """Recursive descent over the words of one caption."""

    def __init__(self, text: str, words: list[str]) -> None:
        self.text = text
        self.words = words
        self.at = 0

    def peek(self, *expected: str) -> bool:
        return tuple(self.words[self.at : self.at + len(expected)]) == expected

    def take(self, *expected: str) -> bool:
        if self.peek(*expected):
            self.at += len(expected)
            return True
        return False

    def one_of(self, options: tuple[str, ...]) -> str | None:
        if self.at < len(self.words) and self.words[self.at] in options:
            self.at += 1
            return self.words[self.at - 1]
        return None

    def wrong(self, expected: str) -> ValueError:
        rest = " ".join(self.words[self.at :])
        found = f"got {rest!r}" if rest else "the prompt ends"
        return ValueError(f"prompt={self.text!r}: expected {expected}, {found}")

    def scene(self) -> Scene:
        if self.at_group():
            scene = self.groups()
        else:
            character = self.fragments()
            scene = Scene((character,) if character != Character() else ())
        background = self.place()
        if self.at < len(self.words):
            if background is not None:
                raise self.wrong("the end, for the place is the last part")
            raise self.wrong(
                "the end, a place (in a meadow, at night, ...), 'wearing ...' or 'to the left of ...'"
            )
        return replace(scene, background=background)

    def at_group(self) -> bool:
        if self.peek(TRADEMARK_NAME) or self.peek("explorer"):
            return True
        if self.at < len(self.words) and self.words[self.at] in ("a", "an", "two", "three"):
            rest = self.words[self.at + 1 : self.at + 3]
            return any(word in KINDS or word in PLURALS or word == "explorer" for word in rest)
        return False

    def groups(self) -> Scene:
        first, count, explorer = self.group()
        for relation in ("left", "right"):
            if self.take("to", "the", relation, "of"):
                second, other_count, other_explorer = self.group()
                if count != 1 or other_count != 1 or explorer or other_explorer:
                    raise ValueError(
                        f"prompt={self.text!r}: left and right are for two single characters, and an explorer stands "
                        "alone"
                    )
                return Scene((first, second), relation=relation)
        return Scene((first,) * count, explorer=explorer)

    def group(self) -> tuple[Character, int, bool]:
        if self.take(TRADEMARK_NAME):
            return replace(TRADEMARK, view=self.view()), 1, False
        number = self.one_of(("a", "an", "two", "three"))
        if self.take("explorer"):
            if number in ("two", "three"):
                raise ValueError(f"prompt={self.text!r}: an explorer stands alone, got {number!r}")
            return Character(view=self.view()), 1, True
        count = {"two": 2, "three": 3}.get(number or "", 1)
        fur = self.one_of(FURS)
        kind = self.one_of((*KINDS, *PLURALS))
        if kind is None:
            raise self.wrong(f"one of {', '.join(KINDS)}")
        kind = PLURALS.get(kind, kind)
        if self.at + 2 < len(self.words) and self.words[self.at + 2] == "fur" and self.take("with"):
            if fur is not None:
                raise self.wrong("the fur only once")
            fur = self.one_of(FURS)
            if fur is None:
                raise self.wrong(f"a colour of fur ({', '.join(FURS)})")
            self.take("fur")
        view = self.view()
        worn: dict[str, str] = {}
        if self.take("wearing") or self.take("with"):
            self.item(worn)
            while self.take("and"):
                self.item(worn)
        if self.take(NEGATION):
            self.missing(worn)
            while self.take("and"):
                self.missing(worn)
        return Character(kind=kind, fur=fur, view=view, **worn), min(count, MAX_COUNT), False

    def view(self) -> str | None:
        for view in VIEWS:
            if self.take("in", view, "view"):
                return view
        return None

    def item(self, worn: dict[str, str]) -> None:
        start = self.at
        self.take("a")
        color = self.one_of(COLORS) or ANY_COLOR
        name = self.one_of(ACCESSORIES)
        if name is None:
            self.at = start
            raise self.wrong("something to wear, like 'a red hat', 'black glasses' or 'a scarf'")
        if name in worn:
            raise ValueError(f"prompt={self.text!r}: only one {name} can be worn")
        worn[name] = color

    def missing(self, worn: dict[str, str]) -> None:
        start = self.at
        self.take("a")
        name = self.one_of(ACCESSORIES)
        if name is None:
            self.at = start
            raise self.wrong(f"one of {', '.join(ACCESSORIES)} after {NEGATION!r}")
        if name in worn:
            raise ValueError(f"prompt={self.text!r}: a {name} is said twice")
        worn[name] = ABSENT

    def fragments(self) -> Character:
        said: dict[str, str] = {}
        while self.at < len(self.words) and not self.at_place():
            if said and not self.take("and"):
                raise self.wrong("'and' between the parts")
            self.fragment(said)
        return Character(**said)

    def fragment(self, said: dict[str, str]) -> None:
        rest = self.words[self.at : self.at + 2]
        if len(rest) == 2 and rest[1] == "view" and rest[0] in VIEWS:
            found = {"view": rest[0]}
        elif len(rest) == 2 and rest[1] == "fur" and rest[0] in FURS:
            found = {"fur": rest[0]}
        elif rest and rest[0] in KINDS:
            found = {"kind": rest[0]}
            rest = rest[:1]
        elif len(rest) == 2 and rest[0] in FURS and rest[1] in KINDS:
            found = {"fur": rest[0], "kind": rest[1]}
        else:
            self.item(said)
            return
        for name, value in found.items():
            if name in said:
                raise ValueError(
                    f"prompt={self.text!r}: the {name} is said twice, as {said[name]!r} and as {value!r}"
                )
        said |= found
        self.at += len(rest)

    def at_place(self) -> bool:
        return any(self.peek(*words.split()) for words in PLACES.values())

    def place(self) -> str | None:
        for name, words in PLACES.items():
            if self.take(*words.split()):
                return name
        return None
