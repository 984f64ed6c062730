"""A pair on its way from a plan to an item, and how it is written or lost."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from negguide.image_files import stored_form
from negguide.mining.item import Edit, Item, Source
from negguide.mining.mined import Mined
from negguide.mining.settings import Settings, without_place

_METHOD_NAMES = {"perp-neg": "PerpNeg", "negative-prompt": "negative prompt", "plain": "plain"}


@dataclass
class Pair:
    """An edit on its way from a plan to an item.

    Attributes:
        original, negative, control: images, when they are there.
        original_seed: of the noise of an original that was painted; None where the input has the image.
        mask: where the negative image may change.
        scores: of the four cells, NaN until they are known.
        outside_change: mean change outside the mask.
        control_same_noise: the control was painted from the noise of the negative image.
        seed, weight, tries: of the last try.
        reason: what is wrong with it; empty = nothing.
    """

    source: Source
    edit: Edit
    id: str
    positives: tuple[str, ...] = ()
    original: Image.Image | None = None
    original_seed: int | None = None
    mask: Image.Image | None = None
    negative: Image.Image | None = None
    control: Image.Image | None = None
    scores: list[float] = field(default_factory=lambda: [math.nan] * 4)
    outside_change: float = 0.0
    control_same_noise: bool = False
    seed: int = 0
    weight: float = 0.0
    tries: int = 0
    reason: str = ""


def item_id(source: Source, edit: Edit) -> str:
    """16 hex digits: a stable hash of the source and of what the edit does to it."""
    text = "\0".join([source.id, edit.category, str(edit.start), str(edit.end), edit.after])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def add_pair(pair: Pair, settings: Settings, judge: str, licence: str | None, mined: Mined) -> None:
    """Add the item of a pair and its images to the shard; file names are relative to it."""
    # one shape for all rows of all shards, as readers infer columns from some of them
    methods: list[dict[str, Any]] = [
        {"method": _METHOD_NAMES[settings.method], "avoid": pair.edit.avoid, "weight": float(pair.weight)}
    ]
    if settings.diversify is not None:
        methods.append({"method": "NegToMe", "avoid": "", "weight": float(settings.diversify["alpha"])})
    if pair.source.stored is not None:
        image = store_original(pair.source, mined)
    else:
        image = f"images/{hashlib.sha256(pair.source.id.encode()).hexdigest()[:16]}.png"
    item = Item(
        id=pair.id,
        source_id=pair.source.id,
        image_file_name=image,
        negative_image_file_name=f"images/{pair.id}-negative.png",
        caption=pair.source.caption,
        negative_caption=pair.edit.caption,
        category=pair.edit.category,
        start=pair.edit.start,
        end=pair.edit.end,
        before=pair.edit.before,
        after=pair.edit.after,
        backend=pair.edit.backend,
        scores=tuple(pair.scores),
        judge=without_place(judge),
        prompt=pair.edit.prompt,
        model=None if settings.model is None else without_place(settings.model),
        revision=settings.revision,
        methods=methods,
        seed=pair.seed,
        tries=pair.tries,
        positive_captions=pair.positives,
        control_image_file_name=None if pair.control is None else f"images/{pair.id}-control.png",
        licence=pair.source.licence or licence or "unknown",
        extra={
            "mode": settings.mode,
            "original": "input" if pair.original_seed is None else "painted",
            "outside_change": float(pair.outside_change),
            "control_same_noise": pair.control_same_noise,
        },
    )
    images = {
        item.image_file_name: None if pair.source.stored else pair.original,
        item.negative_image_file_name: pair.negative,
        item.control_image_file_name: pair.control,
    }
    mined.items.append(item)
    mined.images |= {name: image for name, image in images.items() if name is not None and image is not None}


def store_original(row: Source, mined: Mined) -> str:
    """Store an image of the input in the shard, once however many rows show it; gives its file name there.

    Args:
        row: with ``stored``.
        mined: of the shard.

    Raises:
        FileNotFoundError, UnreadableImageError: it is not there, or no image.
    """
    assert row.stored is not None
    content, suffix = stored_form(row.stored.read(), row.id)
    file = f"images/{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    mined.files[file] = content
    return file


def reject_pair(mined: Mined, stage: str, pair: Pair) -> None:
    """Note why a pair is not kept, with its scores."""
    scores = [None if math.isnan(score) else score for score in pair.scores]
    more = {"item_id": pair.id, "scores": scores, "seed": pair.seed, "tries": pair.tries}
    reject(mined, stage, pair.reason, pair.source.id, edit=pair.edit, caption=pair.source.caption, **more)


def reject(
    mined: Mined, stage: str, reason: str, source_id: str, edit: Edit | None = None, **more: Any
) -> None:
    """Note why something is not kept, in the counts and among the rejects."""
    # what differs from case to case ("corrupt image: ...") stays out of the counts
    mined.funnel.reject(stage, reason.partition(":")[0])
    said = {} if edit is None else {"category": edit.category, "negative_caption": edit.caption}
    mined.rejects.append({"stage": stage, "reason": reason, "source_id": source_id, **said, **more})
