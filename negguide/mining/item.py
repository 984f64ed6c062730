"""What goes through the mine: a source, an edit of its caption, and the item that is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from negguide.mining.categories import CATEGORIES
from negguide.storage import ImageFile, Place

Meaning = Literal["negative", "positive"]


@dataclass(frozen=True)
class StoredImage:
    """An image as the input stores it, undecoded.

    Attributes:
        read: gives its bytes; raises FileNotFoundError where there is no such file.
        path: of its file; None where it lies in an archive or a table.
    """

    read: Callable[[], bytes]
    path: Path | None = None

    @classmethod
    def of_file(cls, path: Path) -> StoredImage:
        """The image in a file."""
        return cls(path.read_bytes, path)


@dataclass(frozen=True)
class Source:
    """One image-caption pair of the input.

    Attributes:
        id: unique in the input, and the same in every run over it.
        caption: one sentence in English.
        load: opens the image (RGB) when it is needed; ``None`` where the input has captions only.
        mask: opens the mask of the phrase to be edited (L, white where pixels may change), where the input has one.
        licence: of the image and its caption, as far as the input says.
        stored: the image's file; ``None`` where ``load`` draws the image.
    """

    id: str
    caption: str
    load: Callable[[], Image.Image] | None = None
    mask: Callable[[], Image.Image] | None = None
    licence: str | None = None
    stored: StoredImage | None = None


@dataclass(frozen=True)
class Edit:
    """One change of a caption: ``source[start:end] == before`` became ``after``, and nothing else changed.

    Attributes:
        category: one of ``CATEGORIES``, or ``"paraphrase"`` for a hard positive.
        caption: the caption after the edit.
        start, end: the span of the *original* caption that was replaced, in characters.
        before, after: its words before and after; either may be empty (``add``, ``remove``).
        backend: which planner made it ("rules", "fill-mask", "llm").
        meaning: "negative" when the caption is false of the original image, "positive" for a paraphrase.
        draw: the caption to draw the negative image from, where it is not ``caption`` itself: text-to-image models
            do not read "without a hat".
        avoid: what must not be in the negative image, as a phrase of its own ("a red hat"); the negative of
            Perp-Neg. Empty where there is nothing to name (a count, a swap).
    """

    category: str
    caption: str
    start: int
    end: int
    before: str
    after: str
    backend: str
    meaning: Meaning = "negative"
    draw: str | None = None
    avoid: str = ""

    def __post_init__(self) -> None:
        if self.category not in (*CATEGORIES, "paraphrase"):
            raise ValueError(
                f"category={self.category!r} is not known; use one of {', '.join(CATEGORIES)} or paraphrase"
            )
        if self.start < 0 or self.end < self.start or self.end - self.start != len(self.before):
            raise ValueError(
                f"span [{self.start}, {self.end}) does not hold before={self.before!r} of {len(self.before)} characters"
            )

    @property
    def prompt(self) -> str:
        """What the negative image is drawn from."""
        return self.caption if self.draw is None else self.draw

    @classmethod
    def replacing(
        cls, source: str, start: int, end: int, after: str, *, category: str, backend: str, **more: Any
    ) -> Edit:
        """The edit that puts ``after`` in place of ``source[start:end]`` and touches no other character.

        A gap that an empty ``after`` would leave between two spaces, or before a full stop, is closed by widening
        the span.
        """
        if not after:
            if source[start - 1 : start] == " " and (
                end == len(source) or re.match(r"[\s.,;:!?]", source[end:])
            ):
                start -= 1
            elif start == 0 and source[end : end + 1] == " ":
                end += 1
        return cls(
            category=category,
            caption=source[:start] + after + source[end:],
            start=start,
            end=end,
            before=source[start:end],
            after=after,
            backend=backend,
            **more,
        )


@dataclass(frozen=True)
class Item:
    """One written pair, a row of ``metadata.jsonl``.

    The four ``scores`` are those of (image, caption), (image, negative caption), (negative image, caption) and
    (negative image, negative caption), by ``judge``. File names are relative to the folder of the row.

    In a set of text alone there are no scores, and what made and judged images is None; ``image_file_name`` is a file
    of the input, one beside the row, or None where the input has captions alone.
    """

    id: str
    source_id: str
    image_file_name: str | None
    negative_image_file_name: str | None
    caption: str
    negative_caption: str
    category: str
    start: int
    end: int
    before: str
    after: str
    backend: str
    scores: tuple[float, ...]
    judge: str | None
    prompt: str | None
    model: str | None
    revision: str | None
    methods: list[dict[str, Any]]
    seed: int | None
    tries: int
    positive_captions: tuple[str, ...] = ()
    control_image_file_name: str | None = None
    licence: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def files(self, place: Place) -> dict[str, ImageFile]:
        """The image files by role, "image", "negative_image" and "control_image", as far as there are any.

        Args:
            place: of the row: a folder, or inside a packed shard, as `read_set` gives it.
        """
        names = {
            "image": self.image_file_name,
            "negative_image": self.negative_image_file_name,
            "control_image": self.control_image_file_name,
        }
        return {role: place / name for role, name in names.items() if name is not None}

    def row(self) -> dict[str, Any]:
        """As JSON; ``from_row`` reads it back."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Item:
        """The inverse of `row`."""
        values = dict(row)
        for name in ("scores", "positive_captions"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)
