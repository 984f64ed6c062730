"""What the tabs open with: results of their first examples, drawn once for everybody."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

_log = logging.getLogger(__name__)


class WarmUps:
    """The results of the first examples, drawn in the background one after the other.

    Args:
        draw: {tab: what draws its results}, in the order in which they are drawn.
        stop: ends what is being drawn, soon.
    """

    def __init__(self, draw: Mapping[str, Callable[[], Sequence[Any]]], stop: Callable[[], object]) -> None:
        self._draw = draw
        self._stop = stop
        self._closed = threading.Event()
        self._results: dict[str, Future[Sequence[Any] | None]] = {tab: Future() for tab in draw}
        self._thread = threading.Thread(target=self._all, name="negguide-demo-warm-up", daemon=True)

    def start(self) -> None:
        """Draw all of them from now on."""
        self._thread.start()

    def close(self) -> None:
        """End the drawing, and wait for that: a process must not end while a thread computes."""
        self._closed.set()
        while self._thread.is_alive():
            self._stop()
            self._thread.join(0.1)

    def _all(self) -> None:
        for tab, draw in self._draw.items():
            try:
                result = None if self._closed.is_set() else draw()
            # whatever it is: a page without an example is better than none, and the log says why
            except Exception as error:
                result = None
                if not self._closed.is_set():
                    _log.warning("the first example of “%s” could not be drawn: %r", tab, error)
            self._results[tab].set_result(result)

    async def of(self, tab: str) -> Sequence[Any] | None:
        """The results of a tab, as soon as they are drawn; None when they could not be."""
        return await asyncio.wrap_future(self._results[tab])
