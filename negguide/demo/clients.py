"""Who waits for what: a client has few places in the queue, and what nobody waits for is not drawn."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from gradio.server_messages import ProcessCompletedMessage
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

GRACE = 10.0
"""Seconds for which an event may have no listener: a client asks first, and opens the stream of its results then."""
_ON_ITS_WAY = 1.0
"""Seconds from the moment when a page says that it begins until its event is surely in the queue."""
_REMEMBERED = 2000
"""Listeners that have gone and are not forgotten yet."""


class Clients:
    """What is known of the clients of one page.

    Args:
        most: events of one address that may wait in the queue at a time.

    Attributes:
        page: the `gradio.Blocks`; set when it is built, and until then nobody is waiting for anything.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.page: Any = None
        self._watched = False
        self._listening: Counter[str] = Counter()
        self._left: OrderedDict[str, float] = OrderedDict()
        self._asking: Counter[str] = Counter()
        self._started: OrderedDict[str, float] = OrderedDict()

    def start_over(self, session: str | None) -> None:
        """A page begins something new: what its visitor asked for before is not wanted any more."""
        if session is not None:
            _remember(self._started, session)

    def let_go_first(self, stop: threading.Event) -> None:
        """Wait while anything that somebody asked for is drawn or waits; no longer than until `stop` is set."""
        while self.page is not None and (len(self.page._queue) or any(self.page._queue.active_jobs)):
            if stop.wait(0.05):
                return

    def leave_queue(self, session: str | None) -> None:
        """Take what a page's visitor still waits for out of the queue. To be called in the server's own thread."""
        if session is None:
            return
        for one in self.page._queue.event_queue_per_concurrency_id.values():
            for event in [event for event in one.queue if event.session_hash == session]:
                self.give_up(event._id)

    def has_started_since(self, session: str | None, moment: float) -> bool:
        """Whether a visitor has begun something since a `time.monotonic()`."""
        return session is not None and self._started.get(session, 0.0) >= moment

    async def is_busy(self, session: str | None, functions: Collection[int]) -> bool:
        """Whether something that a visitor wants still is drawn, or about to be asked for.

        Args:
            session: of the visitor.
            functions: ids of the events that are asked about.
        """
        if session is None:
            return False
        started = self._started.get(session, 0.0)
        while not self._has_pending(session, functions, started):
            # between the moment when a page says that it begins and that when its event is in the queue
            if time.monotonic() - started > _ON_ITS_WAY or self._has_arrived(session, started):
                return False
            await asyncio.sleep(0.05)
        return True

    def _has_pending(self, session: str, functions: Collection[int], since: float) -> bool:
        queue = self.page._queue
        events = [event for one in queue.event_queue_per_concurrency_id.values() for event in list(one.queue)]
        events += [event for job in list(queue.active_jobs) for event in job or ()]
        # an event whose end was told is busy with its bookkeeping for a while
        untold = queue.pending_event_ids_session.get(session, ())
        return any(
            event.session_hash == session
            and event.fn._id in functions
            and event.enqueue_time >= since
            and event._id in untold
            for event in events
        )

    def _has_arrived(self, session: str, since: float) -> bool:
        began = time.time() - (time.monotonic() - since)
        records = list(self.page._queue.event_analytics.values())
        return any(record["session_hash"] == session and record["time"] >= began for record in records)

    def waits_for(self, event_id: str | None) -> bool:
        """Whether somebody still wants the results of a running event; None is of no client."""
        if event_id is None:
            return True
        event = self._running(event_id)
        # Gradio marks what has lost its stream, and takes out what was cancelled
        if event is None or not event.alive:
            return False
        if event.enqueue_time < self._started.get(event.session_hash, 0.0):
            return False
        if not self._watched:
            return True
        names = (event.session_hash, event_id)
        if any(self._listening[name] for name in names):
            return True
        since = max(event.enqueue_time, *(self._left.get(name, 0.0) for name in names))
        return bool(time.monotonic() - since < GRACE)

    def give_up(self, event_id: str | None) -> None:
        """Whoever called a tool has gone: its event is not wanted any more. To be called in the server's own thread."""
        queue = self.page._queue
        event = queue.event_ids_to_events.get(event_id)
        if event is None:
            return
        event.alive = False
        for one in queue.event_queue_per_concurrency_id.values():
            if event in one.queue:
                one.queue.remove(event)
                queue.event_ids_to_events.pop(event_id, None)
        # all tools share one client of this page, which goes on waiting until it is told
        messages = queue.pending_messages_per_session.get(event.session_hash)
        if messages is not None:
            messages.put_nowait(ProcessCompletedMessage(output={}, success=True, event_id=event_id))

    def _running(self, event_id: str) -> Any:
        # a list of fixed length, whose places are filled and emptied by the server's thread
        for job in list(self.page._queue.active_jobs):
            for event in job or ():
                if event._id == event_id:
                    return event
        return None

    def waiting(self, address: str) -> int:
        """How many events of this address wait in the queue, or are about to."""
        queues = self.page._queue.event_queue_per_concurrency_id.values()
        events = [event for queue in queues for event in list(queue.queue)]
        own: int = sum(
            event.request.client is not None and event.request.client.host == address for event in events
        )
        return own + self._asking[address]

    @contextmanager
    def asking(self, address: str) -> Iterator[bool]:
        """Gives whether one more event of this address may wait; it counts while it is on its way into the queue."""
        allowed = self.waiting(address) < self.most
        self._asking[address] += 1
        try:
            yield allowed
        finally:
            self._asking[address] -= 1
            if not self._asking[address]:
                del self._asking[address]

    @contextmanager
    def listening(self, name: str) -> Iterator[None]:
        """Somebody listens to the results of a session, or of an event, while the block runs."""
        self._listening[name] += 1
        try:
            yield
        finally:
            self._listening[name] -= 1
            if not self._listening[name]:
                del self._listening[name]
                _remember(self._left, name)

    def watch(self) -> None:
        """From now on all requests go through `Watch`."""
        self._watched = True


def _remember(times: OrderedDict[str, float], name: str) -> None:
    """Now is the time of this name; the oldest are forgotten."""
    times[name] = time.monotonic()
    times.move_to_end(name)
    while len(times) > _REMEMBERED:
        times.popitem(last=False)


class Watch:
    """ASGI middleware that tells `clients` who asks and who listens, and sends away who waits for too much already."""

    def __init__(self, app: ASGIApp, clients: Clients) -> None:
        self.app = app
        self.clients = clients
        clients.watch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless its address waits for too much already."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, method = scope["path"].rstrip("/"), scope["method"]
        if method == "POST" and (path.endswith("/queue/join") or "/call/" in path):
            address = scope["client"][0] if scope.get("client") else ""
            with self.clients.asking(address) as allowed:
                if allowed:
                    await self.app(scope, receive, send)
                    return
            most = self.clients.most
            message = f"You are waiting for {most} results already; please wait for one of them first."
            await JSONResponse({"detail": message}, 429)(scope, receive, send)
            return
        name = _listened_to(path, scope) if method == "GET" else None
        if name is None:
            await self.app(scope, receive, send)
            return
        with self.clients.listening(name):
            await self.app(scope, receive, send)


def _listened_to(path: str, scope: Scope) -> str | None:
    """The session or the event whose results a request asks for; None for other requests."""
    if path.endswith("/queue/data"):
        found: str = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        return found
    return path.rsplit("/", 1)[1] if "/call/" in path else None
