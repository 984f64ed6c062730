"""Where in a caption of the toy world each thing is said: the parser's scene, with the places of its words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from negguide.toyworld.language import NEGATION, PLURALS, SYNONYMS, parse
from negguide.toyworld.scene import ACCESSORIES, COLORS, FURS, KINDS, TRADEMARK_NAME, VIEWS, Character, Scene

Span = tuple[int, int]


@dataclass
class Said:
    """One accessory in the words of a caption: ``span`` holds "a red hat", ``color`` "red" (or nothing)."""

    name: str
    span: Span
    color: Span | None = None


@dataclass
class Group:
    """The words for one character, or for several equal ones.

    Attributes:
        span: all of its words.
        number: "a", "an", "two", "three"; None for the trademark character.
        kind, fur, view: where these are said; ``view`` is the word between "in" and "view".
        fur_first: the fur stands before the kind, so that it decides between "a" and "an".
        head: where the words for what is worn begin, right after the word before them.
        clothes: "wearing a red hat and a scarf", from the end of the word before it; None when nothing is worn.
        worn: the items in it, in the order in which they are said.
        without: "without a hat and glasses", from the end of the word before it.
        absent: the items in that.
    """

    span: Span
    number: Span | None = None
    kind: Span | None = None
    fur: Span | None = None
    fur_first: bool = False
    view: Span | None = None
    head: int = 0
    clothes: Span | None = None
    worn: list[Said] = field(default_factory=list)
    without: Span | None = None
    absent: list[Said] = field(default_factory=list)


@dataclass
class Reading:
    """A caption with its scene; ``groups`` are in the order of the words, as are ``scene.characters``."""

    text: str
    scene: Scene
    groups: list[Group]
    relation: Span | None = None

    def words(self, span: Span) -> str:
        """The words of a span."""
        return self.text[span[0] : span[1]]


@lru_cache(maxsize=4096)  # an edit is read when it is made, and again when it is checked
def read(text: str) -> Reading:
    """Read a caption about whole characters (no fragment like "a red hat") and find its words.

    Raises:
        ValueError: ``text`` is not in the grammar of the toy world, or no caption of characters.
    """
    scene = parse(text, negation=True)
    tokens = list(re.finditer(r"[^\s,.]+", text))
    words = [SYNONYMS.get(token[0].lower(), token[0].lower()) for token in tokens]
    numbered = words[:1] and words[0] in ("a", "an", "two", "three")
    heads = {*KINDS, *PLURALS, "explorer"} if numbered else {"explorer", TRADEMARK_NAME}
    if not heads & set(words[1:3] if numbered else words[:1]):
        raise ValueError(
            f"caption={text!r} is a fragment; a caption names a character, like 'a bear at night'"
        )
    reader = _Reader(words, [token.span() for token in tokens])
    groups = [reader.group()]
    relation = None
    if reader.word() == "to":
        relation = reader.spans[reader.at + 2]
        reader.at += 4
        groups.append(reader.group())
    return Reading(text, scene, groups, relation)


class _Reader:
    """Walks over the words of a caption that is known to parse, so every choice is made by one look ahead."""

    def __init__(self, words: list[str], spans: list[Span]) -> None:
        self.words = words
        self.spans = spans
        self.at = 0

    def word(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.words[index] if index < len(self.words) else ""

    def step(self) -> Span:
        self.at += 1
        return self.spans[self.at - 1]

    def end(self) -> int:
        """Where the word before this one ends."""
        return self.spans[self.at - 1][1]

    def group(self) -> Group:
        group = Group(self.spans[self.at])
        if self.word() in ("a", "an", "two", "three"):
            group.number = self.step()
        if self.word() in (TRADEMARK_NAME, "explorer"):
            self.step()
        else:
            if self.word() in FURS:
                group.fur, group.fur_first = self.step(), True
            assert self.word() in KINDS or self.word() in PLURALS
            group.kind = self.step()
            if self.word() == "with" and self.word(2) == "fur":
                self.step()
                group.fur = self.step()
                self.step()
        if self.word() == "in" and self.word(1) in VIEWS:
            self.step()
            group.view = self.step()
            self.step()
        group.head = self.end()
        if self.word() in ("wearing", "with"):
            group.worn, group.clothes = self.clause(group.head)
        if self.word() == NEGATION:
            group.absent, group.without = self.clause(self.end())
        group.span = (group.span[0], self.end())
        return group

    def clause(self, start: int) -> tuple[list[Said], Span]:
        items: list[Said] = []
        while not items or self.word() == "and":
            self.step()
            items.append(self.item())
        return items, (start, self.end())

    def item(self) -> Said:
        first = self.spans[self.at][0]
        if self.word() == "a":
            self.step()
        color = self.step() if self.word() in COLORS else None
        assert self.word() in ACCESSORIES
        name = self.word()
        return Said(name, (first, self.step()[1]), color)


def wears(character: Character, name: str) -> bool:
    """True when the character is said to wear the accessory, of whatever colour."""
    return name in dict(character.worn)
