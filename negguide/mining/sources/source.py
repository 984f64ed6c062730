"""What all inputs have in common: one pass over pairs, every broken one named, and ids that are unique."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.image_files import UnreadableImageError
from negguide.mining.item import Source
from negguide.storage import fingerprint

LICENCE_COLUMNS = ("licence", "license")
CAPTION_COLUMNS = ("caption", "text", "title")
# Frequent small words of German, French, Spanish, Italian, Portuguese, Dutch and Swedish that are not English.
_FOREIGN_WORDS = """
der das und ist mit ein eine einen einem einer auf von zu zwei im dem
le la les un une et avec dans sur du des est deux qui
el los las una con en por para del dos es
il lo gli di della che due nella sul
um uma os com na em da dois
de het een van met op twee ett och med på
"""
# Frequent small words of English that are in none of these languages ("a", "in", "no" and "on" are).
_ENGLISH_WORDS = """
the at to with and or are were his her their its it he she they this that there two three by for from up down into
over under near next behind front while wearing holding sitting standing without not one some
"""
_FOREIGN = frozenset(_FOREIGN_WORDS.split())
_ENGLISH = frozenset(_ENGLISH_WORDS.split())


@dataclass(frozen=True)
class BadSource:
    """A row of the input that no pair can be made from: its id, and why."""

    id: str
    reason: str


class Input(ABC):
    """Pairs of images and captions, read one after the other; an input may be gone through many times.

    Attributes:
        name: for people and for the data set card.
        licence: of the whole input as far as it says; each ``Source`` may say its own.
        world: the name of the closed world that the captions are of, e.g. "toyworld"; None = everyday English.

    Raises:
        ValueError: while it is gone through, when two rows have the same id, or the input itself is broken (no such
            column, no JSON).

    In an input of several shards an id begins with its shard: "00003/17".
    """

    name: str
    licence: str | None = None
    world: str | None = None

    @abstractmethod
    def rows(self) -> Iterator[Source | BadSource]:
        """All rows as the format has them, images unopened."""

    @property
    def shards(self) -> int:
        """Of how many shards, such as files, the input consists that can be read without the others."""
        return 1

    def shard_rows(self, shard: int) -> Iterator[Source | BadSource]:
        """The rows of one shard; of all of them in turn they are those of ``rows``."""
        return self.rows()

    def shard_print(self, shard: int) -> str | None:
        """What tells cheaply that a shard is another than before, as `file_print`; None where only its rows do."""
        return None

    @property
    def description(self) -> dict[str, Any]:
        """What the input is besides its name, as JSON, for the settings of a run; not where it lies."""
        return {"licence": self.licence, "world": self.world is not None}

    def __iter__(self) -> Iterator[Source | BadSource]:
        return self.sources()

    def sources(self, done: Container[str] = ()) -> Iterator[Source | BadSource]:
        """Go through the input; rows whose id is in ``done`` are passed over without opening their images.

        Captions that are empty or not English (see ``caption_problem``) and images or masks that cannot be opened
        are yielded as ``BadSource``.
        """
        seen: set[bytes] = set()
        for row in self.rows():
            mark = blake2b(row.id.encode(), digest_size=16).digest()
            if mark in seen:
                raise ValueError(f"{self.name}: the id {row.id!r} comes twice; ids must be unique")
            seen.add(mark)
            if row.id in done:
                continue
            if isinstance(row, Source):
                reason = caption_problem(row.caption) or _image_problem(row)
                yield row if reason is None else BadSource(row.id, reason)
            else:
                yield row


def file_print(file: Path) -> str:
    """The name of a file, its size and its `fingerprint`."""
    return f"{file.name}, {file.stat().st_size} bytes, {fingerprint(file)}"


class Ids:
    """Ids for rows that have none: the name of the image, with "#2", "#3" when it comes again (more captions)."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._again: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        """The name as an id that no earlier row has."""
        mark = blake2b(name.encode(), digest_size=16).digest()
        if mark not in self._seen:
            self._seen.add(mark)
            return name
        self._again[name] = self._again.get(name, 1) + 1
        return f"{name}#{self._again[name]}"


def caption_problem(caption: str) -> str | None:
    """Why a caption cannot be edited: "broken caption", "empty caption" or "not English"; None = nothing is against it.

    Only clear cases count as not English: more than half of the letters are not Latin, or at least two small words of
    German, French, Spanish, Italian, Portuguese, Dutch or Swedish and not one of English. Captions without small words
    ("red car") always pass.
    """
    if any("\ud800" <= c <= "\udfff" for c in caption):
        # half of a character, which JSON can hold: it cannot be written
        return "broken caption"
    letters = [c for c in caption if c.isalpha()]
    if not letters:
        return "empty caption"
    latin = sum(c <= "\u024f" or "\u1e00" <= c <= "\u1eff" for c in letters)
    if latin * 2 < len(letters):
        return "not English"
    said = re.findall(r"[^\W\d_]+", caption.lower())
    foreign = sum(word in _FOREIGN for word in said)
    if foreign >= 2 and not any(word in _ENGLISH for word in said):
        return "not English"
    return None


def text_of(value: Any) -> str:
    """A cell of a table as text; a missing one is empty."""
    return "" if value is None else str(value).strip()


def captions_of(value: Any) -> list[str]:
    """The captions in a cell: one, or a list of several for the same image; at least one, possibly empty."""
    if isinstance(value, (list, tuple)):
        return [text_of(one) for one in value] or [""]
    return [text_of(value)]


def with_captions(source: Source, captions: list[str], ids: Ids) -> Iterator[Source]:
    """One source for each caption of the same image."""
    for caption in captions:
        yield replace(source, id=ids(source.id), caption=caption)


def opened(load: Callable[[], Image.Image], what: str = "image") -> tuple[Image.Image | None, str | None]:
    """The image that a loader of a ``Source`` gives, or what is wrong with it."""
    try:
        return load(), None
    except FileNotFoundError:
        return None, f"missing {what}"
    except UnreadableImageError as error:
        return None, f"corrupt {what}: {error}"


def _image_problem(source: Source) -> str | None:
    sizes = []
    for what, load in (("image", source.load), ("mask", source.mask)):
        if load is not None:
            image, problem = opened(load, what)
            if image is None:
                return problem
            sizes.append(image.size)
    if len(set(sizes)) > 1:
        return (
            f"mask of another size: {sizes[1][0]}x{sizes[1][1]} for an image of {sizes[0][0]}x{sizes[0][1]}"
        )
    return None
