"""A set of `negguide mine` as a suite: its pairs, by category, with its paraphrases where it has them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from negguide.mining.shards import read_set
from negguide.vlm.suites.base import ImageFiles, Pair, Pairs, Suite, first_of_each


def mined(path: Path, limit: int | None = None) -> Suite:
    """The set in ``path``; its version is a hash of its captions.

    Raises:
        ValueError: ``path`` holds no set or an empty one, or an image is missing.
    """
    read = list(read_set(path))
    if not read:
        raise ValueError(f"the set in {path} is empty; nothing can be measured")
    kept = first_of_each([item.category for item, _ in read], limit)
    digest = hashlib.sha256()
    files: list[Path] = []
    items = []
    for i, place in enumerate(kept):
        item, folder = read[place]
        files += [folder / item.image_file_name, folder / item.negative_image_file_name]
        items.append(
            Pair(
                (2 * i, 2 * i + 1),
                (item.caption, item.negative_caption),
                item.category,
                item.positive_captions,
            )
        )
        digest.update(f"{item.category}|{item.caption}|{item.negative_caption}\0".encode())
    pictures = ImageFiles(files, hint="the set was moved without its images")
    return Suite(path.resolve().name, digest.hexdigest()[:16], {"": Pairs(pictures, tuple(items))})
