"""What a suite is: data alone. `negguide.vlm.evaluation.evaluate` measures a model on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from PIL import Image

from negguide.image_files import read_image
from negguide.storage import ImageFile


@dataclass(frozen=True)
class Pair:
    """Two images and two captions that belong together in order, told apart by one change.

    Attributes:
        images: their places in `Pairs.images`.
        captions: of the first image and of the second.
        category: what differs.
        paraphrases: other wordings of the first caption (hard positives); may be empty.
    """

    images: tuple[int, int]
    captions: tuple[str, str]
    category: str
    paraphrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Measured by text, image and group score, and by hard positives where there are paraphrases."""

    images: Sequence[Image.Image]
    items: tuple[Pair, ...]


@dataclass(frozen=True)
class Choice:
    """An image and captions of which one is right.

    Attributes:
        image: its place in `Choices.images`.
        options: the captions.
        answer: the place of the right one.
        category: of the item.

    Raises:
        ValueError: there is nothing to choose from, or the answer is none of the options.
    """

    image: int
    options: tuple[str, ...]
    answer: int
    category: str

    def __post_init__(self) -> None:
        if len(self.options) < 2:
            raise ValueError(f"options={self.options!r} must be at least two; one alone is always the best")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(
                f"answer={self.answer} must be the place of one of the {len(self.options)} options, 0 to "
                f"{len(self.options) - 1}"
            )


@dataclass(frozen=True)
class Choices:
    """Measured by accuracy.

    Attributes:
        images: of all items.
        items: one for every image and its captions.
        macro: the least number of items of a category that counts in the mean over categories, which is the published
            figure of some suites; None = no such mean.
        left_out: categories that this mean leaves out.
    """

    images: Sequence[Image.Image]
    items: tuple[Choice, ...]
    macro: int | None = None
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Retrieval:
    """Measured by R@1 and R@5 from text to image and from image to text.

    Attributes:
        images: the gallery.
        captions: the queries.
        owners: for every caption, the place of its image.
        both: also from image to text.
    """

    images: Sequence[Image.Image]
    captions: tuple[str, ...]
    owners: tuple[int, ...]
    both: bool = True


@dataclass(frozen=True)
class ZeroShot:
    """Measured by accuracy of the nearest class.

    Attributes:
        images: to classify.
        labels: for every image, the place of its class.
        prompts: for every class its texts; their features are averaged.
    """

    images: Sequence[Image.Image]
    labels: tuple[int, ...]
    prompts: tuple[tuple[str, ...], ...]


Part = Pairs | Choices | Retrieval | ZeroShot


@dataclass(frozen=True)
class Suite:
    """A named set of items.

    Attributes:
        name: as results are listed.
        version: of the items; results of different versions are not comparable. To that of a suite from files,
            `make_suite` adds a hash of the items.
        parts: by a name that is appended to the suite's; "" where there is only one.
        part: which part of the items it holds ("812 of 7,511 items"), for it is said beside every figure; "" = all.
    """

    name: str
    version: str
    parts: dict[str, Part]
    part: str = ""


class ImageFiles(Sequence[Image.Image]):
    """Images on disk, opened one at a time when they are asked for.

    Args:
        paths: of the files; a file may come several times.
        boxes: what is cut out of each, (left, top, right, bottom) in pixels; None = nothing is.
        hint: how to say where the images are, for the error message.

    Raises:
        ValueError: files are missing (how many, and the first of them).
    """

    def __init__(
        self,
        paths: Sequence[ImageFile],
        boxes: Sequence[tuple[int, int, int, int]] | None = None,
        *,
        hint: str = "",
    ) -> None:
        distinct = dict.fromkeys(paths)
        missing = [path for path in distinct if not path.is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(distinct)} images are missing, the first is {missing[0]}"
                + (f"; {hint}" if hint else "")
            )
        self.paths = tuple(paths)
        self.boxes = None if boxes is None else tuple(boxes)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        image = read_image(self.paths[index])
        return image if self.boxes is None else image.crop(self.boxes[index])


def first_of_each(categories: Sequence[str], limit: int | None) -> list[int]:
    """The places of the first `limit` items of every category, in order; all of them without a limit."""
    if limit is None:
        return list(range(len(categories)))
    seen: dict[str, int] = {}
    kept = []
    for place, category in enumerate(categories):
        seen[category] = seen.get(category, 0) + 1
        if seen[category] <= limit:
            kept.append(place)
    return kept
