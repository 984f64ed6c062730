"""A set in storage: one object a shard, and one marker that says that the shard is complete.

DIR/set.json                  the settings, and by what the set was made
DIR/data/00000000.tar         a shard: an imagefolder in one tar, or one .parquet with the images inside
DIR/markers/00000000.json     it is complete: its counts, the part of the input that it was made from, what its images
                              hash to, and where in the tar each file is
DIR/rejects/00000000.jsonl    what was lost, one line each, with stage and reason
DIR/funnel.json               the counts of all shards, there when the set is complete
DIR/.claims/00000000          which process is making the shard
DIR/.painted/00000000/        what was painted and answered for it so far, kept until it is complete

DIR is a folder or an address that fsspec knows. Of an input of several files, a shard is made from a part of one, and
its name is the file's number and the part's: 00000002-00000000. A shard is written before its marker and never
renamed; what has no marker is no shard.

Sets of format version 1, with a folder for each shard (DIR/data/00000/metadata.jsonl, images and shard.json), are read
as well.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from negguide._utils.files import abandoned
from negguide.mining.claims import Claims
from negguide.mining.funnel import Funnel
from negguide.mining.item import Item, Source
from negguide.mining.mined import Mined
from negguide.mining.originals import changed
from negguide.mining.settings import Settings
from negguide.mining.shard_files import METADATA, encode, item_in, read_shard
from negguide.mining.sources import BadSource
from negguide.storage import (
    Place,
    location,
    names_in,
    on_this_machine,
    read_all,
    refreshed,
    remove,
    sizes_in,
    write_whole,
)

SHARD = "shard.json"
SET = "set.json"
FUNNEL = "funnel.json"
DATA, MARKERS, REJECTS, CLAIMS, PAINTED = "data", "markers", "rejects", ".claims", ".painted"
OWN = (SET, FUNNEL, DATA, MARKERS, REJECTS)
"""What a complete set consists of."""


class SetFolder:
    """The folder of a set that is being made, by one process or by several at once.

    Args:
        folder: a folder, made when it is missing, or an address.
        settings, made_by: of this run; ``made_by`` (versions) is stored and not compared.

    Raises:
        ValueError: the folder holds a set that was made with other settings, or something else. What a run has left
            that wrote no shard, and that no process is at work on, is no set: it is thrown away.
    """

    def __init__(self, folder: Path | str, settings: Settings, made_by: Mapping[str, Any]) -> None:
        self.folder = location(folder, "--out")
        self.claims = Claims(self.folder / CLAIMS)
        self._records: dict[str, dict[str, Any]] = {}
        path = self.folder / SET
        if path.exists() and not _as_now(self.folder, settings) and self._abandoned():
            remove(path)
            self.clean()
            remove(self.folder / DATA)
            remove(self.folder / REJECTS)
        if not path.exists():
            found = [name for name in names_in(self.folder) if name[0] != "." and name != DATA]
            # unless another process has just begun the set
            if SET not in found and (found or names_in(self.folder / DATA)):
                raise ValueError(
                    f"--out {self.folder} holds other files ({', '.join(found[:3]) or DATA}) and no set; give a new "
                    "folder"
                )
            # several processes that begin together write the same
            write_json(path, {"settings": settings.to_dict(), "made_by": dict(made_by)})
        began = read_settings(self.folder)
        if began.shard_format == "folder":
            raise ValueError(
                f"--out {self.folder} holds a set of an earlier version, with a folder for each shard; a finished one "
                "is read by every verb, but none can be gone on with: give a new folder"
            )
        different = settings.difference(began)
        if different:
            raise ValueError(
                f"--out {self.folder} was made with other settings ({'; '.join(different)}); use the same settings to "
                "go on, or give a new folder"
            )
        self.settings = settings

    def _abandoned(self) -> bool:
        """Whether no shard is there and no process makes one."""
        made = names_in(self.folder / MARKERS) or (self.folder / FUNNEL).exists() or _old_shards(self.folder)
        return not made and not self.claims.any_held()

    def names(self) -> list[str]:
        """The complete shards, in order."""
        return [Path(name).stem for name in names_in(self.folder / MARKERS) if name.endswith(".json")]

    def complete(self, name: str) -> bool:
        """Whether a shard is there, with all that belongs to it."""
        return name in self._records or refreshed(self._marker(name)).exists()

    def record(self, name: str) -> dict[str, Any]:
        """What the marker of a complete shard says; it does not change."""
        if name not in self._records:
            self._records[name] = json.loads(self._marker(name).read_bytes())
        return self._records[name]

    def records(self) -> dict[str, dict[str, Any]]:
        """Of all complete shards, in order: what their markers say."""
        names = self.names()
        new = [name for name in names if name not in self._records]
        read = read_all([self._marker(name) for name in new])
        self._records |= {name: json.loads(content) for name, content in zip(new, read, strict=True)}
        return {name: self._records[name] for name in names}

    def _marker(self, name: str) -> Path:
        return self.folder / MARKERS / f"{name}.json"

    @contextmanager
    def claim(self, names: Sequence[str], last: bool = False) -> Iterator[bool]:
        """Whether this process may make these shards: nobody else does, and they are not all there yet.

        A process that dies loses its claim.

        Args:
            names: of shards that are made together, always these; the first stands for all.
            last: there are none behind them in their file of the input.
        """
        if all(map(self.complete, names)):
            yield False
            return
        with self.claims.claim(names[0], last) as free:
            yield free and not all(map(self.complete, names))

    def write(self, name: str, mined: Mined, part: str, **more: Any) -> bool:
        """Write a shard; it is there as a whole or not at all. Says whether it was not there already.

        Args:
            name: of the shard.
            mined: what it holds.
            part: stands for the part of the input that it was made from (``part_digest``).
            more: what its marker says besides, as JSON.

        Raises:
            OSError: the disk is full, or cannot be written; nothing half-written counts.
            ValueError: another run has begun in the folder meanwhile, with other settings.
        """
        if not _as_now(self.folder, self.settings):
            raise ValueError(
                f"--out {self.folder} was taken over by a run with other settings; give a new folder"
            )
        if self.complete(name):
            # another process was faster, and what it wrote is read already
            return False
        try:
            content, members = encode(mined, self.settings.shard_format)
            # parquet files without rows stop those who read all files of a folder
            file = f"{name}.{self.settings.shard_format}" if members or mined.items else None
            if file is not None:
                write_whole(self.folder / DATA / file, content)
            write_whole(self.folder / REJECTS / f"{name}.jsonl", _lines(mined.rejects).encode())
            record = {
                "sources": part,
                **more,
                "items": len(mined.items),
                "funnel": mined.funnel.to_dict(),
                "file": file,
                "size": len(content),
                "members": members,
            }
            # the commit: before it there is no shard, after it there is the whole
            write_json(self._marker(name), record)
        except OSError as error:
            raise OSError(
                f"shard {name} of {self.folder} cannot be written: {error.strerror or error}; the "
                f"{len(self.names())} shards before are complete, and the same command goes on from there"
            ) from error
        return True

    def forget(self, name: str) -> None:
        """Take away what was painted and answered for a group that is complete; what stays goes with ``clean``."""
        with suppress(OSError):
            remove(self.memory(name))

    def memory(self, name: str) -> Path:
        """Where what is painted and answered is kept until a group is complete, by the name of its first shard."""
        return self.folder / PAINTED / name

    @contextmanager
    def local_memory(self, name: str) -> Iterator[Path]:
        """As ``memory``, for files that grow, which object stores do not have: a folder on this machine.

        What is in it afterwards is in ``memory``, also when the block ends in an error; of a set at an address it is
        lost when the process is killed.
        """
        kept = self.memory(name)
        if on_this_machine(kept):
            yield kept
            return
        with tempfile.TemporaryDirectory() as scratch:
            for file in names_in(kept / "files"):
                (Path(scratch) / file).write_bytes((kept / "files" / file).read_bytes())
            try:
                yield Path(scratch)
            finally:
                for path in Path(scratch).iterdir():
                    write_whole(kept / "files" / path.name, path.read_bytes())

    def check_part(self, name: str, part: str) -> None:
        """Refuse to go on with a complete shard that was made from another input.

        Raises:
            ValueError: the input has changed since.
        """
        if self.record(name)["sources"] != part:
            self._refuse_input(name)

    def check_print(self, name: str, shard_print: str) -> None:
        """Refuse to go on with a complete shard that was made from another file.

        Raises:
            ValueError: the file has changed since.
        """
        then = self.record(name)["input"]
        # sets made before say the file's name and size alone
        if then != shard_print and not shard_print.startswith(f"{then}, "):
            self._refuse_input(name, f": it was {then}, and is {shard_print}")

    def check_images(self, name: str, rows: Sequence[Source | BadSource]) -> None:
        """Refuse to go on with a complete shard whose images are others under the same captions.

        Args:
            name: of the shard.
            rows: of its part of the input, after `check_part`.

        Raises:
            ValueError: an image has changed since, or is no longer there.
        """
        row = changed(rows, self.record(name).get("originals", ""), self.settings)
        if row is not None:
            file = "" if row.stored is None or row.stored.path is None else f" ({row.stored.path})"
            self._refuse_input(name, f": the image of {row.id!r}{file} is another, or is gone")

    def _refuse_input(self, name: str, what: str = "") -> NoReturn:
        raise ValueError(
            f"--data has changed since shard {name} of {self.folder} was made from it{what}; use the same input to go "
            "on, or give a new folder"
        )

    def funnel(self) -> Funnel:
        """Of all complete shards."""
        return Funnel.sum(Funnel.from_dict(record["funnel"]) for record in self.records().values())

    def finish(self, funnel: Funnel) -> None:
        """Write the counts of the whole set, and take away what only the making needed; a finished set stays as it is.

        Raises:
            OSError: the disk is full, or cannot be written.
            ValueError: a shard is not what its marker says.
        """
        path = self.folder / FUNNEL
        counts = funnel.to_dict()
        if not path.is_file() or json.loads(path.read_bytes()) != counts:
            sizes = sizes_in(self.folder / DATA)
            for name, record in self.records().items():
                if record["file"] is not None and sizes.get(record["file"]) != record["size"]:
                    raise ValueError(
                        f"{self.folder / DATA / record['file']} has {sizes.get(record['file'])} bytes, and its marker "
                        f"says {record['size']}: two processes made it differently; remove the marker "
                        f"{self._marker(name)} and run the command again"
                    )
            write_json(path, counts)
        self.clean()

    def clean(self) -> None:
        """Take away what only the making needed; call it when every shard is complete."""
        for name in (CLAIMS, PAINTED):
            with suppress(OSError):
                remove(self.folder / name)
        if on_this_machine(self.folder):
            for name in (DATA, MARKERS, REJECTS):
                for partial in (self.folder / name).glob(".*.partial"):
                    if abandoned(partial):
                        with suppress(OSError):
                            remove(partial)


def part_digest(rows: Sequence[Any]) -> str:
    """Stands for a part of the input: the ids, and the captions of what has one."""
    text = json.dumps([[row.id, getattr(row, "caption", None)] for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shard:
    """A complete shard.

    Attributes:
        path: its object; of an old set, its folder.
        members: of a tar, where in it each file is.
    """

    path: Path
    members: Mapping[str, Sequence[int]]

    def items(self) -> Iterator[tuple[Item, Place]]:
        """Its items, with the place of their files.

        Raises:
            ValueError: a row is not that of an item.
        """
        if self.path.suffix in (".tar", ".parquet"):
            yield from read_shard(self.path, self.members)
            return
        with (self.path / METADATA).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield item_in(line, f"{self.path / METADATA}, line {number}"), self.path


def shards_of(folder: Path | str) -> list[Shard]:
    """The complete shards of the set in ``folder``, in order.

    Raises:
        ValueError: ``folder`` holds no set.
    """
    place = location(folder)
    markers = [name for name in names_in(place / MARKERS) if name.endswith(".json")]
    if not markers:
        if not (place / DATA).is_dir() and not (place / SET).is_file():
            raise ValueError(f"{folder} holds no hard-negative set: there is no folder {place / DATA}")
        return [Shard(path, {}) for path in _old_shards(place)]
    records = map(json.loads, read_all([place / MARKERS / name for name in markers]))
    return [
        Shard(place / DATA / record["file"], record["members"])
        for record in records
        if record["file"] is not None
    ]


def _old_shards(folder: Path) -> list[Path]:
    """The complete shards of a set with a folder for each."""
    found = [folder / DATA / name for name in names_in(folder / DATA) if name.isdigit()]
    return [path for path in found if (path / SHARD).is_file()]


def is_set(folder: Path) -> bool:
    """Whether a folder is that of a set that negguide mined."""
    return (folder / DATA).is_dir() and (folder / SET).is_file()


def is_half_made(folder: Path) -> bool:
    """Whether a folder is that of a set that `negguide mine` has begun and not ended."""
    return (folder / MARKERS).is_dir() and not (folder / FUNNEL).is_file()


def read_settings(folder: Path | str) -> Settings:
    """The settings of the set in ``folder``.

    Raises:
        ValueError: ``folder`` holds no set, or one of another version.
    """
    path = location(folder) / SET
    try:
        stored = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{folder} holds no hard-negative set: {path} cannot be read") from error
    return Settings.from_dict(stored["settings"])


def read_set(folder: Path | str) -> Iterator[tuple[Item, Place]]:
    """Every item of the set in ``folder``, with the place that its file names are relative to.

    Half-written shards are not read.

    Raises:
        ValueError: ``folder`` holds no set, or a row is not that of an item.
    """
    for shard in shards_of(folder):
        yield from shard.items()


def _as_now(folder: Path, settings: Settings) -> bool:
    """Whether the set in ``folder`` is made with these settings; not one that another version began."""
    try:
        return not settings.difference(read_settings(folder))
    except (ValueError, KeyError, TypeError):
        return False


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
