"""Words of messages, and the words of texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby


def _marks() -> str:
    """The inside of a character class: signs that belong to the letter before them, as most vowels of Indic scripts.

    Python counts them neither as letters nor as digits, so that they would end a word.
    """
    places = (place for place in range(0x300, 0x1F000) if unicodedata.category(chr(place)) in ("Mn", "Mc"))
    runs = [list(run) for _, run in groupby(enumerate(places), lambda numbered: numbered[1] - numbered[0])]
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)


_MARKS = _marks()
WORD = re.compile(rf"[\w{_MARKS}]+(?:['’][\w{_MARKS}]+)*")
"""A word as a bag of words has it: what a hyphen joins are two."""
_LETTERS = rf"(?:[^\W_]|[{_MARKS}])+"
COMPOUND = re.compile(rf"{_LETTERS}(?:['’-]{_LETTERS})*")
"""A word as it stands in a caption: what a hyphen joins is one."""
_PLAIN = re.compile(rf"{_LETTERS}(?:'{_LETTERS})*")
_ASCII = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
"""The same of a text that holds no other letters, found ten times as fast."""


def listed(words: Iterable[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"; `last` is the word before the last one."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end


def normalised(text: str) -> str:
    """The words of a text in lower case, composed (NFC): spaces, punctuation and hyphens say nothing."""
    text = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
    return " ".join((_ASCII if text.isascii() else _PLAIN).findall(text))


def compared(text: str) -> str:
    """What two captions are compared by: their words, or all that stands there where it has none (emoji)."""
    return normalised(text) or text.strip()
