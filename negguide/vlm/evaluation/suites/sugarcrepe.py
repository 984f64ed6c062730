"""SugarCrepe, in the files that its authors released."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from negguide.text_files import read_json
from negguide.vlm.evaluation.suites.base import Choice, Choices, Suite
from negguide.vlm.evaluation.suites.files import Selection, need_columns
from negguide.vlm.evaluation.suites.registry import register_suite

FILES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@register_suite("sugarcrepe")
def sugarcrepe(
    path: Path, images: Path | None = None, limit: int | None = None, partial: bool = False
) -> Suite:
    """The seven files `add_att.json` to `swap_obj.json`, or some of them, and COCO's val2017.

    A file is `{"0": {"filename", "caption", "negative_caption"}, ...}`. Where there is a folder `images` beside
    them, as `negguide export` writes it, the images are those.

    Args:
        path: the folder.
        images: where the images are; None = in `images` or `val2017` in it.
        limit: the most items of a category; None = all.
        partial: leave out items whose images are missing: a part of val2017 is enough.

    Raises:
        ValueError: no file, an image is missing, or an entry is not of this form.

    Source: arXiv 2306.14610.
    """
    files = [path / f"{name}.json" for name in FILES if (path / f"{name}.json").is_file()]
    if not files:
        raise ValueError(f"{path} holds none of SugarCrepe's files ({FILES[0]}.json to {FILES[-1]}.json)")
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for file in files:
        content = read_json(file)
        rows = list(content.values()) if isinstance(content, dict) else content
        if not rows:
            # `negguide export` writes all seven
            continue
        captions = ("caption", "negative_caption")
        need_columns(rows, ("filename", *captions), file, captions=captions)
        entries += [(file.stem, row) for row in rows]
    if not entries:
        raise ValueError(f"{path} holds no entries in {', '.join(file.name for file in files)}")
    beside = path / "images"
    root = images or (beside if beside.is_dir() else path / "val2017")
    selection = Selection(limit, partial, hint="say sugarcrepe:PATH,images=FOLDER of COCO's val2017")
    kept, pictures = selection.of(
        [category for category, _ in entries], [[root / row["filename"]] for _, row in entries]
    )
    items = tuple(
        Choice(i, (entries[place][1]["caption"], entries[place][1]["negative_caption"]), 0, category)
        for i, (place, category) in enumerate(kept)
    )
    return selection.suite("sugarcrepe", "1", {"": Choices(pictures, items, macro=1)})
