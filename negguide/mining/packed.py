"""What a shard holds besides its rows: images inside a tar or parquet file, or beside the rows in a folder.

Readers of a set get each item with the place of its files, as `Item.files` takes it. Of a folder the place is its
path; of a packed shard it is one of the classes below, whose `/` gives what has the methods of a path that readers
need: `name`, `suffix`, `read_bytes` and `is_file`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from negguide.storage import read_range


@dataclass(frozen=True)
class Member:
    """A member of an uncompressed tar file.

    Attributes:
        archive: the tar file.
        member: its name in it.
        offset, size: of its content, in bytes.
    """

    archive: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Of the file, without folders."""
        return PurePosixPath(self.member).name

    @property
    def suffix(self) -> str:
        """With its dot."""
        return PurePosixPath(self.member).suffix

    def is_file(self) -> bool:
        """True: it is listed because it is there."""
        return True

    def read_bytes(self) -> bytes:
        """Its content, read by its place: the rest of the file is not touched."""
        return read_range(self.archive, self.offset, self.size)

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}"


@dataclass(frozen=True)
class TarPlace:
    """A tar shard; names that are not in it are of files beside it.

    Attributes:
        members: by name: where the content begins, and its size.
    """

    archive: Path
    members: Mapping[str, tuple[int, int]] = field(compare=False)

    def __truediv__(self, name: str) -> Any:
        if name in self.members:
            return Member(self.archive, name, *self.members[name])
        return self.archive.parent / name


@dataclass(frozen=True)
class Cell:
    """An image in a parquet file.

    Attributes:
        group: its row group.
        row: within that.
        column, path: the column, and the name that the cell gives it.
        reading: as of its `RowPlace`.
    """

    file: Path
    group: int
    row: int
    column: str
    path: str
    reading: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Of the file, without folders."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """With its dot."""
        return PurePosixPath(self.path).suffix

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.read_bytes())

    def is_file(self) -> bool:
        """True: it is listed because it is there."""
        return True

    def read_bytes(self) -> bytes:
        """Its content; the row group stays in memory, for the images beside it."""
        cell = _column(self.file, self.group, self.column, self.reading)[self.row]
        content: bytes = cell["bytes"].as_py()
        return content

    def __str__(self) -> str:
        return f"{self.file}: {self.path}"


@dataclass(frozen=True)
class RowPlace:
    """A row of a parquet shard; names that it holds no image for are of files beside the shard.

    Attributes:
        reading: of the shard: what is remembered of one is not taken for another, for a new set may lie in its place.
    """

    file: Path
    group: int
    row: int
    columns: Mapping[str, str] = field(compare=False)
    reading: str = field(default="", compare=False)

    def __truediv__(self, name: str) -> Any:
        if name in self.columns:
            return Cell(self.file, self.group, self.row, self.columns[name], name, self.reading)
        return self.file.parent / name


@lru_cache(maxsize=12)
def _column(file: Path, group: int, column: str, reading: str) -> Any:
    import pyarrow.parquet

    with file.open("rb") as stream:
        table = pyarrow.parquet.ParquetFile(stream).read_row_group(group, columns=[column])
    return table.column(column)


def pack(files: Iterable[tuple[str, bytes]]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """A tar of these files, and where in it each of them is: (offset, size).

    Equal files give equal bytes: no times and no owners are stored.
    """
    stream = io.BytesIO()
    members: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            # what follows the content is filled up to whole blocks of 512 bytes
            members[name] = (archive.offset - -(-len(content) // 512) * 512, len(content))
    return stream.getvalue(), members


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of a tar that `pack` made, in their order."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            assert stream is not None
            files[member.name] = stream.read()
    return files
