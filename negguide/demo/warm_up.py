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
    """

    def __init__(self, draw: Mapping[str, Callable[[], Sequence[Any]]]) -> None:
        self._draw = draw
        self._results: dict[str, Future[Sequence[Any] | None]] = {tab: Future() for tab in draw}

    def start(self) -> None:
        """Draw all of them from now on."""
        threading.Thread(target=self._all, name="negguide-demo-warm-up", daemon=True).start()

    def _all(self) -> None:
        for tab, draw in self._draw.items():
            try:
                self._results[tab].set_result(draw())
            # whatever it is: a page without an example is better than none, and the log says why
            except Exception as error:
                _log.warning("the first example of “%s” could not be drawn: %r", tab, error)
                self._results[tab].set_result(None)

    async def of(self, tab: str) -> Sequence[Any] | None:
        """The results of a tab, as soon as they are drawn; None when they could not be."""
        return await asyncio.wrap_future(self._results[tab])
