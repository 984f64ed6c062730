"""How words are used in captions (the folder ``words``): what stands in whose place, and what speaks against it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from negguide.mining.edits.lexicon import Lexicon, lexicon

SIZES = frozenset(("small", "large", "little", "big", "huge", "giant", "tiny", "enormous", "miniature"))
"""Not said of people: a small child is no small person, and no large child is its opposite."""
RARE = 1.0
"""How common a word is that no table counts."""


@dataclass(frozen=True)
class Exchange:
    """One row of a table: ``words`` exclude each other, and ``more`` says where they can be exchanged."""

    words: Mapping[str, float]
    more: Mapping[str, Any]

    def instead(self, word: str) -> list[tuple[str, float]]:
        """What can stand in the place of ``word``, each with the weight of that edit.

        The weight of v -> w is c(w) / (c(v) + c(w)) for commonness c: as v is met c(v) times, both directions are
        made c(v) c(w) / (c(v) + c(w)) times, and no word tells that a caption was edited.
        """
        own = self.words[word]
        return [(other, count / (own + count)) for other, count in self.words.items() if other != word]


class Usage:
    """The tables. All words are lower case and in their base form."""

    def __init__(self, data: Mapping[str, Any], book: Lexicon) -> None:
        self._book = book
        self.kinds: dict[str, frozenset[str]] = {name: frozenset(v) for name, v in data["kinds"].items()}
        self.peers = [_exchange(row) for row in data["peers"]]
        self.actions = [_exchange(row) for row in data["actions"]]
        self.places = [_exchange(row) for row in data["places"]]
        self.bound: dict[str, frozenset[str]] = {name: frozenset(v) for name, v in data["bound"].items()}
        self.colours: dict[str, list[str]] = data["colours"]
        self.seldom: dict[str, list[str]] = data["seldom"]
        self.commonness: dict[str, float] = data["commonness"]
        self.shares: dict[str, float] = data["shares"]
        self.tilts: dict[str, float] = data["tilts"]
        self.takes: dict[str, frozenset[str]] = {name: frozenset(v) for name, v in data["fits"].items()}

    def is_a(self, word: str, names: Iterable[str]) -> bool:
        """Whether ``word`` is among ``names``, which are words or classes (of ``kinds`` or of the lexicon)."""
        names = set(names)
        noun = self._book.noun(word)
        if word in names or (noun is not None and ({noun.word, noun.kind} & names)):
            return True
        return any(name in self.kinds and word in self.kinds[name] for name in names)

    def allowed(self, old: str, new: str, said: Iterable[str]) -> bool:
        """Whether nothing that is ``said`` besides belongs to ``old`` and not to ``new``."""
        owned = (self.bound[word] for word in said if word in self.bound)
        return not any(old in owners and new not in owners for owners in owned)

    def suits(self, adjective: str, noun: str, kind: str | None) -> bool:
        """Whether one says ``adjective``, of the class ``kind``, of ``noun``."""
        if kind == "color":
            if self.is_a(noun, ("person",)):
                return False
            colours = self._colours_of(noun)
            return colours is None or adjective in colours
        if adjective in SIZES and self.is_a(noun, ("person",)):
            return False
        takes = self.takes.get(adjective)
        return takes is None or self.is_a(noun, takes)

    def _colours_of(self, noun: str) -> list[str] | None:
        if noun in self.colours:
            return self.colours[noun]
        entry = self._book.noun(noun)
        if entry is None:
            return None
        return self.colours.get(entry.base, self.colours.get(entry.kind))

    def weight(self, old: str, new: str) -> float:
        """Of an edit from one adjective to another, see ``Exchange.instead``."""
        before, after = self.commonness.get(old, RARE), self.commonness[new]
        return after / (before + after)


def _exchange(row: Mapping[str, Any]) -> Exchange:
    return Exchange(row["words"], {name: value for name, value in row.items() if name != "words"})


@lru_cache
def usage() -> Usage:
    """The tables of the package."""
    data: dict[str, Any] = {}
    for file in sorted((Path(__file__).parent / "words").glob("*.toml")):
        data |= tomllib.loads(file.read_text(encoding="utf-8"))
    return Usage(data, lexicon())
