"""Files and folders of this machine that are there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name of a file to write, which becomes `path` when the block ends without an error.

    Whoever looks at `path` finds all of it, or what was there before. Folders that are missing are made; the content
    is on the disk when the block is left. The name does not end as that of `path`: a writer that goes by it must be
    told the format.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # threads of one process write the same file too
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield aside
        flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` when the block ends without an error.

    What an earlier process that was killed has left is taken away first.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # a name of its own: should a second one begin here, this one fails instead of mixing its files with those
    folder = partial / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        yield folder
        if path.exists():
            path.rename(partial / "old")
        folder.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def abandoned(partial: Path) -> bool:
    """Whether what `whole_file` was writing is left of a process that is gone."""
    process = partial.name.removesuffix(".partial").rpartition(".")[2].partition("-")[0]
    return not (process.isdigit() and lives(int(process)))


def lives(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
