"""A set on disk: one folder a shard, each an imagefolder of its own, written aside and renamed when complete.

DIR/set.json                     the settings, and by what the set was made
DIR/data/00000/metadata.jsonl    one row an item; file names are relative to it
DIR/data/00000/images/           made images as PNG, those of the input in the format that they came in
DIR/data/00000/shard.json        the shard's counts, and which part of the input it was made from
DIR/data/.00001.partial/         a shard on its way; whoever makes it again throws it away first
DIR/.painted/00001/              what was painted and answered for it so far, kept until it is complete
DIR/rejects/00000.jsonl          what was lost, one line each, with stage and reason
DIR/funnel.json                  the counts of all shards, there when the set is complete
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from negguide.mining.funnel import Funnel
from negguide.mining.item import Item
from negguide.mining.settings import Settings

METADATA = "metadata.jsonl"
SHARD = "shard.json"
SET = "set.json"
FUNNEL = "funnel.json"


@dataclass
class Mined:
    """What came out of one shard's part of the input.

    Attributes:
        items: with file names that are keys of ``images``.
        images: {file name relative to the shard: image}.
        files: {file name relative to the shard: content}, of images that are stored as they came.
        rejects: one dict each, with at least "stage", "reason" and "source_id".
        funnel: the counts.
    """

    items: list[Item] = field(default_factory=list)
    images: dict[str, Image.Image] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    funnel: Funnel = field(default_factory=Funnel)


class SetFolder:
    """The folder of a set that is being made, by one process or by several at once.

    Args:
        folder: made when it is missing.
        settings, made_by: of this run; ``made_by`` (versions) is stored and not compared.

    Raises:
        ValueError: the folder holds a set that was made with other settings, or something else. What a run has left
            that wrote no shard, and that no process is at work on, is no set: it is thrown away.
    """

    def __init__(self, folder: Path | str, settings: Settings, made_by: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.data = self.folder / "data"
        if not self.folder.exists() or not any(self.folder.iterdir()):
            self.data.mkdir(parents=True, exist_ok=True)
        path = self.folder / SET
        if path.exists() and not _as_now(self.folder, settings) and self._abandoned():
            path.unlink(missing_ok=True)
            self.clean()
            shutil.rmtree(self.folder / "rejects", ignore_errors=True)
        if not path.exists():
            others = [p.name for p in self.folder.iterdir() if p.name not in ("data",) and p.name[0] != "."]
            if others or shard_numbers(self.data):
                raise ValueError(
                    f"--out {self.folder} holds other files ({', '.join(sorted(others)[:3]) or 'data'}) and no set; "
                    "give a new folder"
                )
            # several processes that begin together write the same
            write_json(path, {"settings": settings.to_dict(), "made_by": dict(made_by)})
        began = read_settings(self.folder)
        different = settings.difference(began)
        if different:
            raise ValueError(
                f"--out {self.folder} was made with other settings ({'; '.join(different)}); use the same settings to "
                "go on, or give a new folder"
            )
        self.data.mkdir(exist_ok=True)
        self.settings = settings

    def _abandoned(self) -> bool:
        """Whether no shard is there and no process makes one."""
        if shard_numbers(self.data) or (self.folder / FUNNEL).exists():
            return False
        locks = self.folder / ".locks"
        for file in locks.iterdir() if locks.is_dir() else ():
            lock = FileLock(file)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                return False
            lock.release()
        return True

    def complete(self, number: int) -> bool:
        return (self.data / shard_name(number) / SHARD).is_file()

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Whether this process may make the shard: nobody else does, and it is not there yet.

        A process that dies loses its claim.
        """
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / shard_name(number))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield not self.complete(number)
        finally:
            lock.release()

    def write(self, number: int, mined: Mined, part: str) -> None:
        """Write a shard; it is there as a whole or not at all.

        Args:
            number: of the shard.
            mined: what it holds.
            part: stands for the part of the input that it was made from (``part_digest``).

        Raises:
            OSError: the disk is full, or cannot be written; nothing half-written is left.
            ValueError: another run has begun in the folder meanwhile, with other settings.
        """
        if not _as_now(self.folder, self.settings):
            raise ValueError(
                f"--out {self.folder} was taken over by a run with other settings; give a new folder"
            )
        name = shard_name(number)
        partial = self.data / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for file, image in mined.images.items():
                path = partial / file
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as stream:
                    image.save(stream, "PNG")
                    _sync(stream)
            for file, content in mined.files.items():
                path = partial / file
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as stream:
                    stream.write(content)
                    _sync(stream)
            _write(partial / METADATA, _lines(item.row() for item in mined.items))
            record = {"sources": part, "items": len(mined.items), "funnel": mined.funnel.to_dict()}
            _write(partial / SHARD, json.dumps(record, indent=1) + "\n")
            rejects = self.folder / "rejects" / f"{name}.jsonl"
            rejects.parent.mkdir(exist_ok=True)
            _replace(rejects, _lines(mined.rejects))
            # the commit: before it there is no shard, after it there is the whole
            partial.rename(self.data / name)
            shutil.rmtree(self.memory(number), ignore_errors=True)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"shard {name} of {self.folder} cannot be written: {error.strerror or error}; the "
                f"{len(shard_numbers(self.data))} shards before are complete, and the same command goes on from there"
            ) from error

    def memory(self, number: int) -> Path:
        """Where what is painted and answered for a shard is kept until it is complete."""
        return self.folder / ".painted" / shard_name(number)

    def check_part(self, number: int, part: str) -> None:
        """Refuse to go on with a complete shard that was made from another input.

        Raises:
            ValueError: the input has changed since.
        """
        record = json.loads((self.data / shard_name(number) / SHARD).read_text(encoding="utf-8"))
        if record["sources"] != part:
            raise ValueError(
                f"--data has changed since shard {shard_name(number)} of {self.folder} was made from it; use the same "
                "input to go on, or give a new folder"
            )

    def funnel(self) -> Funnel:
        """Of all complete shards."""
        return Funnel.sum(
            Funnel.from_dict(
                json.loads((self.data / shard_name(n) / SHARD).read_text(encoding="utf-8"))["funnel"]
            )
            for n in shard_numbers(self.data)
        )

    def finish(self, funnel: Funnel) -> None:
        """Write the counts of the whole set, and take away what only the making needed; a finished set stays as it is.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        path = self.folder / FUNNEL
        counts = funnel.to_dict()
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != counts:
            write_json(path, counts)
        self.clean()

    def clean(self) -> None:
        """Take away what only the making needed; call it when every shard is complete."""
        for partial in self.data.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for name in (".locks", ".painted"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def shard_name(number: int) -> str:
    return f"{number:05d}"


def shard_numbers(data: Path) -> list[int]:
    """The complete shards in a folder ``data``."""
    if not data.is_dir():
        return []
    return sorted(
        int(path.name) for path in data.iterdir() if path.name.isdigit() and (path / SHARD).is_file()
    )


def part_digest(rows: Sequence[Any]) -> str:
    """Stands for a part of the input: the ids, and the captions of what has one."""
    text = json.dumps([[row.id, getattr(row, "caption", None)] for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shard_folders(folder: Path | str) -> list[Path]:
    """The complete shards of the set in ``folder``, in order.

    Raises:
        ValueError: ``folder`` holds no set.
    """
    data = Path(folder) / "data"
    if not data.is_dir():
        raise ValueError(f"{folder} holds no hard-negative set: there is no folder {data}")
    return [data / shard_name(number) for number in shard_numbers(data)]


def read_settings(folder: Path | str) -> Settings:
    """The settings of the set in ``folder``.

    Raises:
        ValueError: ``folder`` holds no set, or one of another version.
    """
    path = Path(folder) / SET
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder} holds no hard-negative set: {path} cannot be read") from error
    return Settings.from_dict(stored["settings"])


def read_set(folder: Path | str) -> Iterator[tuple[Item, Path]]:
    """Every item of the set in ``folder``, with the folder that its file names are relative to.

    Half-written shards are not read.

    Raises:
        ValueError: ``folder`` holds no set, or a row is not that of an item.
    """
    for shard in shard_folders(folder):
        yield from _items(shard)


def _items(shard: Path) -> Iterator[tuple[Item, Path]]:
    with (shard / METADATA).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Item.from_row(json.loads(line)), shard
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{shard / METADATA}, line {number}, is not a row of a set: {error}"
                ) from error


def _as_now(folder: Path, settings: Settings) -> bool:
    """Whether the set in ``folder`` is made with these settings; not one that another version began."""
    try:
        return not settings.difference(read_settings(folder))
    except (ValueError, KeyError, TypeError):
        return False


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Indented JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _write(aside, text)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with path.open("wb") as stream:
        stream.write(text.encode())
        _sync(stream)


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
