"""ARO, in the files that its authors released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negguide.text_files import read_json
from negguide.vlm.evaluation.suites.base import Choice, Choices, Part, Suite
from negguide.vlm.evaluation.suites.files import Selection, need_columns
from negguide.vlm.evaluation.suites.registry import register_suite
from negguide.vlm.evaluation.suites.relations import ARO_LEFT_OUT

BOXES = {"visual_genome_relation": "relation_name", "visual_genome_attribution": "attributes"}
"""Files with one image region and two captions a case, and the field that is the category."""
ORDER = ("coco_order", "flickr30k_order")
LEAST = {"visual_genome_relation": 1, "visual_genome_attribution": 25}
"""ARO publishes the mean over relations, and over the pairs of attributes with at least 25 cases."""


@register_suite("aro")
def aro(path: Path, images: Path | None = None, limit: int | None = None, partial: bool = False) -> Suite:
    """`visual_genome_relation.json`, `visual_genome_attribution.json` with their `images`.

    A case is `{"image_path", "true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h", ...}`; the
    model sees what is in the box. `coco_order.json` and `flickr30k_order.json` hold what ARO's own classes make
    when they are built (`json.dump(COCO_Order(...).test_cases, file)`): `{"image", "caption_options"}`, the first
    option right, images relative to the folder. Any of the four may be there.

    Args:
        path: the folder.
        images: where the images are; None = in it.
        limit: the most items of a category; None = all.
        partial: leave out items whose images are missing.

    Raises:
        ValueError: no file, an image is missing, or a case is not of this form.

    Source: arXiv 2210.01936.
    """
    selection = Selection(
        limit, partial, hint="unpack vgr_vga_images.zip into images there, or say aro:PATH,images=FOLDER"
    )
    parts: dict[str, Part] = {}
    for name in (*BOXES, *ORDER):
        file = path / f"{name}.json"
        if file.is_file():
            read = _order if name in ORDER else _boxes
            parts[name] = read(file, read_json(file), images, selection)
    if not parts:
        known = ", ".join(f"{name}.json" for name in (*BOXES, *ORDER))
        raise ValueError(f"{path} holds none of ARO's files ({known})")
    return selection.suite("aro", "1", parts)


def _boxes(file: Path, cases: Sequence[Any], images: Path | None, selection: Selection) -> Choices:
    box = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
    field = BOXES[file.stem]
    captions = ("true_caption", "false_caption")
    need_columns(cases, ("image_path", *captions, field, *box), file, captions=captions)
    named = [case[field] for case in cases]
    root = images or file.parent / "images"
    corners = []
    for case in cases:
        x, y, w, h = (int(case[name]) for name in box)
        corners.append((x, y, x + w, y + h))
    kept, pictures = selection.of(
        [value if isinstance(value, str) else "_".join(value) for value in named],
        [[root / case["image_path"]] for case in cases],
        corners,
    )
    items = tuple(
        Choice(i, (cases[place]["true_caption"], cases[place]["false_caption"]), 0, category)
        for i, (place, category) in enumerate(kept)
    )
    left_out = ARO_LEFT_OUT if file.stem == "visual_genome_relation" else frozenset()
    return Choices(pictures, items, macro=LEAST[file.stem], left_out=left_out)


def _order(file: Path, cases: Sequence[Any], images: Path | None, selection: Selection) -> Choices:
    need_columns(cases, ("image", "caption_options"), file, captions=())
    for number, case in enumerate(cases):
        options = case["caption_options"]
        if (
            not isinstance(options, list)
            or len(options) < 2
            or not all(isinstance(o, str) and o.strip() for o in options)
        ):
            raise ValueError(
                f"{file}, entry {number}: caption_options={options!r} is not a list of two captions or more"
            )
    root = images or file.parent
    kept, pictures = selection.of(["order"] * len(cases), [[root / case["image"]] for case in cases])
    items = tuple(
        Choice(i, tuple(cases[place]["caption_options"]), 0, category)
        for i, (place, category) in enumerate(kept)
    )
    return Choices(pictures, items)
