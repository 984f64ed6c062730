"""The rebalanced set: which items of a set are used, and in which roles, as a file beside it. No item is deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from negguide.mining.audit.rebalance import Balance
from negguide.mining.item import Item
from negguide.mining.shards import read_set
from negguide.pictures import save_json
from negguide.storage import Place, location

REBALANCED = "rebalanced.json"


def write_rebalanced(balance: Balance, path: Path, settings: Mapping[str, Any]) -> None:
    """Write the choice: ``kept`` and ``exchanged`` ids, ``dropped`` with reasons, ``rendered``, ``settings``."""
    content = {
        "kept": [pair.id for pair in balance.kept],
        "exchanged": sorted(balance.exchanged),
        "rendered": balance.rendered,
        "dropped": dict(balance.dropped),
        "settings": dict(settings),
    }
    save_json(content, path)


def read_rebalanced(folder: Path | str, report: Path | str | None = None) -> Iterator[tuple[Item, Place]]:
    """As `read_set`, but only the items that rebalancing kept, in their roles.

    Args:
        folder: the set.
        report: where the audit wrote its choice; None = in the set.

    Raises:
        ValueError: the set was not rebalanced, or has changed since.
    """
    path = location(folder if report is None else report) / REBALANCED
    if not path.is_file():
        if report is not None:
            raise ValueError(
                f"{report} holds no {REBALANCED}; give the folder that `negguide audit {folder} --rebalance --out` "
                "wrote into"
            )
        raise ValueError(
            f"{folder} is not rebalanced: run `negguide audit {folder} --rebalance` first, or name the report that it "
            "wrote elsewhere (--report)"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept, exchanged = set(content["kept"]), set(content["exchanged"])
        judged, use_renders = kept | set(content["dropped"]), bool(content["rendered"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what `negguide audit --rebalance` writes: {error}") from error
    for item, place in read_set(folder):
        if item.id not in judged:
            raise ValueError(f"{path} does not know item {item.id}: the set has grown; audit it again")
        judged.discard(item.id)
        kept.discard(item.id)
        if item.id in content["dropped"]:
            continue
        if use_renders:
            item = rendered(item)
        yield (exchange(item) if item.id in exchanged else item), place
    if kept:
        raise ValueError(f"{path} keeps item {min(kept)}, which the set does not hold; audit it again")


def exchange(item: Item) -> Item:
    """``item`` with the roles exchanged: the negative image and caption are right, a render of the old caption wrong.

    The scores are those of the original where it was not scored itself. ``extra["exchanged"]`` is true. What says how
    the mined negative image was made (``prompt``, ``methods``, ``seed``, ``tries``) stays, and is about ``image`` then.

    Raises:
        ValueError: the original caption was not rendered.
    """
    if item.control_image_file_name is None:
        raise ValueError(f"item {item.id} has no rendered original, so its roles cannot be exchanged")
    first, second, third, fourth = item.scores
    return replace(
        _edited_back(item),
        image_file_name=item.negative_image_file_name,
        negative_image_file_name=item.control_image_file_name,
        control_image_file_name=None,
        scores=(fourth, third, second, first),
        # paraphrases of the old caption, which is the negative now
        positive_captions=(),
        extra={**item.extra, "exchanged": True},
    )


def as_mined(item: Item) -> Item:
    """The pair before `exchange`: which image shows the caption, and which was painted from the prompt.

    The render of the caption, which an exchanged pair has for its negative, stays in the place of the original.
    """
    if not item.extra.get("exchanged"):
        return item
    return replace(
        _edited_back(item),
        image_file_name=item.negative_image_file_name,
        negative_image_file_name=item.image_file_name,
        control_image_file_name=item.negative_image_file_name,
    )


def _edited_back(item: Item) -> Item:
    """The captions exchanged, and the edit that leads from the one to the other turned round."""
    return replace(
        item,
        caption=item.negative_caption,
        negative_caption=item.caption,
        category={"add": "remove", "remove": "add"}.get(item.category, item.category),
        end=item.start + len(item.after),
        before=item.after,
        after=item.before,
    )


def rendered(item: Item) -> Item:
    """``item`` with the render of its caption in place of the original image; ``extra["rendered"]`` is true.

    Raises:
        ValueError: the original caption was not rendered.
    """
    if item.control_image_file_name is None:
        raise ValueError(f"item {item.id} has no rendered original to stand in for its image")
    extra = {**item.extra, "rendered": True}
    return replace(item, image_file_name=item.control_image_file_name, extra=extra)
