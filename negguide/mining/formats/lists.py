"""Images in a folder and a list beside it: open_clip's TSV, SugarCrepe's JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from negguide.mining.formats.folders import SUFFIXES, copy_image, images_of
from negguide.mining.item import Item


def write_open_clip(items: Iterable[tuple[Item, Path]], folder: Path, out: Path) -> None:
    """``pairs.tsv`` with ``filepath`` and ``title``; a negative image with its own caption is a row like any other.

    open_clip opens a file path as it stands, from wherever it is started, so paths are absolute.
    """
    (folder / "images").mkdir()
    with (folder / "pairs.tsv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter="\t", lineterminator="\n")
        lines.writerow(("filepath", "title"))
        for number, (item, place) in enumerate(items):
            files = images_of(item, place)
            for role, title in (("image", item.caption), ("negative_image", item.negative_caption)):
                copied = copy_image(files[role], folder / "images", f"{number:09d}{SUFFIXES[role]}")
                lines.writerow((out / "images" / copied, title))


def write_sugarcrepe(items: Iterable[tuple[Item, Path]], folder: Path, out: Path) -> None:
    """``{category}.json`` for each category, as the public set has it, and ``images``."""
    (folder / "images").mkdir()
    rows: dict[str, dict[str, Any]] = {}
    for number, (item, place) in enumerate(items):
        of_category = rows.setdefault(item.category, {})
        of_category[str(len(of_category))] = {
            "filename": copy_image(images_of(item, place)["image"], folder / "images", f"{number:09d}"),
            "caption": item.caption,
            "negative_caption": item.negative_caption,
        }
    for category, content in rows.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / f"{category}.json").write_text(text + "\n", encoding="utf-8")
