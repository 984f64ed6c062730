"""Image-caption pairs with their negatives, as training reads them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from negguide.image_files import UnreadableImageError, read_image
from negguide.storage import ImageFile, size_of

COLUMNS = ("negative_caption", "negative_image", "positive_captions")
"""What a row may have besides its image and caption."""


class ImageSource(Protocol):
    """An image that is read when it is asked for; `name` says where it is, `size` how many bytes it has."""

    @property
    def name(self) -> str:
        """Where it is, for messages."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self) -> bytes:
        """The content of its file."""


@dataclass(frozen=True)
class FileImage:
    """An image file."""

    path: ImageFile

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def size(self) -> int:
        """In bytes."""
        return size_of(self.path)

    def read(self) -> bytes:
        """The content of the file."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class TarImage:
    """A member of an uncompressed tar file, read by its place in it."""

    tar: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The tar file and the member."""
        return f"{self.tar}:{self.member}"

    def read(self) -> bytes:
        """The content of the member."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, eq=False)
class TableImage:
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
        """The table, the row and the column."""
        return f"{self.where}, column {self.column}"

    @property
    def size(self) -> int:
        """In bytes; 0 where it names a file that is not there."""
        # of the buffer, which is not read for it
        cell = self.table.data.column(self.column)[self.row]
        if cell["bytes"].is_valid:
            size: int = cell["bytes"].as_buffer().size
            return size
        path = cell["path"].as_py()
        # what is not there is found when it is opened, with the row that it is of
        return (self.folder / path).stat().st_size if path and (self.folder / path).is_file() else 0

    def read(self) -> bytes:
        """The content of the cell, or of the file that it names."""
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
    image: ImageSource
    caption: str
    negative_caption: str | None = None
    negative_image: ImageSource | None = None
    positive_captions: tuple[str, ...] = ()
    category: str = ""
    prompt: str = ""
    group: str = ""

    def has(self, column: str) -> bool:
        """Whether the row has something in `column`."""
        return bool(getattr(self, column))


class UnreadableRowImageError(UnreadableImageError):
    """An image that does not decode, with the row that it is of."""


def open_image(triplet_id: str, source: ImageSource) -> Image.Image:
    """Decode an image to RGB.

    Raises:
        UnreadableRowImageError: it is missing or broken; the message names the row and the file.
    """
    try:
        return read_image(source.read(), name=source.name)
    except (OSError, TypeError, UnreadableImageError) as error:
        # a file that is not there, a cell without bytes and path, or what does not decode
        reason = str(error).removeprefix(f"{source.name}: ")
        raise UnreadableRowImageError(
            f"the image {source.name} of item {triplet_id!r} cannot be read: {reason}; mend the file or take the "
            f"row out of the set"
        ) from error


def numbered(values: Sequence[Hashable]) -> list[int]:
    """Equal values get equal numbers."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]
