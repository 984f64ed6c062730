"""Winoground, in the files that its authors released."""

from __future__ import annotations

from pathlib import Path

from negguide.text_files import json_lines
from negguide.vlm.evaluation.suites.base import Pair, Pairs, Suite
from negguide.vlm.evaluation.suites.files import Selection, need_columns
from negguide.vlm.evaluation.suites.registry import register_suite


@register_suite("winoground")
def winoground(
    path: Path, images: Path | None = None, limit: int | None = None, partial: bool = False
) -> Suite:
    """`examples.jsonl` and the folder `images` of its PNGs; also in `data/` as on the hub.

    Rows: `{"id", "image_0", "image_1", "caption_0", "caption_1", "tag", ..., "collapsed_tag"}`; the category is
    `collapsed_tag` (Object, Relation, Both), or `tag` where it is missing.

    Args:
        path: the folder.
        images: where the images are; None = in it.
        limit: the most items of a category; None = all.
        partial: leave out items whose images are missing.

    Raises:
        ValueError: a file or an image is missing, or a row is not of this form.

    Source: arXiv 2204.03162.
    """
    folder = path if (path / "examples.jsonl").is_file() or not (path / "data").is_dir() else path / "data"
    file = folder / "examples.jsonl"
    if not file.is_file():
        raise ValueError(f"there is no {file}; give the folder that Winoground was unpacked to")
    rows = [row for _, row in json_lines(file)]
    captions = ("caption_0", "caption_1")
    need_columns(rows, ("image_0", "image_1", *captions), file, captions=captions)
    root = images or folder / "images"
    selection = Selection(
        limit, partial, hint="unpack images.zip there, or say winoground:PATH,images=FOLDER"
    )
    kept, pictures = selection.of(
        [str(row.get("collapsed_tag") or row.get("tag") or "pair") for row in rows],
        [[root / f"{row[name]}.png" for name in ("image_0", "image_1")] for row in rows],
    )
    items = tuple(
        Pair((2 * i, 2 * i + 1), (rows[place]["caption_0"], rows[place]["caption_1"]), category)
        for i, (place, category) in enumerate(kept)
    )
    return selection.suite("winoground", "1", {"": Pairs(pictures, items)})
