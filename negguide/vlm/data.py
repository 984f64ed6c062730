"""Image-caption pairs with their negatives, as training reads them, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from negguide.image_files import UnreadableImageError, read_image
from negguide.storage import ImageFile, size_of

if TYPE_CHECKING:
    from negguide.vlm.models import VisionLanguageModel

COLUMNS = ("negative_caption", "negative_image", "positive_captions")
"""What a row may have besides its image and caption."""


class Picture(Protocol):
    """An image that is read when it is asked for; ``name`` says where it is, ``size`` how many bytes it has."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class FilePicture:
    """An image file."""

    path: ImageFile

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        return size_of(self.path)

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class TarPicture:
    """A member of an uncompressed tar file, read by its place in it."""

    tar: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.tar}:{self.member}"

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, eq=False)
class TablePicture:
    """A cell of a table of the datasets package, whose images are {"bytes", "path"}.

    Attributes:
        where: names file and row.
        folder: that relative paths count from.
    """

    table: Any
    row: int
    column: str
    where: str
    folder: Path = Path()

    @property
    def name(self) -> str:
        return f"{self.where}, column {self.column}"

    @property
    def size(self) -> int:
        # of the buffer, which is not read for it
        cell = self.table.data.column(self.column)[self.row]
        if cell["bytes"].is_valid:
            size: int = cell["bytes"].as_buffer().size
            return size
        path = cell["path"].as_py()
        # what is not there is found when it is opened, with the row that it is of
        return (self.folder / path).stat().st_size if path and (self.folder / path).is_file() else 0

    def read(self) -> bytes:
        cell = self.table[self.row][self.column]
        data: bytes | None = cell["bytes"]
        return (self.folder / cell["path"]).read_bytes() if data is None else data


@dataclass(frozen=True)
class Triplet:
    """One row of a training set.

    Attributes:
        id: names the row in messages.
        source: rows with the same image have the same.
        image: of the caption.
        caption: true of the image.
        negative_caption: false of the image, and true of the negative image.
        negative_image: what the negative caption says.
        positive_captions: paraphrases of the caption.
        category: what the negative changed.
        prompt: what the negative image was drawn from; two captions may say the same ("without a hat", and no hat).
        group: of the loss "grouped": rows with the same are siblings, and yet have different images.
    """

    id: str
    source: str
    image: Picture
    caption: str
    negative_caption: str | None = None
    negative_image: Picture | None = None
    positive_captions: tuple[str, ...] = ()
    category: str = ""
    prompt: str = ""
    group: str = ""

    def has(self, column: str) -> bool:
        return bool(getattr(self, column))


class UnreadableImage(ValueError):
    """An image that does not decode, with the row that it is of."""


def open_picture(triplet_id: str, picture: Picture) -> Image.Image:
    """Decode an image to RGB.

    Raises:
        UnreadableImage: it is missing or broken; the message names the row and the file.
    """
    try:
        return read_image(picture.read(), name=picture.name)
    except (OSError, TypeError, UnreadableImageError) as error:
        # a file that is not there, a cell without bytes and path, or what does not decode
        reason = str(error).removeprefix(f"{picture.name}: ")
        raise UnreadableImage(
            f"the image {picture.name} of item {triplet_id!r} cannot be read: {reason}; mend the file or take the "
            f"row out of the set"
        ) from error


@dataclass(frozen=True)
class Checked:
    """A set that is fit for training, and what was found in it.

    Attributes:
        triplets: all rows.
        valid: for each, whether it has all the columns that the loss needs, fit for use; other rows train as plain
            pairs.
        missing: rows without all the columns that the loss needs.
        equal: rows whose negative equals the positive.
        truncated: rows whose negative caption equals the caption once the tokenizer has cut both.
    """

    triplets: tuple[Triplet, ...]
    valid: tuple[bool, ...]
    missing: int = 0
    equal: int = 0
    truncated: int = 0

    def remarks(self) -> list[str]:
        """What a reader must know, a line each."""
        total = len(self.triplets)
        reasons = {
            "have no negative": self.missing,
            "have a negative that equals the positive": self.equal,
            "differ from their negative only in words that the tokenizer cuts off": self.truncated,
        }
        return [f"{n} of {total} rows {what}; they train as plain pairs" for what, n in reasons.items() if n]


def check(
    triplets: Sequence[Triplet], model: VisionLanguageModel, columns: Sequence[str], *, loss: str, name: str
) -> Checked:
    """Which rows of the set ``name`` have a negative that ``loss`` can use; it needs ``columns``.

    Raises:
        ValueError: no rows, an empty caption, missing files, a set without the columns, no usable negative at all, or
            a word that the tokenizer does not know.
    """
    if not triplets:
        raise ValueError(f"train_data={name!r} has no rows")
    for triplet in triplets:
        for column in ("caption", "negative_caption"):
            text = getattr(triplet, column)
            if not isinstance(text, str | None) or (column == "caption" and not (text and text.strip())):
                raise ValueError(
                    f"train_data={name!r}: the {column} of item {triplet.id!r} is {text!r}; give a sentence"
                )
    _check_files(triplets, columns, name)
    for column in columns:
        if not any(triplet.has(column) for triplet in triplets):
            present = [c for c in COLUMNS if any(triplet.has(c) for triplet in triplets)]
            raise ValueError(
                f"train_data={name!r} has no column {column}, which loss={loss!r} needs; it has "
                f"{', '.join(['image', 'caption', *present])}"
            )
    complete = [all(triplet.has(column) for column in columns) for triplet in triplets]
    equal = [good and _equal(triplet, columns) for triplet, good in zip(triplets, complete, strict=True)]
    cut = [False] * len(triplets)
    if "negative_caption" in columns:
        asked = [i for i, good in enumerate(complete) if good and not equal[i]]
        cut_too = _cut_to_the_same(model, [triplets[i] for i in asked])
        for i, same in zip(asked, cut_too, strict=True):
            cut[i] = same
    valid = tuple(g and not e and not c for g, e, c in zip(complete, equal, cut, strict=True))
    checked = Checked(tuple(triplets), valid, len(complete) - sum(complete), sum(equal), sum(cut))
    if columns and not any(valid):
        raise ValueError(
            f"train_data={name!r} has no negative that loss={loss!r} can use: {'; '.join(checked.remarks())}"
        )
    return checked


def as_pairs(checked: Checked) -> Checked:
    """Every image with its caption as a row of its own, originals and negatives alike, for the loss "grouped".

    What comes of one source is a ``group``; a negative is a source of its own, for it shows something else, and shares
    it with those of one prompt. An original with several negatives comes once, with its paraphrases and without a
    category.
    """
    rows: dict[tuple[str, str] | int, Triplet] = {}
    # ids may come twice, where a set is made of several
    for number, (triplet, valid) in enumerate(zip(checked.triplets, checked.valid, strict=True)):
        plain = replace(triplet, negative_caption=None, negative_image=None, group=triplet.source)
        rows.setdefault((triplet.source, triplet.caption), replace(plain, category=""))
        if valid and triplet.negative_image is not None and triplet.negative_caption is not None:
            rows[number] = replace(
                plain,
                id=f"{triplet.id}/negative",
                source=f"{triplet.prompt or number}/negative of {triplet.source}",
                image=triplet.negative_image,
                caption=triplet.negative_caption,
                positive_captions=(),
            )
    return replace(checked, triplets=tuple(rows.values()), valid=(False,) * len(rows))


def with_one_source_per_image(triplets: Sequence[Triplet]) -> tuple[Triplet, ...]:
    """The rows, in which copies of one image under several sources have the first one's.

    A set with several captions an image may count each as a source. Only files of one size are read.
    """
    first: dict[str, Triplet] = {}
    for triplet in triplets:
        first.setdefault(triplet.source, triplet)
    by_size: dict[int, list[Triplet]] = {}
    for triplet in first.values():
        by_size.setdefault(triplet.image.size, []).append(triplet)
    source = {name: name for name in first}
    for size, alike in by_size.items():
        if size and len(alike) > 1:
            seen: dict[bytes, str] = {}
            for triplet in alike:
                digest = hashlib.sha256(triplet.image.read()).digest()
                source[triplet.source] = seen.setdefault(digest, triplet.source)
    return tuple(replace(triplet, source=source[triplet.source]) for triplet in triplets)


def split(
    triplets: Sequence[Triplet], share: float, random_: Callable[[], float]
) -> tuple[list[int], list[int]]:
    """Places for training and for validation; the rows of one image are all on one side.

    Args:
        triplets: the rows.
        share: of the images, in [0, 1), that go to validation; at least one when it is above 0.
        random_: gives numbers in [0, 1).
    """
    sources = list(dict.fromkeys(triplet.source for triplet in triplets))
    count = max(1, round(share * len(sources))) if share else 0
    drawn = sorted(sources, key={source: random_() for source in sources}.__getitem__)
    chosen = set(drawn[:count])
    places: tuple[list[int], list[int]] = ([], [])
    for i, triplet in enumerate(triplets):
        places[triplet.source in chosen].append(i)
    return places


def numbered(values: Sequence[Hashable]) -> list[int]:
    """Equal values get equal numbers."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def normalised(text: str) -> str:
    """What two sentences are compared by: letter case and spaces say nothing."""
    return " ".join(text.lower().split())


def _equal(triplet: Triplet, columns: Sequence[str]) -> bool:
    captions = triplet.negative_caption is not None and normalised(triplet.caption) == normalised(
        triplet.negative_caption
    )
    if "negative_caption" in columns and captions:
        return True
    return (
        "negative_image" in columns
        and triplet.negative_image is not None
        and _same_picture(triplet.image, triplet.negative_image)
    )


def _same_picture(a: Picture, b: Picture) -> bool:
    """A copy under another name is the same picture; only files of one size are read for it."""
    return a == b or (a.size == b.size and a.read() == b.read())


def _cut_to_the_same(model: VisionLanguageModel, triplets: Sequence[Triplet]) -> list[bool]:
    captions = [t.caption for t in triplets]
    negatives = [t.negative_caption or "" for t in triplets]
    long = [a or b for a, b in zip(model.truncated(captions), model.truncated(negatives), strict=True)]
    same = [False] * len(triplets)
    for i in (i for i, is_long in enumerate(long) if is_long):
        ids = model.text_inputs([captions[i], negatives[i]])["input_ids"]
        same[i] = bool((ids[0] == ids[1]).all())
    return same


def _check_files(triplets: Sequence[Triplet], columns: Sequence[str], name: str) -> None:
    pictures = [t.image for t in triplets]
    if "negative_image" in columns:
        pictures += [t.negative_image for t in triplets if t.negative_image is not None]
    paths = dict.fromkeys(picture.path for picture in pictures if isinstance(picture, FilePicture))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"train_data={name!r}: {len(missing)} of {len(paths)} images are missing, the first is {missing[0]}"
        )
