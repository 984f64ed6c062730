"""Where things are stored: a folder of this machine, or an address that fsspec knows (s3://, gs://, hf://, ...).

An address is a `upath.UPath`, which has the methods of `pathlib.Path`; what is here is what differs. Objects are
written as a whole and never renamed: object stores show an object when it is complete, and nothing more is asked of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, cast

from negguide._utils.files import whole_file


class ImageFile(Protocol):
    """The file of an image, wherever it lies; a `pathlib.Path` is one."""

    @property
    def name(self) -> str:
        """Without folders."""
        ...

    @property
    def suffix(self) -> str:
        """With its dot."""
        ...

    def read_bytes(self) -> bytes:
        """Its content."""
        ...

    def is_file(self) -> bool:
        """Whether it is there."""
        ...


class Place(Protocol):
    """What the file names of a row are relative to; a `pathlib.Path` is one."""

    def __truediv__(self, name: str, /) -> Any: ...


def location(spec: Path | str, option: str = "") -> Path:
    """The place that ``spec`` names.

    Args:
        spec: a path on this machine, or an address such as "s3://bucket/folder".
        option: what messages call it, such as "--out".

    Raises:
        ValueError: the protocol of the address is not known, or a package that reads it is missing.
    """
    if not isinstance(spec, str):
        return spec
    protocol, found, rest = spec.partition("://")
    if not found:
        return Path(spec).expanduser()
    named = f"{option} {spec}".strip()
    if protocol in ("file", "local"):
        return Path(rest)
    from upath import UPath

    try:
        # other processes write there too: what a listing said once is asked again
        place = UPath(spec, use_listings_cache=False)
        filesystem = place.fs
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        cure = f"pip install {package}" if package else str(error)
        raise ValueError(f"{named}: a package is missing that reads {protocol}://: {cure}") from error
    except ValueError as error:
        raise ValueError(
            f"{named}: the protocol {protocol!r} is not known to fsspec; use a folder, or an address that begins with "
            "s3://, gs://, hf:// or memory://"
        ) from error
    if not place.path.strip("/"):
        raise ValueError(f"{named} names no bucket or folder; use {protocol}://bucket/folder")
    del filesystem
    return cast(Path, place)


_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""What fsspec needs for the protocols that are used most."""


def on_this_machine(place: Any) -> bool:
    """Whether a place is a path of this machine's file system, and no address."""
    return isinstance(place, Path)


def refreshed(place: Path) -> Path:
    """``place``, about which nothing is remembered that may have changed."""
    if not on_this_machine(place):
        cast(Any, place).fs.invalidate_cache()
    return place


def absolute(place: Path) -> Path:
    """``place`` as it is named from everywhere."""
    return place.absolute() if on_this_machine(place) else place


def write_whole(place: Path, content: bytes) -> None:
    """Write an object; whoever looks finds all of it or nothing (or what was there before).

    Folders that are missing are made. On this machine the content is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    if not on_this_machine(place):
        place.write_bytes(content)
        return
    with whole_file(place) as aside:
        aside.write_bytes(content)


def write_new(place: Path, content: bytes) -> bool:
    """Write an object unless there is one already; says whether it was written.

    On an object store two that write at the same moment may both be told so.

    Raises:
        OSError: it cannot be written.
    """
    if not on_this_machine(place):
        if place.exists():
            return False
        place.write_bytes(content)
        return bool(place.read_bytes() == content)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with place.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True


def size_of(file: Any) -> int:
    """Bytes of a file, wherever it lies, without reading it where that is possible."""
    packed = getattr(file, "size", None)
    return int(file.stat().st_size if packed is None else packed)


_PIECES, _PIECE = 16, 1 << 16


def fingerprint(file: Path) -> str:
    """16 hex digits of a file's size and of 16 pieces of 64 KiB of it, evenly spread from its beginning to its end.

    It tells a file that was made anew, wherever it lies, at the cost of a megabyte; not one of the same size that
    differs between the pieces alone. Of a file that is no larger than these it is a hash of the whole.

    Raises:
        OSError: it cannot be read.
    """
    size = size_of(file)
    if size <= _PIECES * _PIECE:
        pieces = [file.read_bytes()]
    else:
        starts = [(size - _PIECE) * number // (_PIECES - 1) for number in range(_PIECES)]
        pieces = _ranges(file, starts, _PIECE)
    return sha256(b"".join([str(size).encode(), b"\0", *pieces])).hexdigest()[:16]


def _ranges(file: Path, starts: Sequence[int], size: int) -> list[bytes]:
    """``size`` bytes from each of ``starts`` on; those of an address are read at once."""
    if on_this_machine(file):
        return [read_range(file, start, size) for start in starts]
    path, ends = cast(Any, file).path, [start + size for start in starts]
    found: list[bytes] = cast(Any, file).fs.cat_ranges(
        [path] * len(starts), list(starts), ends, on_error="raise"
    )
    return found


def names_in(folder: Path) -> list[str]:
    """The names of what lies in a folder, in order; none where there is no such folder."""
    try:
        return sorted(found.name for found in refreshed(folder).iterdir() if found.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def sizes_in(folder: Path) -> dict[str, int]:
    """The bytes of each file in a folder, by its name, in one listing."""
    if on_this_machine(folder):
        return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else {}
    found = cast(Any, refreshed(folder))
    if not found.exists():
        return {}
    listed = found.fs.ls(found.path, detail=True)
    return {str(one["name"]).rstrip("/").rpartition("/")[2]: int(one["size"] or 0) for one in listed}


def read_all(places: Sequence[Path]) -> list[bytes]:
    """The contents of several objects of one storage; those at addresses are read at once.

    Raises:
        OSError: one cannot be read.
    """
    if len(places) < 2 or on_this_machine(places[0]):
        return [place.read_bytes() for place in places]
    paths = [cast(Any, place).path for place in places]
    contents = cast(Any, places[0]).fs.cat(paths)
    filesystem = cast(Any, places[0]).fs
    return [contents[filesystem._strip_protocol(path)] for path in paths]


def remove(place: Path) -> None:
    """Take away an object, or a folder with all in it; what is not there is fine."""
    if not on_this_machine(place):
        filesystem = cast(Any, place).fs
        if filesystem.exists(cast(Any, place).path):
            filesystem.rm(cast(Any, place).path, recursive=True)
        return
    import shutil

    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def read_range(place: Path, offset: int, size: int) -> bytes:
    """``size`` bytes of an object from ``offset`` on.

    Raises:
        OSError: it cannot be read, or is shorter.
    """
    if on_this_machine(place):
        with place.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(size)
    else:
        content = cast(Any, place).fs.cat_file(cast(Any, place).path, start=offset, end=offset + size)
    if len(content) != size:
        raise OSError(f"{place} ends before byte {offset + size}; it was cut off or written by another run")
    return content
