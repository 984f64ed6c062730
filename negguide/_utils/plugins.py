"""What installed packages bring: the entry point group "negguide"."""

from __future__ import annotations

import threading
from importlib.metadata import entry_points

GROUP = "negguide"
_lock = threading.RLock()
_loaded = False


def load_plugins() -> None:
    """Call every entry point of the group once; each is a function without arguments that registers what it brings.

    Raises:
        ImportError: one cannot be imported or fails, naming the package; nothing is left out in silence.
    """
    global _loaded
    with _lock:
        if _loaded:
            return
        # first: what an entry point calls may look into the registries itself
        _loaded = True
        for point in entry_points(group=GROUP):
            package = point.dist.name if point.dist is not None else point.value
            try:
                point.load()()
            except Exception as error:
                _loaded = False
                raise ImportError(
                    f"{package}, which brings methods or model families to negguide by its entry point {point.name!r} "
                    f"({point.value}), fails: {error}; mend or uninstall it"
                ) from error
