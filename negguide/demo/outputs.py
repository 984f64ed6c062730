"""The folder that is served, and the rule that nothing in it grows old."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path


class Outputs:
    """A folder of its own for uploads and results, emptied of everything older than `keep_seconds`.

    Args:
        keep_seconds: age at which a file is deleted.
        folder: where; None = a new folder in the system's place for temporary files, readable by this user alone.

    Attributes:
        writers: what ends those who write into it by themselves; called when it is closed.
    """

    def __init__(self, keep_seconds: int = 3600, folder: Path | None = None) -> None:
        self.keep_seconds = keep_seconds
        self.folder = Path(tempfile.mkdtemp(prefix="negguide-demo-")) if folder is None else folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept: frozenset[Path] = frozenset()
        self._lasting: set[Path] = set()
        self.writers: list[Callable[[], object]] = []
        self._stop = threading.Event()

    def new(self, *, lasting: bool = False) -> Path:
        """A new folder for the files of one call; its name cannot be guessed.

        Args:
            lasting: whether it stays as long as the page, since it is shown to everybody who comes.
        """
        path = Path(tempfile.mkdtemp(prefix="call-", dir=self.folder))
        if lasting:
            self._lasting.add(path)
        return path

    def delete_old(self, now: float | None = None) -> int:
        """Delete what was last written more than `keep_seconds` before `now` (a time.time()); how many files it was."""
        oldest = (time.time() if now is None else now) - self.keep_seconds
        count = 0
        # the deepest first, so that a folder is looked at after what was in it
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path in self._kept or not self._lasting.isdisjoint((path, *path.parents)):
                continue
            try:
                if path.stat().st_mtime > oldest:
                    continue
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
                    count += 1
            except OSError:  # gone already, or a folder that is not empty
                continue
        return count

    def size(self) -> int:
        """Bytes of all files in it."""
        total = 0
        for path in self.folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except OSError:  # deleted meanwhile
                continue
        return total

    def start(self) -> None:
        """Delete what is old from now on, several times while a file may live. What is there already stays."""
        self._kept = frozenset(self.folder.rglob("*"))

        def every_so_often() -> None:
            while not self._stop.wait(self.keep_seconds / 6):
                self.delete_old()

        threading.Thread(target=every_so_often, name="negguide-demo-outputs", daemon=True).start()

    def close(self) -> None:
        """Stop, and delete the folder with all that is in it."""
        self._stop.set()
        for end in self.writers:
            end()
        # a file that is being written now appears in a folder that was emptied already
        for _ in range(50):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)
