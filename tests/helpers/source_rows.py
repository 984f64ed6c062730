"""Rows of a source for the tests: how they are written, and what is read of them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.mining.item import Source
from negguide.mining.sources import BadSource

RED, BLUE = (200, 0, 0), (0, 0, 200)


def picture(color: tuple[int, int, int] = RED, size: tuple[int, int] = (12, 8)) -> Image.Image:
    return Image.new("RGB", size, color)


def read(source: Iterable[Source | BadSource]) -> tuple[dict[str, tuple[str, Any]], dict[str, str]]:
    """Ids with captions and middle pixels of what is good, and reasons of what is bad."""
    good: dict[str, tuple[str, Any]] = {}
    bad: dict[str, str] = {}
    for row in source:
        if isinstance(row, Source):
            good[row.id] = (row.caption, row.load().getpixel((6, 4)) if row.load else None)
        else:
            assert isinstance(row, BadSource)
            bad[row.id] = row.reason
    return good, bad


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
