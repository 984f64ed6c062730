"""Images in a folder and a list beside it: open_clip's TSV, SugarCrepe's JSON."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.planner import words
from negguide.mining.formats.folders import SUFFIXES, Copies, Target
from negguide.mining.item import Item
from negguide.storage import Place


def write_open_clip(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """``pairs.tsv`` with ``filepath`` and ``title``; a negative image with its own caption is a row like any other.

    Where there are no negative images, a third column ``negative_caption`` holds the negatives, which open_clip itself
    passes over. open_clip opens a file path as it stands, from wherever it is started, so paths are absolute.

    Raises:
        ValueError: the set holds captions alone.
    """
    copies = Copies(target.folder / "images")
    with (target.folder / "pairs.tsv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter="\t", lineterminator="\n")
        for number, (item, place) in enumerate(items):
            files = item.files(place)
            text_only = "negative_image" not in files
            if number == 0:
                lines.writerow(("filepath", "title", *(("negative_caption",) if text_only else ())))
            paths = {
                role: target.out / "images" / copies.add(files[role], f"{number:09d}{SUFFIXES[role]}")
                for role in ("image", "negative_image")
                if role in files
            }
            if "image" not in paths:
                raise ValueError(f"format='open-clip' needs images, and item {item.id} is a caption alone")
            if text_only:
                lines.writerow((paths["image"], item.caption, item.negative_caption))
            else:
                lines.writerow((paths["image"], item.caption))
                lines.writerow((paths["negative_image"], item.negative_caption))


SUGARCREPE = ("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
"""The files that SugarCrepe's evaluation opens, all of them."""


def write_sugarcrepe(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """The seven files of SugarCrepe (arXiv 2306.14610), and ``images``.

    Objects that are replaced go to ``replace_obj``, relations and actions to ``replace_rel``, attributes and counts to
    ``replace_att``; what is added or swapped to ``_obj`` or ``_att``, by whether it is a thing or a word about one.
    SugarCrepe has no place for what is removed or denied; how many those are is said.

    Raises:
        ValueError: the set holds captions alone.
    """
    copies = Copies(target.folder / "images")
    rows: dict[str, dict[str, Any]] = {name: {} for name in SUGARCREPE}
    left_out: Counter[str] = Counter()
    for number, (item, place) in enumerate(items):
        kind = sugarcrepe_kind(item)
        if kind is None:
            left_out[item.category] += 1
            target.leave_out(item)
            continue
        files = item.files(place)
        if "image" not in files:
            raise ValueError(f"format='sugarcrepe' needs images, and item {item.id} is a caption alone")
        rows[kind][str(len(rows[kind]))] = {
            "filename": copies.add(files["image"], f"{number:09d}"),
            "caption": item.caption,
            "negative_caption": item.negative_caption,
        }
    for kind, content in rows.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (target.folder / f"{kind}.json").write_text(text + "\n", encoding="utf-8")
    if left_out:
        said = ", ".join(f"{count} {category}" for category, count in sorted(left_out.items()))
        target.say(f"left out, as SugarCrepe has no such negatives: {said}")
    if empty := [kind for kind, content in rows.items() if not content]:
        target.say(
            f"no rows in {', '.join(empty)}: SugarCrepe's own script divides by the number of rows of each file; leave "
            "these out of its list (negguide evaluate does so)"
        )


def sugarcrepe_kind(item: Item) -> str | None:
    """Which file of SugarCrepe a pair belongs in; None where it has no such negatives."""
    match item.category:
        case "object":
            return "replace_obj"
        case "attribute" | "count":
            return "replace_att"
        case "relation" | "action":
            return "replace_rel"
        case "add":
            return "add_att" if _about_things(item.after) else "add_obj"
        case "swap":
            # what stands first in the span changes places with something of its kind
            return "swap_att" if _about_things(_first_difference(item)) else "swap_obj"
    return None


def _about_things(text: str) -> bool:
    """Whether the last word that the lexicon knows is an adjective, and no noun."""
    book = lexicon()
    for match in reversed(words(text)):
        word = match[0].lower()
        if book.noun(word):
            return False
        if book.adjective(word) or word in book.numbers:
            return True
    return False


def _first_difference(item: Item) -> str:
    before, after = ([match[0] for match in words(text)] for text in (item.before, item.after))
    return next((old for old, new in zip(before, after, strict=False) if old.lower() != new.lower()), "")
