"""What comes out of one shard's part of the input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from negguide.mining.funnel import Funnel
from negguide.mining.item import Item


@dataclass
class Mined:
    """What came out of one shard's part of the input.

    Attributes:
        items: with file names that are keys of ``images`` or ``files``.
        images: {file name relative to the shard: image}.
        files: {file name relative to the shard: content}, of images that are stored as they came.
        rejects: one dict each, with at least "stage", "reason" and "source_id".
        funnel: the counts.
        originals: {source id: `negguide.mining.originals.image_digest`} of the input's images that were read.
    """

    items: list[Item] = field(default_factory=list)
    images: dict[str, Image.Image] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    funnel: Funnel = field(default_factory=Funnel)
    originals: dict[str, str] = field(default_factory=dict)
