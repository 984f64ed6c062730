"""`negguide models`: what can be loaded."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from negguide.models import TOYWORLD, Defaults, defaults


def models() -> None:
    """Show the embedded model and the supported families of diffusers pipelines."""
    from negguide.integration.families import PIPELINES

    table = Table(title="What --model takes", title_justify="left", title_style="bold")
    for heading in ("--model", "what it is", "guidance scale", "NegToMe"):
        table.add_column(heading, overflow="fold")
    table.add_row(TOYWORLD, "embedded, 64x64, a closed vocabulary", *_suited(defaults(TOYWORLD)))
    for pipeline, family in PIPELINES.items():
        table.add_row("folder or hub id", f"{family.name}, as {pipeline}", *_suited(Defaults()))
    Console().print(table)


def _suited(suited: Defaults) -> tuple[str, str]:
    from negguide.methods import NegToMe

    method = NegToMe(**suited.negtome)
    return (
        f"{suited.guidance_scale:g}",
        f"alpha {method.alpha:g}, threshold {method.threshold:g}, window {method.start:g}-{method.stop:g}",
    )
