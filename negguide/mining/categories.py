"""The kinds of edits that there are, each stated once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One kind of edit.

    Attributes:
        name: as it stands in ``Edit.category`` and in options.
        meaning: what it does, in the words that a chat model is told.
        entailed: whether the edited caption is true of the original image as well ("a kitchen" of a kitchen with a
            table). Such an edit is a negative only together with an image that was checked; never as text alone.
    """

    name: str
    meaning: str
    entailed: bool = False


ALL = (
    Category("object", "another thing in the place of one: a dog becomes a cat"),
    Category("attribute", "another colour, size or material of one thing"),
    Category("count", "another number of one thing"),
    Category(
        "relation", "the opposite place: left becomes right, on becomes under, in front of becomes behind"
    ),
    Category(
        "action", "another thing that is done: sitting becomes standing, riding a bike becomes pushing a bike"
    ),
    Category("swap", "two things or two attributes exchanged; exactly the same words in another order"),
    Category("add", "one more thing, named in a few words"),
    Category("remove", "one thing and the words that join it left out", entailed=True),
    Category(
        "negation",
        'a thing denied, as in "without a hat"; give in "draw" the caption with the thing simply left out',
    ),
)
"""The registry: whoever needs the names, the texts or the flags of categories reads them here."""

CATEGORIES = tuple(category.name for category in ALL)
TEXT_CATEGORIES = tuple(category.name for category in ALL if not category.entailed)
"""What makes a negative without any image: all but what the original image would show too."""
