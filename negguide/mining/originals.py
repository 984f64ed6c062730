"""Which images of the input a shard was made from, so that one that changes under the same caption is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from negguide.mining.item import Source, StoredImage
from negguide.mining.mined import Mined
from negguide.mining.settings import Settings
from negguide.mining.sources import BadSource
from negguide.mining.sources.source import opened
from negguide.storage import on_this_machine

_LENGTH = 16
_NONE = "-" * _LENGTH
"""Of a row without a digest: it has no image, was not usable, or its image was not read or lies at an address."""


def image_digest(row: Source, settings: Settings) -> str:
    """16 hex digits of the bytes of a row's image, and of its mask where the input's masks say what may change.

    Args:
        row: with ``stored``.
        settings: of the set.

    Raises:
        FileNotFoundError: the image is not there.
    """
    assert row.stored is not None
    digest = hashlib.sha256(row.stored.read())
    if settings.mode == "inpaint" and settings.region == "column" and row.mask is not None:
        mask, _ = opened(row.mask, "mask")
        digest.update(b"no mask" if mask is None else mask.tobytes())
    return digest.hexdigest()[:_LENGTH]


def remember(row: Source, settings: Settings, mined: Mined) -> None:
    """Note the digest of a row's image, which is read for the shard.

    Not of one that lies at an address by itself: `changed` does not read it again, for that would take as long as the
    first time.
    """
    if _at_hand(row.stored):
        mined.originals[row.id] = image_digest(row, settings)


def in_a_line(rows: Sequence[Source | BadSource], digests: Mapping[str, str]) -> str:
    """The digests of a part's images for its marker, in the order of its rows and 16 characters each; "" of none.

    A marker of a set of a million rows is to stay small: no ids.
    """
    if not digests:
        return ""
    return "".join(digests.get(row.id, _NONE) for row in rows)


def changed(rows: Sequence[Source | BadSource], line: str, settings: Settings) -> Source | None:
    """The first row whose image is not what a shard was made from; None = there is none.

    Args:
        rows: of the part, with the ids that it was made from.
        line: of its marker; "" where that says nothing, as in sets made before.
        settings: of the set.
    """
    for place, row in enumerate(rows if line else ()):
        then = line[place * _LENGTH : (place + 1) * _LENGTH]
        if then == _NONE or not isinstance(row, Source) or not _at_hand(row.stored):
            continue
        try:
            now = image_digest(row, settings)
        except FileNotFoundError:
            return row
        if now != then:
            return row
    return None


def _at_hand(stored: StoredImage | None) -> bool:
    return stored is not None and (stored.path is None or on_this_machine(stored.path))
