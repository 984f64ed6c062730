"""What a suite holds, as a hash: only results of the very same items are compared, or used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from PIL import Image

from negguide.vlm.evaluation.suites.base import ImageFiles, Suite


def with_items(suite: Suite) -> Suite:
    """The suite with a hash of all that it holds behind its version, as in "1, items 0123456789abcdef".

    Hashed are the texts, answers and categories, and of each image its file's bytes and the box that is cut out of it,
    or its pixels where it is no file. Where the files lie does not count, so results of two machines compare. Names,
    sizes or times of files would cost less, but tell a changed image on one machine only or not at all; to read and
    hash 5,000 photographs takes seconds, and a model that looks at them takes longer.

    Args:
        suite: as its reader gives it.
    """
    digest = hashlib.sha256()
    for name, part in suite.parts.items():
        items = {entry.name: getattr(part, entry.name) for entry in fields(part) if entry.name != "images"}
        content = [name, type(part).__name__, items, _image_digests(part.images)]
        digest.update(json.dumps(content, sort_keys=True, default=_plain).encode())
    return replace(suite, version=f"{suite.version}, items {digest.hexdigest()[:16]}")


def pixel_digest(image: Image.Image) -> str:
    """A hash of an RGB image's size and pixels."""
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _image_digests(images: Sequence[Image.Image]) -> list[Any]:
    if not isinstance(images, ImageFiles):
        return [pixel_digest(images[place].convert("RGB")) for place in range(len(images))]
    known = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in dict.fromkeys(images.paths)}
    return [[known[file] for file in images.paths], images.boxes]


def _plain(value: Any) -> Any:
    """What JSON does not know: an item, and a set of categories."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else sorted(value)
