"""Stop what a visitor is drawing, at the next denoising step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StoppedError(Exception):
    """Raised inside the denoising loop after the visitor pressed Stop."""


class NotWantedError(StoppedError):
    """Raised there when nobody waits for the run any more, or its visitor has begun another."""


class Stops:
    """Which visitor's run is to stop; a visitor is a session hash of Gradio."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str | None, list[threading.Event]] = {}

    @contextmanager
    def running(self, session: str | None) -> Iterator[threading.Event]:
        """The flag of one run; set by `stop(session)` while the block runs."""
        flag = threading.Event()
        with self._lock:
            self._running.setdefault(session, []).append(flag)
        try:
            yield flag
        finally:
            with self._lock:
                flags = self._running[session]
                flags.remove(flag)
                if not flags:
                    del self._running[session]

    def stop(self, session: str | None) -> bool:
        """Stop the visitor's runs; False when there is none."""
        with self._lock:
            flags = list(self._running.get(session, ()))
        for flag in flags:
            flag.set()
        return bool(flags)
