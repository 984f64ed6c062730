"""NegBench, in the files that its authors released."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from negguide.text_files import full_table_rows
from negguide.vlm.evaluation.suites.base import Choice, Choices, Part, Retrieval, Suite
from negguide.vlm.evaluation.suites.files import Selection
from negguide.vlm.evaluation.suites.registry import register_suite


@register_suite("negbench")
def negbench(
    path: Path, images: Path | None = None, limit: int | None = None, partial: bool = False
) -> Suite:
    """CSV files of NegBench: a file, or a folder of which all are read.

    Multiple choice: `image_path, correct_answer, caption_0, ..., caption_3, correct_answer_template`; the template
    (positive, negative, hybrid) is the category. Retrieval: `filepath, captions` with a Python list of captions; from
    text to image, as published. Paths count from the CSV's folder; with `images=FOLDER` only the file names count.

    Args:
        path: the folder or the file.
        images: where the images are; None = where the paths say.
        limit: the most items of a category, of images in retrieval; None = all.
        partial: leave out items whose images are missing.

    Raises:
        ValueError: no CSV, an image is missing, a file has other columns, or an answer is none of its captions.

    Source: arXiv 2501.09425.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if not files:
        raise ValueError(f"{path} holds no CSV file of NegBench")
    selection = Selection(limit, partial, hint="say negbench:PATH,images=FOLDER with the image files")
    parts: dict[str, Part] = {}
    for file in files:
        rows = list(full_table_rows(file))
        columns = set(rows[0][1]) if rows else set()
        if {"image_path", "correct_answer", "caption_0", "caption_1"} <= columns:
            parts[file.stem] = _choices(file, rows, images, selection)
        elif {"filepath", "captions"} <= columns:
            parts[file.stem] = _retrieval(file, rows, images, selection)
        else:
            raise ValueError(
                f"{file} has the columns {sorted(columns)}; NegBench's have image_path, correct_answer, caption_0, ... "
                f"(multiple choice) or filepath, captions (retrieval)"
            )
    return selection.suite("negbench", "1", parts)


def _image(file: Path, name: str, images: Path | None) -> Path:
    return images / PurePosixPath(name).name if images else file.parent / name


def _choices(
    file: Path, rows: Sequence[tuple[int, Mapping[str, str]]], images: Path | None, selection: Selection
) -> Choices:
    columns = sorted(
        (name for name in rows[0][1] if name.startswith("caption_") and name[8:].isdecimal()),
        key=lambda name: int(name[8:]),
    )
    read = []
    for line, row in rows:
        # by the column's name, as places shift where an empty caption is left out
        right = f"caption_{row['correct_answer']}"
        there = [name for name in columns if (row[name] or "").strip()]
        if right not in there:
            wrong = "not the number of" if right not in columns else "that of an empty one, not of"
            raise ValueError(
                f"{file}, line {line}: correct_answer={row['correct_answer']!r} is {wrong} one of its {len(there)} "
                f"captions"
            )
        if len(there) < 2:
            raise ValueError(f"{file}, line {line}, has {right} alone; a choice needs two captions")
        read.append((tuple(row[name] for name in there), there.index(right)))
    kept, pictures = selection.of(
        [row.get("correct_answer_template") or "choice" for _, row in rows],
        [[_image(file, row["image_path"], images)] for _, row in rows],
    )
    items = tuple(Choice(i, *read[place], category) for i, (place, category) in enumerate(kept))
    return Choices(pictures, items)


def _retrieval(
    file: Path, rows: Sequence[tuple[int, Mapping[str, str]]], images: Path | None, selection: Selection
) -> Retrieval:
    read = []
    for line, row in rows:
        try:
            own = ast.literal_eval(row["captions"])
        except (SyntaxError, ValueError):
            own = None
        if not isinstance(own, list) or not own or not all(isinstance(caption, str) for caption in own):
            raise ValueError(
                f"{file}, line {line}: captions={row['captions']!r} is not a Python list of captions"
            )
        read.append(own)
    kept, pictures = selection.of(
        ["retrieval"] * len(rows), [[_image(file, row["filepath"], images)] for _, row in rows]
    )
    captions = tuple(caption for place, _ in kept for caption in read[place])
    owners = tuple(i for i, (place, _) in enumerate(kept) for _ in read[place])
    return Retrieval(pictures, captions, owners, both=False)
