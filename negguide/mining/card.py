"""The data set card of a set, and its contact sheet: what is in it, how it was made, lost on the way, and audited."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from negguide.mining.contact_sheet import contact_sheet
from negguide.mining.funnel import STAGES, Funnel
from negguide.mining.item import Item
from negguide.mining.settings import Settings
from negguide.mining.shards import FUNNEL, SET, read_set, read_settings
from negguide.mining.text_only import STAGES as TEXT_STAGES
from negguide.storage import Place, location, write_whole

EXAMPLES, SHOWN = 8, 24
"""Pairs in the card's table, and on the contact sheet."""

CARD, SHEET = "README.md", "contact_sheet.png"
AUDIT = "audit"
"""The folder in a set that `negguide audit` writes into."""


def write_card(folder: Path | str) -> None:
    """Write README.md, with the head that Hugging Face reads, and contact_sheet.png into a complete set.

    What the last audit in the set's folder ``audit`` found is in it.

    Raises:
        ValueError: ``folder`` holds no complete set.
    """
    folder = location(folder)
    settings = read_settings(folder)
    try:
        funnel = Funnel.from_dict(json.loads((folder / FUNNEL).read_bytes()))
    except OSError as error:
        raise ValueError(f"{folder} holds no complete set: {folder / FUNNEL} cannot be read") from error
    made_by = json.loads((folder / SET).read_bytes())["made_by"]
    written = funnel.total("written")
    stages = TEXT_STAGES if settings.text_only else STAGES
    shown, licences = _gone_through(folder, SHOWN)
    licence = ", ".join(licences) or settings.data.get("licence") or "unknown"
    drawn = bool(shown) and not settings.text_only
    if drawn:
        title = f"{written} hard negatives from {settings.data['name']}"
        picture = io.BytesIO()
        contact_sheet(shown, title).save(picture, "PNG")
        write_whole(folder / SHEET, picture.getvalue())
    parts = [
        _head(settings, written, licence),
        f"# Hard negatives from {settings.data['name']}",
        f"{written} {_TEXT_ALONE if settings.text_only else _PAIRS}",
        f"![Some of the pairs]({SHEET})" if drawn else "",
        "## Rows",
        f"{_STORED[settings.shard_format]} {_TEXT_ROWS if settings.text_only else _ROWS}",
        _table(["category", "caption", "negative caption"], _examples(shown)),
        "## Funnel",
        f"{funnel.sources['read']} pairs read, {funnel.sources['bad']} of them bad"
        + ("." if settings.text_only else f", {funnel.images} images painted, {funnel.controls} controls."),
        _table(["category", *stages], funnel.rows(stages)),
        _table(["lost at", "reason", "number"], funnel.reasons()) if funnel.reasons() else "",
        "## Audit",
        *_audited(folder),
        "## How it was made",
        _table(["", ""], _made(settings.to_dict(), made_by)),
        "## Licence",
        f"Originals and captions: {licence}."
        + (
            ""
            if settings.text_only
            else f" Negative images were painted by {settings.model}, {_MODELS_LICENCE}"
        ),
    ]
    write_whole(folder / CARD, ("\n\n".join(part for part in parts if part) + "\n").encode())


_PAIRS = (
    "pairs of images and captions. In each, the negative caption says one thing that the original image does not show, "
    "and the negative image shows what the negative caption says. A judge found every image closer to its own caption "
    "than to the other one, and every caption closer to its own image."
)
_ROWS = (
    "`image`, `negative_image`, and where it was painted `control_image` (the original caption, painted by the same "
    "model, so that painted does not mean negative) go with `caption`, `negative_caption` and `positive_captions` "
    "(other words, same meaning). `scores` are the judge's of (image, caption), (image, negative caption), (negative "
    "image, caption) and (negative image, negative caption)."
)
_TEXT_ALONE = (
    "captions, each with a negative that says one thing else. No image was looked at, so some negatives may be true of "
    "their image all the same."
)
_STORED = {
    "tar": "Each shard in `data/` is an imagefolder in a tar: `metadata.jsonl` and `images`. `negguide export` makes "
    "what `datasets` or `webdataset` read of it.",
    "parquet": "Each shard in `data/` is a parquet file with its images; `datasets.load_dataset` reads this folder as "
    "it is.",
    "folder": 'Each shard in `data/` is an imagefolder; `datasets.load_dataset("imagefolder", data_dir=...)` reads all '
    "of them.",
}
_TEXT_ROWS = (
    "`image_file_name` is relative to `data/`, and may name a file of the input, which is not in the set: `negguide "
    "export` makes a set that holds its images. `negative_caption` goes with `caption`, `positive_captions` are other "
    "words with the same meaning, and `before` was replaced by `after`."
)
_MODELS_LICENCE = "whose licence may say what they can be used for."


def _head(settings: Settings, written: int, licence: str) -> str:
    size = next((name for most, name in _SIZES if written < most), "n>1M")
    lines = [
        "---",
        f"license: {licence if licence in _KNOWN_LICENCES else 'other'}",
        "language: en",
        "task_categories: [zero-shot-image-classification]",
        f"size_categories: {size}",
        "tags: [hard-negatives, synthetic, negguide]",
        *_FILES.get(settings.shard_format, ()),
        "---",
    ]
    return "\n".join(lines)


_FILES = {
    name: ("configs:", "- config_name: default", f"  data_files: {files}")
    for name, files in (("parquet", "data/*.parquet"), ("folder", "data/**"))
}
"""By format of the shards: what tells `datasets` where they are; it reads tar files as WebDataset alone."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_KNOWN_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail")


def _audited(folder: Path) -> list[str]:
    """What the audit in the set found, in short, and where the whole of it is."""
    try:
        verdicts = json.loads((folder / AUDIT / "audit.json").read_bytes())["verdicts"]
    except (FileNotFoundError, KeyError):
        return [f"Not audited yet: `negguide audit {folder.name}` tries what tells the negatives."]
    return [
        "Each probe is shown both captions, or both images, of a pair and says which is the negative; chance is 50%.",
        "\n".join(f"- {line}" for line in verdicts),
        f"![Accuracy of every probe]({AUDIT}/audit.png)",
        f"The whole report is [{AUDIT}/report.md]({AUDIT}/report.md).",
    ]


def _gone_through(folder: Path, count: int) -> tuple[list[tuple[Item, Place]], list[str]]:
    """The first items of each category in turn, ``count`` at most, and every licence that an item of the set has."""
    found: dict[str, list[tuple[Item, Place]]] = {}
    licences: set[str] = set()
    for item, where in read_set(folder):
        licences.add(item.licence or "unknown")
        of_category = found.setdefault(item.category, [])
        if len(of_category) < count:
            of_category.append((item, where))
    turns = [items[turn] for turn in range(count) for items in found.values() if turn < len(items)]
    return turns[:count], sorted(licences)


def _examples(shown: list[tuple[Item, Place]]) -> list[list[str]]:
    return [[item.category, item.caption, item.negative_caption] for item, _ in shown[:EXAMPLES]]


def _made(settings: dict[str, Any], made_by: dict[str, Any]) -> list[list[str]]:
    rows = [[name, _plain(value)] for name, value in settings.items() if value is not None]
    return rows + [[name, _plain(value)] for name, value in made_by.items()]


def _plain(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else value
    return f"`{json.dumps(text) if isinstance(text, dict) else text}`"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )
