"""What a request brings is bounded as a whole: Gradio bounds each file, and takes a thousand of them at once."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from negguide.demo.limits import Limits
from negguide.demo.outputs import Outputs

MAX_STORED = 2 << 30
"""Bytes of what was uploaded and drawn and is not deleted yet, above which nothing more is uploaded."""
_BESIDE = 1 << 20
"""Bytes of a request beside its file."""


class Incoming:
    """ASGI middleware that refuses bodies that are too large before they are read, and uploads while there is no room.

    Args:
        limits: how much an upload may weigh.
        outputs: where uploads go.
    """

    def __init__(self, app: ASGIApp, limits: Limits, outputs: Outputs) -> None:
        self.app = app
        self.most = (limits.max_upload_mb << 20) + _BESIDE
        self.outputs = outputs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it brings too much."""
        refused = self._refusal(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (self.app if refused is None else refused)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:
            return JSONResponse({"detail": "A request must say how long its body is (Content-Length)."}, 411)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most:
            return JSONResponse({"detail": f"A request may bring {self.most:,} bytes."}, 413)
        if scope["path"].rstrip("/").endswith("/upload") and self.outputs.size() > MAX_STORED:
            message = "There is no room for further pictures now; older ones are deleted after an hour."
            return JSONResponse({"detail": message}, 507)
        return None
