"""Who makes which shard: a claim that is renewed while its process lives.

A claim spares work and decides nothing: two processes that make the same shard write the same. So it needs no lock of
the storage, and what is lost by a race, or by clocks that differ by more than `LEASE`, is time.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from negguide._utils.files import lives
from negguide.storage import names_in, remove, write_new, write_whole

LEASE = 120.0
"""Seconds after which a claim that was not renewed counts as that of a dead process. On the machine of the process
itself its death is seen at once."""


class Claims:
    """The claims on the shards of a set.

    Args:
        folder: where they are written; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def claim(self, name: str, last: bool = False) -> Iterator[bool]:
        """Whether this process has the shard ``name`` to itself, until the block ends or the process dies.

        Args:
            last: it is the last one of its file of the input; others are told so.
        """
        place = self.folder / name
        mine = uuid.uuid4().hex
        if self.held(name) is not None:
            yield False
            return
        remove(place)
        if not write_new(place, _said(mine, last)):
            yield False
            return
        ended = threading.Event()
        renewing = threading.Thread(target=_renew, args=(place, mine, last, ended), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            ended.set()
            renewing.join()
            remove(place)

    def held(self, name: str) -> bool | None:
        """None when no living process has the shard; else whether it is the last one of its file of the input."""
        try:
            said = json.loads((self.folder / name).read_bytes())
            host, process, at = said["host"], int(said["process"]), float(said["at"])
            last = bool(said["last"])
        except OSError:
            return None
        except (ValueError, KeyError, TypeError):
            # another is just writing it
            return False
        if (host == socket.gethostname() and not lives(process)) or time.time() - at >= LEASE:
            return None
        return last

    def any_held(self) -> bool:
        """Whether a living process is at work on some shard."""
        return any(self.held(name) is not None for name in names_in(self.folder))


def _said(mine: str, last: bool) -> bytes:
    said = {"by": mine, "host": socket.gethostname(), "process": os.getpid(), "at": time.time(), "last": last}
    return json.dumps(said).encode()


def _renew(place: Path, mine: str, last: bool, ended: threading.Event) -> None:
    while not ended.wait(LEASE / 4):
        try:
            write_whole(place, _said(mine, last))
        except OSError:
            # at worst another makes the shard too
            continue
