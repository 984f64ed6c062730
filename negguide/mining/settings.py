"""Everything that decides what is in a set."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from negguide.domain import USUAL_STEPS
from negguide.mining.categories import CATEGORIES
from negguide.mining.render.job import Mode, RenderMethod
from negguide.mining.verify.margins import Margins

FORMAT_VERSION = 2
"""Of the layout in storage; 1 had a folder for each shard."""
SHARD_FORMATS = ("tar", "parquet")
IMAGE_SAMPLE = 2000
"""Pairs of a set that an audit looks at, at most, with its probes of images."""
OF_IMAGES = (
    *(
        "model",
        "revision",
        "dtype",
        "mode",
        "method",
        "steps",
        "guidance_scale",
        "batch_size",
        "strength",
        "weight",
    ),
    *(
        "retries",
        "shards_together",
        "diversify",
        "judge",
        "judge_revision",
        "absolute_margin",
        "relative_margin",
        "max_score",
        "vqa",
        "vqa_revision",
    ),
    *("region", "region_revision", "max_outside_change", "controls", "train_model"),
)
"""The settings without a meaning in a set of text alone."""
_NAMES_OF_MODELS = ("model", "judge", "vqa", "region", "train_model")


@dataclass(frozen=True)
class Settings:
    """The settings of a set. The items are a function of the input, of these and of nothing else.

    A set of text alone has neither ``model`` nor ``judge``, and no other setting of `OF_IMAGES`.

    Attributes:
        data: the input, and what it says about itself (``Input.description``).
        categories: which kinds of edits.
        per_item: edits of one pair at most.
        planner: what plans them (``Planner.description``).
        model, revision, dtype: what paints, and in which precision.
        mode, method, steps, guidance_scale, batch_size, strength: of the painter.
        weight: of what is avoided, at the first try; each further try adds half of it.
        retries: further tries of an edit whose image was rejected.
        diversify: NegToMe among the images of one caption, as JSON; None = not.
        judge, judge_revision, absolute_margin, relative_margin, max_score: what is kept.
        vqa, vqa_revision: the model that is asked about the edited phrase; None = not.
        region: where the mask of ``mode="inpaint"`` comes from: "column", "attention" or a detector's id.
        region_revision: of the detector.
        max_outside_change: of ``mode="inpaint"``: the largest mean change outside the mask, in [0, 1].
        controls: share of the items whose original caption is painted too.
        positives: paraphrases of each caption at most.
        max_category_share: largest share that one category may have of a shard's items; 1 = no limit.
        seed: of everything random.
        limit: how many pairs of the input are read; None = all.
        shard_size: how many pairs of the input make a shard.
        shards_together: how many of them are painted in common batches, by one process.
        shard_format: what a shard is stored as: "tar" or "parquet"; "folder" in sets of format version 1.
        train_model: the model that is to learn from the set. It decides nothing in it: that it is not the judge is
            checked whenever the set is gone on with, so its revision is not asked for.

    Raises:
        TypeError, ValueError: naming the option, its value and what would be right.
    """

    data: Mapping[str, Any]
    planner: Mapping[str, Any]
    model: str | None
    judge: str | None
    judge_revision: str | None = None
    categories: tuple[str, ...] = CATEGORIES
    per_item: int = 1
    revision: str | None = None
    dtype: str = "float32"
    mode: str = "generate"
    method: str = "perp-neg"
    steps: int = USUAL_STEPS
    guidance_scale: float = 7.5
    batch_size: int = 16
    strength: float = 0.8
    weight: float = 1.0
    retries: int = 3
    diversify: Mapping[str, Any] | None = None
    absolute_margin: float = 0.0
    relative_margin: float | None = None
    max_score: float | None = None
    vqa: str | None = None
    vqa_revision: str | None = None
    region: str = "attention"
    region_revision: str | None = None
    max_outside_change: float = 0.02
    controls: float = 0.25
    positives: int = 1
    max_category_share: float = 1.0
    seed: int = 0
    limit: int | None = None
    shard_size: int = 64
    shards_together: int = 4
    shard_format: str = "tar"
    train_model: str | None = None
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        for name in ("per_item", "steps", "batch_size", "shard_size", "shards_together"):
            self._whole(name, 1)
        for name in ("retries", "positives", "seed"):
            self._whole(name, 0)
        if self.limit is not None:
            self._whole("limit", 1)
        for name in ("controls", "max_category_share", "max_outside_change", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} must be from 0 to 1, got {getattr(self, name)}")
        formats = SHARD_FORMATS if self.format_version == FORMAT_VERSION else ("folder",)
        if self.shard_format not in formats:
            raise ValueError(f"--shard-format must be one of {', '.join(formats)}, got {self.shard_format!r}")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"--weight must be a finite number >= 0, got {self.weight}")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"--guidance-scale must be a finite number, got {self.guidance_scale}")
        for name, known in (("mode", get_args(Mode)), ("method", get_args(RenderMethod))):
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        # says what is wrong with them
        _ = self.margins
        wrong = [name for name in self.categories if name not in CATEGORIES]
        if wrong or not self.categories:
            raise ValueError(
                f"--categories must be some of {', '.join(CATEGORIES)}, got {', '.join(wrong) or 'none'}"
            )

    @property
    def text_only(self) -> bool:
        """Whether no image is made or judged."""
        return self.model is None

    @property
    def group_size(self) -> int:
        """How many shards are made together; of text alone each is made by itself."""
        return 1 if self.text_only else self.shards_together

    @property
    def margins(self) -> Margins:
        """When a pair is kept."""
        return Margins(self.absolute_margin, self.relative_margin, self.max_score)

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be a whole number >= {least}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON; ``from_dict`` reads it back.

        Models in folders are told by the folder's name, for nothing in a set says where on a machine it was made.
        """
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.text_only:
            data = {name: value for name, value in data.items() if name not in OF_IMAGES}
        for place, name in [(data, name) for name in _NAMES_OF_MODELS] + [(data["planner"], "model")]:
            if place.get(name) is not None:
                place[name] = without_place(place[name])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: for keys that are missing or not known.
        """
        names = {f.name for f in fields(cls)}
        values = dict(data)
        if values.get("format_version") == 1:
            values.setdefault("shard_format", "folder")
        if not set(values) & set(OF_IMAGES):
            values |= {"model": None, "judge": None}
            names -= set(OF_IMAGES) - {"model", "judge"}
        else:
            # sets made before do not say; one that such a model takes part in is read, and not gone on with
            values = {"vqa_revision": None, "region_revision": None, **values}
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise ValueError(f"the settings of the set are of another version: {', '.join(odd)}")
        return cls(**{**values, "categories": tuple(values["categories"])})

    def difference(self, other: Settings) -> list[str]:
        """What differs, as "name: mine, not theirs"."""
        mine, theirs = self.to_dict(), other.to_dict()
        if self.text_only != other.text_only:
            return [f"text only: {other.text_only} there, {self.text_only} now"]
        return [
            f"{name}: {theirs[name]!r} there, {mine[name]!r} now"
            for name in mine
            if mine[name] != theirs[name]
        ]


def without_place(model: str) -> str:
    """A model's name without where its folder lies: "clip:/models/b32" becomes "clip:b32"; hub ids stay."""
    kind, colon, name = model.rpartition(":")
    if not Path(name).expanduser().is_dir() and not Path(name).is_absolute():
        return model
    return kind + colon + Path(name).expanduser().resolve().name


def seed_of(*parts: object) -> int:
    """A seed below 2**53 (what JSON keeps exactly), a stable hash of ``parts``."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11
