"""Words of messages, and the words of texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORD = re.compile(r"\w+(?:['’]\w+)*")
"""A word as a bag of words has it: what a hyphen joins are two."""
COMPOUND = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
"""A word as it stands in a caption: what a hyphen joins is one."""


def listed(words: Iterable[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"; `last` is the word before the last one."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end


def normalised(text: str) -> str:
    """What two texts are compared by: the words in lower case. Spaces, marks and hyphens say nothing."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'")))
