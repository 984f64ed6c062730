"""What the planner of a closed world knows beside its own edits, for those who think of edits of its captions too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from negguide.mining.edits.planner import Planner
from negguide.mining.item import Edit

Span = tuple[int, int]
NOT_OF_THIS_WORLD = "not of this world"
"""The objection to an edit whose captions the world cannot read."""


@dataclass(frozen=True)
class Target:
    """A word that may be exchanged: its span, what an edit of it is called, and what it takes out of the picture."""

    span: Span
    category: str
    avoid: str = ""


class ClosedPlanner(Planner, Protocol):
    """A planner by the grammar of a closed world, which also reads what other planners propose.

    Its `objection` is `NOT_OF_THIS_WORLD` for an edit with a caption that the world cannot read.
    """

    def targets(self, caption: str) -> list[Target]:
        """The words that may be exchanged for one word each; none in a fragment such as "a red hat".

        Raises:
            ValueError: the caption is not of the world.
        """
        ...

    def fits(self, old: str, target: Target, guess: str) -> bool:
        """Whether a word has the form of the one that it replaces, both in lower case, such as its number."""
        ...

    def naming(self, edit: Edit, phrase: str) -> Edit:
        """The edit with ``phrase`` as what to avoid, unless something in the new picture is still so."""
        ...
