"""What goes to the terminal: results to stdout, one path a line; progress and remarks to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def remark(text: str) -> None:
    """One line for the reader, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner while something of unknown length goes on."""
    with Console(stderr=True).status(text):
        yield


@contextmanager
def steps_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over `total` denoising steps; call what it gives after each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
