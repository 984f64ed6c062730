"""What goes to the terminal: results to stdout, one path a line; progress and remarks to stderr. And where files go.

Commands write all their files before they print: whoever reads the output may stop early (`| head -1`).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from negguide.storage import location, on_this_machine


class _Steady(Console):
    """A console whose reader may leave; Rich's own ends the program then."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard(self.file)


def console(**options: Any) -> Console:
    """Where tables go: stdout, or with stderr=True stderr."""
    return _Steady(**options)


def show(*lines: object) -> None:
    """Results, to stdout: paths, one a line."""
    try:
        typer.echo("\n".join(str(line) for line in lines))
    except BrokenPipeError:
        _discard(sys.stdout)


def remark(text: str) -> None:
    """One line for the reader, on stderr."""
    console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner while something of unknown length goes on."""
    with console(stderr=True).status(text):
        yield


@contextmanager
def steps_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over `total` denoising steps; call what it gives after each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


def check_folder(out: Path | str, option: str = "--out") -> None:
    """Refuse a folder that cannot be written, before anything is loaded. It need not be there, and is not made.

    Of an address (s3://...) only the protocol is checked.

    Raises:
        ValueError: when it is a file, lies below one, or takes no files; and for an address where a command writes on
            this machine alone, and has a `Path`.
    """
    out = location(out, option)
    if not on_this_machine(out):
        return
    _refuse_address(out, option)
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{option} {out}: {path} is a file; give a folder")
    _check_writable(next(path for path in (out, *out.parents) if path.exists()), f"{option} {out}")


def check_file(path: Path, option: str = "--out") -> None:
    """Refuse a file that cannot be written, before anything is loaded.

    Raises:
        ValueError: when it is a folder, its folder takes no files, or it is an address.
    """
    _refuse_address(path, option)
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {str(path)!r}")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"{option} {path}: {parent} is a file, and no folder")
    _check_writable(next(parent for parent in path.parents if parent.exists()), f"{option} {path}")


def _refuse_address(path: Path, option: str) -> None:
    """Refuse what would be a folder "s3:" here; a drive has one letter."""
    if path.parts and re.fullmatch(r"\w{2,}:", path.parts[0]):
        raise ValueError(f"{option} {path}: this command writes on this machine alone; give a folder of it")


def _check_writable(folder: Path, named: str) -> None:
    # whether it may be written is not always written down (read-only disks, access lists, root): try it
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{named}: no file can be written in {folder}: {error.strerror}") from error


def _discard(stream: Any) -> None:
    """Let what is still written to a stream without a reader go nowhere, also what is flushed at the end."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
