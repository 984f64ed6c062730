"""`negguide demo`: the same things with a mouse, in a browser."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from negguide.cli import options
from negguide.cli.output import remark, show, waiting
from negguide.demo.limits import Limits

_SERVER, _LIMITS = "Who may come in", "Limits"


def demo(
    model: options.ModelOption = options.MODEL,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What checks hard negatives: toyworld (of the embedded model), clip:MODEL or itm:MODEL.",
            rich_help_panel="Model and sampling",
        ),
    ] = None,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
    host: Annotated[
        str,
        typer.Option(
            help="127.0.0.1: this machine alone; 0.0.0.0: everybody who can reach it.",
            rich_help_panel=_SERVER,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="The first free one from 7860 unless given.", rich_help_panel=_SERVER)
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also a public address at gradio.live.", rich_help_panel=_SERVER)
    ] = False,
    mcp: Annotated[
        bool,
        typer.Option("--mcp", help="Also serve the actions as tools of MCP.", rich_help_panel=_SERVER),
    ] = False,
    auth_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="Ask for a user and a password: those in this environment variable, user:password, several with "
            "commas between.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    max_size: Annotated[
        int, typer.Option(help="Pixels along an edge.", rich_help_panel=_LIMITS)
    ] = Limits.max_size,
    max_steps: Annotated[
        int, typer.Option(help="Denoising steps.", rich_help_panel=_LIMITS)
    ] = Limits.max_steps,
    max_images: Annotated[
        int, typer.Option(help="Images in one go.", rich_help_panel=_LIMITS)
    ] = Limits.max_images,
    max_evaluations: Annotated[
        int,
        typer.Option(
            help="Images x steps x predictions in one go; 2000 are about a minute of the embedded model on 2 cores.",
            rich_help_panel=_LIMITS,
        ),
    ] = Limits.max_evaluations,
    max_queue: Annotated[
        int, typer.Option(help="Requests that wait.", rich_help_panel=_LIMITS)
    ] = Limits.max_queue,
    max_waiting: Annotated[
        int, typer.Option(help="Those that wait from one address.", rich_help_panel=_LIMITS)
    ] = Limits.max_waiting,
    max_upload: Annotated[
        int, typer.Option(help="Megabytes of a picture.", rich_help_panel=_LIMITS)
    ] = Limits.max_upload_mb,
) -> None:
    """Show in a browser what negatives do. Ends with Ctrl-C."""
    # what is wrong is said before anything is loaded
    limits = Limits(
        max_size=max_size,
        max_steps=max_steps,
        max_images=max_images,
        max_evaluations=max_evaluations,
        max_queue=max_queue,
        max_waiting=max_waiting,
        max_upload_mb=max_upload,
    )
    auth = None if auth_env is None else parse_auth(auth_env)
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, got {port}")
    if mcp and auth:
        raise ValueError("--mcp and --auth-env exclude each other: tools cannot log in")
    _check_packages(mcp)

    from negguide.cli.errors import quiet_libraries
    from negguide.cli.job import DTYPES, choose_device, choose_dtype
    from negguide.models import check_model

    model = check_model(model)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device, model)
    quiet_libraries()
    from negguide.demo import Backend, serve

    with waiting(f"loading {model}"):
        backend = Backend(model, device=device, dtype=DTYPES[dtype], judge=judge)
    with waiting("drawing the first example"):
        server = serve(
            backend,
            limits,
            host=host,
            port=port,
            share=share,
            mcp=mcp,
            auth=auth,
            quiet=True,
        )
    show(server.url, *([server.share_url] if server.share_url else []))
    if mcp:
        remark(f"tools of MCP: {server.url.rstrip('/')}/gradio_api/mcp/")
    remark("Ctrl-C ends it")
    server.wait()


def parse_auth(variable: str) -> list[tuple[str, str]]:
    """The users and passwords in an environment variable.

    Raises:
        ValueError: when it is not set, or not user:password; the message does not repeat what it holds.
    """
    pairs = []
    for part in os.environ.get(variable, "").split(","):
        user, colon, password = part.strip().partition(":")
        if not (user and colon and password):
            raise ValueError(
                f"--auth-env {variable}: that environment variable must hold user:password, several with commas between"
            )
        pairs.append((user, password))
    return pairs


def _check_packages(mcp: bool) -> None:
    from importlib.util import find_spec

    for module, extra, wanted in (("gradio", "demo", True), ("mcp", "demo-mcp", mcp)):
        if wanted and find_spec(module) is None:
            raise ValueError(
                f"negguide demo needs the package {module}, which is not installed; it comes with the extra {extra}"
            )
