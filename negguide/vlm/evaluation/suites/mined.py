"""A set of `negguide mine` as a suite: its pairs, by category, with its paraphrases where it has them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from negguide.mining.item import Item
from negguide.mining.shards import is_half_made, read_set
from negguide.storage import Place
from negguide.vlm.evaluation.suites.base import Choice, Choices, ImageFiles, Pair, Pairs, Suite, first_of_each

logger = logging.getLogger(__name__)


def mined(path: Path, limit: int | None = None) -> Suite:
    """The set in `path`.

    A set of text alone has no negative images: of each caption and its negative, the one of the image is to be found,
    as in SugarCrepe.

    Raises:
        ValueError: `path` holds no set, an empty one or one of captions alone, or an image is missing.
    """
    read = list(read_set(path))
    if not read:
        raise ValueError(f"the set in {path} is empty; nothing can be measured")
    if is_half_made(path):
        logger.warning("%s is not complete: what `negguide mine` has made of it so far is measured on", path)
    kept = [read[place] for place in first_of_each([item.category for item, _ in read], limit)]
    if any(item.image_file_name is None for item, _ in kept):
        raise ValueError(f"the set in {path} holds captions alone; nothing can be measured without images")
    both = all(item.negative_image_file_name is not None for item, _ in kept)
    roles = ("image", "negative_image") if both else ("image",)
    files = [item.files(folder)[role] for item, folder in kept for role in roles]
    pictures = ImageFiles(files, hint="the set was moved without its images")
    part = _pairs(pictures, kept) if both else _choices(pictures, kept)
    return Suite(path.resolve().name, "1", {"": part})


def _pairs(pictures: ImageFiles, kept: Sequence[tuple[Item, Place]]) -> Pairs:
    return Pairs(
        pictures,
        tuple(
            Pair(
                (2 * i, 2 * i + 1),
                (item.caption, item.negative_caption),
                item.category,
                item.positive_captions,
            )
            for i, (item, _) in enumerate(kept)
        ),
    )


def _choices(pictures: ImageFiles, kept: Sequence[tuple[Item, Place]]) -> Choices:
    items = (
        Choice(i, (item.caption, item.negative_caption), 0, item.category) for i, (item, _) in enumerate(kept)
    )
    return Choices(pictures, tuple(items))
