"""What suites in files share: which items are evaluated, and where their images are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negguide.vlm.evaluation.suites.base import ImageFiles, Part, Suite, first_of_each

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


class Selection:
    """Chooses the items of a suite, part by part, and keeps count of what is left out.

    Args:
        limit: the most items of a category; None = all.
        partial: leave out items whose images are missing, and say so, instead of refusing the suite.
        hint: how to say where the images are, for the error message.
    """

    def __init__(self, limit: int | None, partial: bool, *, hint: str) -> None:
        self.limit, self.partial, self.hint = limit, partial, hint
        self.there = self.total = 0

    def of(
        self,
        categories: Sequence[str],
        files: Sequence[Sequence[Path]],
        boxes: Sequence[Box] | None = None,
    ) -> tuple[list[tuple[int, str]], ImageFiles]:
        """The chosen items, each with its place and category, and their images one after the other.

        Args:
            categories: of all items.
            files: the images of each.
            boxes: what is cut out of the image of each; None = nothing is.

        Raises:
            ValueError: images are missing: any of the chosen items', or with `partial` those of all items.
        """
        places = range(len(categories))
        if self.partial:
            exists = {file: file.is_file() for file in dict.fromkeys(f for item in files for f in item)}
            there = [place for place in places if all(exists[file] for file in files[place])]
            if not there and categories:
                raise ValueError(
                    f"none of the {len(categories)} items has its images, the first would be {files[0][0]}; {self.hint}"
                )
        else:
            there = list(places)
        self.there += len(there)
        self.total += len(categories)
        chosen = [there[i] for i in first_of_each([categories[place] for place in there], self.limit)]
        images = ImageFiles(
            [file for place in chosen for file in files[place]],
            None if boxes is None else [boxes[place] for place in chosen],
            hint=f"{self.hint}; a part of them is evaluated with ,partial behind it",
        )
        return [(place, categories[place]) for place in chosen], images

    def suite(self, name: str, version: str, parts: dict[str, Part]) -> Suite:
        """The suite of what was chosen, and which part of all items that is."""
        part = "" if self.there == self.total else f"{self.there:,} of {self.total:,} items"
        return Suite(name, version, parts, part)


def need_columns(rows: Any, names: Sequence[str], file: Path, *, captions: Sequence[str]) -> None:
    """Refuse a file without entries, or with an entry that lacks one of `names` or has an empty caption.

    Args:
        rows: what the file holds.
        names: of the columns that every entry needs.
        file: for the error message.
        captions: those of `names` that must be words.

    Raises:
        ValueError: with the file and the number of the entry.
    """
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file} holds no entries")
    for number, row in enumerate(rows):
        lacking = [name for name in names if not isinstance(row, dict) or name not in row]
        if lacking:
            raise ValueError(f"{file}, entry {number}, lacks {', '.join(lacking)}")
        for name in captions:
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(f"{file}, entry {number}: {name}={row[name]!r} is no caption")
