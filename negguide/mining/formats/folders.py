"""Folders that are there as a whole or not at all, and the set itself as such a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from negguide.mining.item import Item
from negguide.mining.shard_files import METADATA
from negguide.storage import ImageFile, Place

SHARD = 1000
"""Items a shard, or a file, of the formats that have several, unless the user says otherwise."""
SUFFIXES = {"image": "", "negative_image": "-negative", "control_image": "-control"}
"""Of the names of an item's images, by role."""


@dataclass(frozen=True)
class Target:
    """Where an export is written, and how.

    Attributes:
        folder: to write into.
        out: where that folder will be when it is complete.
        shard_size: items a shard, or a file, of the formats that have several.
        say: is told what a reader of the export must know.
        leave_out: is told each item that the format has no place for.
    """

    folder: Path
    out: Path
    shard_size: int
    say: Callable[[str], None]
    leave_out: Callable[[Item], None]


def check_out(path: Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        ValueError: there is something at ``path`` already, and ``overwrite`` is false or it is no folder.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out={str(path)!r} is a file; give a folder")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"out={str(path)!r} exists already; give another folder, or overwrite it")


class Copies:
    """Images copied into a folder, each file once however many rows name it.

    Args:
        folder: made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[ImageFile, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, source: ImageFile, name: str) -> str:
        """Copy ``source`` as ``name`` with its own suffix, unless it is there; gives the file's name there."""
        if source not in self._names:
            self._names[source] = name + source.suffix.lower()
            (self.folder / self._names[source]).write_bytes(source.read_bytes())
        return self._names[source]


def write_imagefolder(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """``data/00000/metadata.jsonl`` with its images under ``images``."""
    for number, (item, place) in enumerate(items):
        shard = target.folder / "data" / f"{number // target.shard_size:05d}"
        if number % target.shard_size == 0:
            copies = Copies(shard / "images")
        row = item.row()
        for role, source in item.files(place).items():
            name = f"{number:09d}{SUFFIXES[role]}"
            row[f"{role}_file_name"] = f"images/{copies.add(source, name)}"
        with (shard / METADATA).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
