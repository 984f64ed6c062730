"""Words of messages."""

from __future__ import annotations

from collections.abc import Iterable


def listed(words: Iterable[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"; `last` is the word before the last one."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end
