"""Folders that are there as a whole or not at all, and the set itself as such a folder."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from negguide.mining.item import Item
from negguide.mining.shards import METADATA

SHARD = 1000
"""Items a shard, or a file, of the formats that have several."""
SUFFIXES = {"image": "", "negative_image": "-negative", "control_image": "-control"}
"""Of the names of an item's images, by role."""


@contextmanager
def whole_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes ``path`` when the block ends without an error.

    What an earlier run that was killed has left is taken away first.

    Raises:
        ValueError: there is something at ``path`` already, and ``overwrite`` is false or it is no folder.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out={str(path)!r} is a file; give a folder")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"out={str(path)!r} exists already; give another folder, or overwrite it")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # A name of its own: should a second export begin here, this one fails instead of mixing its files with those.
    folder = partial / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        yield folder
        if path.exists():
            path.rename(partial / "old")
        folder.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def images_of(item: Item, place: Path) -> dict[str, Path]:
    """The image files of an item by role: "image", "negative_image", and "control_image" where there is one."""
    names = {
        "image": item.image_file_name,
        "negative_image": item.negative_image_file_name,
        "control_image": item.control_image_file_name,
    }
    return {role: place / name for role, name in names.items() if name is not None}


def copy_image(source: Path, folder: Path, name: str) -> str:
    """Copy an image into ``folder`` as ``name`` with its own suffix; gives the file's name there."""
    file = name + source.suffix.lower()
    shutil.copyfile(source, folder / file)
    return file


def write_imagefolder(items: Iterable[tuple[Item, Path]], folder: Path, out: Path) -> None:
    """``data/00000/metadata.jsonl`` with its images under ``images``."""
    for number, (item, place) in enumerate(items):
        shard = folder / "data" / f"{number // SHARD:05d}"
        if number % SHARD == 0:
            (shard / "images").mkdir(parents=True)
        row = item.row()
        for role, source in images_of(item, place).items():
            name = f"{number:09d}{SUFFIXES[role]}"
            row[f"{role}_file_name"] = f"images/{copy_image(source, shard / 'images', name)}"
        with (shard / METADATA).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
