"""Start the demo as a web server, with what may be reached from outside kept small."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negguide.demo.limits import Limits
from negguide.demo.outputs import Outputs

if TYPE_CHECKING:
    from negguide.demo.backend import Backend
    from negguide.demo.clients import Clients


@dataclass(frozen=True, eq=False)
class Server:
    """A demo that is being served.

    Attributes:
        url: where, on this machine.
        share_url: the public address, with `share`.
        page: the `gradio.Blocks`.
        outputs: the only folder that is served.
        clients: who waits for what.
    """

    url: str
    share_url: str | None
    page: Any
    outputs: Outputs
    clients: Clients

    def wait(self) -> None:
        """Serve until it is interrupted or told to end, as containers are; either way nothing stays behind."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.page.block_thread()
        finally:
            self.close()

    def close(self) -> None:
        """End, and delete what was written."""
        self.page.close(verbose=False)
        self.outputs.close()


def serve(
    backend: Backend,
    limits: Limits | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    mcp: bool = False,
    auth: Sequence[tuple[str, str]] | None = None,
    warm_up: bool = True,
    quiet: bool = False,
) -> Server:
    """Serve the interface in the background; one at a time in a process, since Gradio has one folder for all.

    Args:
        backend: what draws.
        limits: how much one visitor may ask for.
        host: "127.0.0.1" is this machine alone, "0.0.0.0" everybody who can reach it.
        port: None = the first free one from 7860.
        share: also a public address at gradio.live, for a week.
        mcp: also serve the actions as tools of the Model Context Protocol.
        auth: (user, password) of those who may enter; None = everybody.
        warm_up: show an example when the page opens; drawn at the start, on the embedded model alone.
        quiet: print nothing.

    Raises:
        ValueError: for `mcp` with `auth`: tools cannot log in.
        ImportError: for `mcp` without the extra demo-mcp.
        OSError: when `port` is taken.
    """
    limits = limits or Limits()
    if mcp:
        _check_mcp(auth)
    outputs = Outputs(limits.keep_seconds)
    # read by Gradio when it is imported and when components are made
    os.environ["GRADIO_TEMP_DIR"] = str(outputs.folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from starlette.middleware import Middleware

    from negguide.demo.app import CSS, SCRIPT, THEME, build
    from negguide.demo.clients import Clients, Watch
    from negguide.demo.incoming import Incoming

    clients = Clients(limits.max_waiting)
    page = build(backend, limits, outputs, clients=clients, warm_up=warm_up and backend.domain is not None)
    # pictures that belong to the page itself were written while it was built
    outputs.start()
    _, url, share_url = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        mcp_server=mcp,
        auth=list(auth) if auth else None,
        max_file_size=f"{limits.max_upload_mb}mb",
        enable_monitoring=False,
        run_history=False,
        show_error=False,
        footer_links=["api"],
        theme=THEME,
        css_paths=CSS,
        head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        app_kwargs={
            "middleware": [
                Middleware(Incoming, limits=limits, outputs=outputs),
                Middleware(Watch, clients=clients),
            ]
        },
        prevent_thread_lock=True,
        quiet=quiet,
        # the page was reached already; Gradio would ask for it again, and give up after 3 seconds on a busy machine
        _frontend=False,
    )
    if mcp:
        from negguide.demo.tools import complete

        complete(page, clients)
    return Server(url, share_url, page, outputs, clients)


def _check_mcp(auth: Sequence[tuple[str, str]] | None) -> None:
    if auth:
        raise ValueError("mcp and auth exclude each other: tools cannot log in")
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise ImportError("mcp needs the package mcp, which comes with the extra demo-mcp") from error
