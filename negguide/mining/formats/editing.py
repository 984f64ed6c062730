"""Editing triplets: an image, an instruction that denies a thing, and the image without it.

They are made of pairs of which one caption names a thing that the other does not, and whose images a judge has found to
show just that. The columns are InstructPix2Pix's (arXiv 2211.09800); that the instruction says what must not be there,
and not "remove", is NeIn's (arXiv 2409.06481).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from negguide.mining.audit.roles import as_mined
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.planner import words
from negguide.mining.edits.tagging import DETERMINERS, FINITE, FUNCTION
from negguide.mining.formats.folders import Copies, Target
from negguide.mining.formats.parquet import image_cell, write_rows
from negguide.mining.item import Item
from negguide.mining.item_table import datasets_package
from negguide.mining.settings import seed_of
from negguide.mining.shard_files import METADATA
from negguide.storage import ImageFile, Place
from negguide.text_files import json_lines

INSTRUCTIONS = (
    "There should be no {} in the image.",
    "The image has no {}.",
    "The image does not show any {}.",
    "The image is without any {}.",
    "There must not be any {} in the image.",
)
"""What an instruction may say of a thing; which one a triplet has depends on its id alone."""
COLUMNS = (
    "original_image",
    "edit_prompt",
    "edited_image",
    "original_prompt",
    "edited_prompt",
    "removed",
    "id",
)
"""InstructPix2Pix's five, what is to go, and the id of the pair."""


@dataclass(frozen=True)
class Triplet:
    """One row.

    Attributes:
        original_image, edited_image: their files.
        edit_prompt: the instruction.
        original_prompt, edited_prompt: captions of the two images.
        removed: what the instruction denies: "red hat".
        id: of the pair.
    """

    original_image: ImageFile
    edit_prompt: str
    edited_image: ImageFile
    original_prompt: str
    edited_prompt: str
    removed: str
    id: str


def triplet_of(item: Item, place: Place) -> Triplet | str:
    """The triplet that a pair makes, or why it makes none.

    Args:
        item: of a set; pairs of the categories add, remove and negation make triplets.
        place: the folder of its row.
    """
    if not item.scores:
        return "no image was made"
    item = as_mined(item)
    if item.category not in ("add", "remove", "negation"):
        return "nothing is added, removed or denied"
    removed = _named(item.after) if item.category == "add" else str(item.methods[0].get("avoid", ""))
    if not removed:
        return "what is added or removed has no name"
    files = item.files(place)
    first = (
        "image" if _same_scene(item) else "control_image" if item.extra.get("control_same_noise") else None
    )
    if first is None:
        return "the images were not made of each other, nor from the same noise"
    original, edited = files[first], files["negative_image"]
    said, denied = item.caption, item.prompt or item.negative_caption
    if item.category == "add":
        original, edited, said, denied = edited, original, item.negative_caption, item.caption
    if removed.lower() in denied.lower():
        return "the caption without it names another such thing"
    instruction = INSTRUCTIONS[seed_of(item.id, "instruction") % len(INSTRUCTIONS)].format(removed)
    return Triplet(original, instruction, edited, said, denied, removed, item.id)


def _same_scene(item: Item) -> bool:
    """Whether the negative image was made of the original, or from the noise that the original was painted from."""
    if item.extra.get("mode") in ("edit", "inpaint"):
        return True
    return item.extra.get("original") == "painted" and item.tries == 1


def _named(added: str) -> str:
    """The thing in what was added to a caption, without article: " wearing a red hat" gives "red hat"."""
    book = lexicon()
    found: list[str] = []
    for match in reversed(words(added)):
        word = match[0].lower()
        if word in FINITE and not found:
            continue
        joint = word in FUNCTION | DETERMINERS or word in book.numbers
        if joint or (word.endswith("ing") and book.noun(word) is None and not book.adjective(word)):
            break
        found.append(match[0])
    return " ".join(reversed(found))


def _triplets(items: Iterable[tuple[Item, Place]], target: Target) -> Iterator[Triplet]:
    """The triplets of a set.

    Raises:
        ValueError: there is none, with the reasons.
    """
    left_out: Counter[str] = Counter()
    written = 0
    for item, place in items:
        found = triplet_of(item, place)
        if isinstance(found, str):
            left_out[found] += 1
            target.leave_out(item)
        else:
            written += 1
            yield found
    said = "; ".join(f"{reason} ({count} pairs)" for reason, count in left_out.most_common())
    if not written:
        raise ValueError(f"the set makes no editing triplet: {said or 'it is empty'}")
    target.say(f"{written} triplets" + (f"; left out: {said}" if said else ""))


def write_editing_parquet(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """``data/train-00000.parquet``, ... with the images inside."""
    datasets = datasets_package()
    features = datasets.Features(
        {name: datasets.Image() if name.endswith("image") else datasets.Value("string") for name in COLUMNS}
    )

    def row(triplet: Triplet) -> dict[str, Any]:
        return {
            name: image_cell(getattr(triplet, name)) if name.endswith("image") else getattr(triplet, name)
            for name in COLUMNS
        }

    write_rows(map(row, _triplets(items, target)), features, target)


def write_editing_folder(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """``metadata.jsonl`` with ``original_image_file_name`` and ``edited_image_file_name``, and ``images``."""
    copies = Copies(target.folder / "images")
    with (target.folder / METADATA).open("w", encoding="utf-8") as file:
        for number, triplet in enumerate(_triplets(items, target)):
            row = {name: getattr(triplet, name) for name in COLUMNS}
            for name in ("original_image", "edited_image"):
                suffix = "" if name == "original_image" else "-edited"
                row[f"{name}_file_name"] = f"images/{copies.add(row.pop(name), f'{number:09d}{suffix}')}"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class EditingRow:
    """A row of a set of triplets, as it is read back; images as the bytes of their files."""

    original: bytes
    instruction: str
    target: bytes
    target_caption: str
    removed: str
    id: str


def read_editing(path: Path, limit: int | None = None) -> list[EditingRow]:
    """The triplets in a folder or file that `negguide export` wrote, or in one with the same columns.

    Args:
        path: a folder with ``metadata.jsonl`` or parquet files, or a parquet file. InstructPix2Pix's ``input_image`` is
            read for ``original_image`` too.
        limit: the first so many; None = all.

    Raises:
        ValueError: there are none, or a row lacks a column, with the row.
    """
    rows = list(islice(_editing_rows(path), limit))
    if not rows:
        raise ValueError(f"{path} holds no editing triplets")
    return rows


def _editing_rows(path: Path) -> Iterator[EditingRow]:
    if (path / METADATA).is_file():
        for number, row in json_lines(path / METADATA):
            cells = dict(row) if isinstance(row, dict) else {}
            for name in ("original_image", "edited_image"):
                file = cells.get(f"{name}_file_name")
                if file:
                    cells[name] = _content(path / file)
            yield _editing_row(cells, f"{path / METADATA}, line {number}")
        return
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files or any(file.suffix != ".parquet" for file in files):
        raise ValueError(f"{path} holds neither {METADATA} nor parquet files of editing triplets")
    import pyarrow.parquet

    for file in files:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=16):
            for cells in batch.to_pylist():
                for name in ("original_image", "input_image", "edited_image"):
                    value = cells.get(name)
                    if isinstance(value, dict):
                        cells[name] = value.get("bytes")
                yield _editing_row(cells, f"{file}, row {number}")
                number += 1


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"the image {path} cannot be read: {error.strerror}") from error


def _editing_row(cells: dict[str, Any], where: str) -> EditingRow:
    cells["original_image"] = cells.get("original_image") or cells.get("input_image")
    for name in ("original_image", "edited_image"):
        if not isinstance(cells.get(name), bytes):
            raise ValueError(f"{where}: no image in the column {name}")
    for name in ("edit_prompt", "edited_prompt", "removed"):
        if not isinstance(cells.get(name), str) or not cells[name]:
            raise ValueError(f"{where}: no text in the column {name}; the judge needs it")
    return EditingRow(
        cells["original_image"],
        cells["edit_prompt"],
        cells["edited_image"],
        cells["edited_prompt"],
        cells["removed"],
        str(cells.get("id") or where),
    )
