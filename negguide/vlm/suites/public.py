"""Readers for the public suites, in the very files that their authors released."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from negguide.text_files import full_table_rows, json_lines, read_json
from negguide.vlm.suites.base import (
    Choice,
    Choices,
    ImageFiles,
    Pair,
    Pairs,
    Part,
    Retrieval,
    Suite,
    first_of_each,
)
from negguide.vlm.suites.relations import ARO_LEFT_OUT

SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
ARO_BOXES = {"visual_genome_relation": "relation_name", "visual_genome_attribution": "attributes"}
"""Files of ARO with one image region and two captions a case, and the field that is the category."""
ARO_ORDER = ("coco_order", "flickr30k_order")
ARO_LEAST = {"visual_genome_relation": 1, "visual_genome_attribution": 25}
"""ARO publishes the mean over relations, and over the pairs of attributes with at least 25 cases."""


def winoground(path: Path, images: Path | None = None, limit: int | None = None) -> Suite:
    """``examples.jsonl`` and the folder ``images`` of its PNGs (arXiv 2204.03162); also in ``data/`` as on the hub.

    Rows: ``{"id", "image_0", "image_1", "caption_0", "caption_1", "tag", ..., "collapsed_tag"}``; the category is
    ``collapsed_tag`` (Object, Relation, Both), or ``tag`` where it is missing.

    Raises:
        ValueError: a file or an image is missing, or a row is not of this form.
    """
    folder = path if (path / "examples.jsonl").is_file() or not (path / "data").is_dir() else path / "data"
    file = _existing(folder / "examples.jsonl", "Winoground")
    rows = [row for _, row in json_lines(file)]
    _need(rows, ("image_0", "image_1", "caption_0", "caption_1"), file)
    categories = [str(row.get("collapsed_tag") or row.get("tag") or "pair") for row in rows]
    kept = first_of_each(categories, limit)
    root = images or folder / "images"
    paths = [root / f"{rows[place][name]}.png" for place in kept for name in ("image_0", "image_1")]
    items = tuple(
        Pair((2 * i, 2 * i + 1), (rows[place]["caption_0"], rows[place]["caption_1"]), categories[place])
        for i, place in enumerate(kept)
    )
    pictures = ImageFiles(paths, hint="unpack images.zip there, or say winoground:PATH,images=FOLDER")
    return Suite("winoground", "1", {"": Pairs(pictures, items)})


def sugarcrepe(path: Path, images: Path | None = None, limit: int | None = None) -> Suite:
    """The seven files ``add_att.json`` to ``swap_obj.json``, or some of them, and COCO's val2017 (arXiv 2306.14610).

    A file is ``{"0": {"filename", "caption", "negative_caption"}, ...}``. Where there is a folder ``images`` beside
    them, as `negguide export` writes it, the images are those.

    Raises:
        ValueError: no file, an image is missing, or an entry is not of this form.
    """
    files = [path / f"{name}.json" for name in SUGARCREPE if (path / f"{name}.json").is_file()]
    if not files:
        raise ValueError(
            f"{path} holds none of SugarCrepe's files ({SUGARCREPE[0]}.json to {SUGARCREPE[-1]}.json)"
        )
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for file in files:
        content = read_json(file)
        rows = list(content.values()) if isinstance(content, dict) else content
        if not rows:
            # `negguide export` writes all seven
            continue
        _need(rows, ("filename", "caption", "negative_caption"), file)
        entries += [(file.stem, row) for row in rows[:limit]]
    if not entries:
        raise ValueError(f"{path} holds no entries in {', '.join(file.name for file in files)}")
    beside = path / "images"
    root = images or (beside if beside.is_dir() else path / "val2017")
    pictures = ImageFiles(
        [root / row["filename"] for _, row in entries],
        hint="say sugarcrepe:PATH,images=FOLDER of COCO's val2017",
    )
    items = tuple(
        Choice(i, (row["caption"], row["negative_caption"]), 0, category)
        for i, (category, row) in enumerate(entries)
    )
    return Suite("sugarcrepe", "1", {"": Choices(pictures, items, macro=1)})


def aro(path: Path, images: Path | None = None, limit: int | None = None) -> Suite:
    """``visual_genome_relation.json``, ``visual_genome_attribution.json`` with their ``images`` (arXiv 2210.01936).

    A case is ``{"image_path", "true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h", ...}``; the
    model sees what is in the box. ``coco_order.json`` and ``flickr30k_order.json`` hold what ARO's own classes make
    when they are built (``json.dump(COCO_Order(...).test_cases, file)``): ``{"image", "caption_options"}``, the first
    option right, images relative to the folder. Any of the four may be there.

    Raises:
        ValueError: no file, an image is missing, or a case is not of this form.
    """
    parts: dict[str, Part] = {}
    for name in (*ARO_BOXES, *ARO_ORDER):
        file = path / f"{name}.json"
        if file.is_file():
            cases = read_json(file)
            read = _aro_order if name in ARO_ORDER else _aro_boxes
            parts[name] = read(file, cases, images, limit)
    if not parts:
        known = ", ".join(f"{name}.json" for name in (*ARO_BOXES, *ARO_ORDER))
        raise ValueError(f"{path} holds none of ARO's files ({known})")
    return Suite("aro", "1", parts)


def _aro_boxes(file: Path, cases: Sequence[Any], images: Path | None, limit: int | None) -> Choices:
    box = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
    field = ARO_BOXES[file.stem]
    _need(cases, ("image_path", "true_caption", "false_caption", field, *box), file)
    named = [case[field] for case in cases]
    categories = [value if isinstance(value, str) else "_".join(value) for value in named]
    kept = first_of_each(categories, limit)
    root = images or file.parent / "images"
    boxes = []
    for place in kept:
        x, y, w, h = (int(cases[place][name]) for name in box)
        boxes.append((x, y, x + w, y + h))
    pictures = ImageFiles(
        [root / cases[place]["image_path"] for place in kept],
        boxes,
        hint="unpack vgr_vga_images.zip there, or say aro:PATH,images=FOLDER",
    )
    items = tuple(
        Choice(i, (cases[place]["true_caption"], cases[place]["false_caption"]), 0, categories[place])
        for i, place in enumerate(kept)
    )
    left_out = ARO_LEFT_OUT if file.stem == "visual_genome_relation" else frozenset()
    return Choices(pictures, items, macro=ARO_LEAST[file.stem], left_out=left_out)


def _aro_order(file: Path, cases: Sequence[Any], images: Path | None, limit: int | None) -> Choices:
    _need(cases, ("image", "caption_options"), file)
    chosen = cases[:limit]
    root = images or file.parent
    pictures = ImageFiles([root / case["image"] for case in chosen], hint="say aro:PATH,images=FOLDER")
    items = tuple(Choice(i, tuple(case["caption_options"]), 0, "order") for i, case in enumerate(chosen))
    return Choices(pictures, items)


def negbench(path: Path, images: Path | None = None, limit: int | None = None) -> Suite:
    """CSV files of NegBench (arXiv 2501.09425): a file, or a folder of which all are read.

    Multiple choice: ``image_path, correct_answer, caption_0, ..., caption_3, correct_answer_template``; the template
    (positive, negative, hybrid) is the category. Retrieval: ``filepath, captions`` with a Python list of captions; from
    text to image, as published. Paths count from the CSV's folder; with ``images=FOLDER`` only the file names count.

    Raises:
        ValueError: no CSV, an image is missing, or a file has other columns.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if not files:
        raise ValueError(f"{path} holds no CSV file of NegBench")
    parts: dict[str, Part] = {}
    for file in files:
        rows = [row for _, row in full_table_rows(file)]
        columns = set(rows[0]) if rows else set()
        if {"image_path", "correct_answer", "caption_0", "caption_1"} <= columns:
            parts[file.stem] = _negbench_choices(file, rows, images, limit)
        elif {"filepath", "captions"} <= columns:
            parts[file.stem] = _negbench_retrieval(file, rows[:limit], images)
        else:
            raise ValueError(
                f"{file} has the columns {sorted(columns)}; NegBench's have image_path, correct_answer, caption_0, ... "
                f"(multiple choice) or filepath, captions (retrieval)"
            )
    return Suite("negbench", "1", parts)


def _negbench_images(file: Path, names: Sequence[str], images: Path | None) -> ImageFiles:
    paths = [images / PurePosixPath(name).name if images else file.parent / name for name in names]
    return ImageFiles(paths, hint="say negbench:PATH,images=FOLDER with the image files")


def _negbench_choices(
    file: Path, rows: Sequence[Mapping[str, str]], images: Path | None, limit: int | None
) -> Choices:
    columns = sorted(
        (name for name in rows[0] if name.startswith("caption_") and name[8:].isdigit()),
        key=lambda name: int(name[8:]),
    )
    categories = [row.get("correct_answer_template") or "choice" for row in rows]
    items = []
    kept = first_of_each(categories, limit)
    for i, place in enumerate(kept):
        row = rows[place]
        options = tuple(row[name] for name in columns if row[name])
        answer = row["correct_answer"]
        if not answer.isdigit() or int(answer) >= len(options):
            raise ValueError(
                f"{file}, line {place + 2}: correct_answer={answer!r} is not the number of one of "
                f"its {len(options)} captions"
            )
        items.append(Choice(i, options, int(answer), categories[place]))
    pictures = _negbench_images(file, [rows[place]["image_path"] for place in kept], images)
    return Choices(pictures, tuple(items))


def _negbench_retrieval(file: Path, rows: Sequence[Mapping[str, str]], images: Path | None) -> Retrieval:
    captions: list[str] = []
    owners: list[int] = []
    for place, row in enumerate(rows):
        try:
            own = ast.literal_eval(row["captions"])
        except (SyntaxError, ValueError):
            own = None
        if not isinstance(own, list) or not own or not all(isinstance(caption, str) for caption in own):
            raise ValueError(
                f"{file}, line {place + 2}: captions={row['captions']!r} is not a Python list of captions"
            )
        captions += own
        owners += [place] * len(own)
    pictures = _negbench_images(file, [row["filepath"] for row in rows], images)
    return Retrieval(pictures, tuple(captions), tuple(owners), both=False)


def _existing(file: Path, what: str) -> Path:
    if not file.is_file():
        raise ValueError(f"there is no {file}; give the folder that {what} was unpacked to")
    return file


def _need(rows: Any, names: Sequence[str], file: Path) -> None:
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file} holds no entries")
    for number, row in enumerate(rows):
        lacking = [name for name in names if not isinstance(row, dict) or name not in row]
        if lacking:
            raise ValueError(f"{file}, entry {number}, lacks {', '.join(lacking)}")
