"""The Gradio demo: what a negative does, side by side with what happens without it.

`serve` starts it; `build` makes the interface around a loaded backend, for tests and for Hugging Face Spaces. Both are
imported when they are first used, since they need Gradio, the extra `demo`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from negguide.demo.limits import Limits

if TYPE_CHECKING:
    from negguide.demo.app import build
    from negguide.demo.backend import Backend
    from negguide.demo.server import serve

__all__ = ["Backend", "Limits", "build", "serve"]

_MODULES = {
    "Backend": "negguide.demo.backend",
    "build": "negguide.demo.app",
    "serve": "negguide.demo.server",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
