"""`negguide models`: what can be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from negguide.cli.output import waiting
from negguide.models import TOYWORLD, defaults, not_from_words, own_guidance_scale

if TYPE_CHECKING:
    from negguide.methods import NegToMe


def models() -> None:
    """Show the embedded model and the supported families of diffusers pipelines, with what each has unless told.

    generate, compare and demo draw from words alone; pipelines that start from a picture or make videos take negatives
    from Python. FLUX.1 and Qwen-Image have a guidance of their own; the scale shown is that of their true CFG.
    """
    import diffusers

    from negguide.integration.families import registered_families
    from negguide.methods import NegToMe

    table = Table(title="Models that take negatives", title_justify="left", title_style="bold")
    for heading in ("--model", "what it is", "guidance scale", "NegToMe"):
        table.add_column(heading, overflow="fold")
    own = defaults(TOYWORLD)
    method = _negtome(NegToMe(**own.negtome))
    table.add_row(TOYWORLD, "embedded, 64x64, a closed vocabulary", f"{own.guidance_scale:g}", method)
    # the classes are imported, for their defaults
    with waiting("asking diffusers"):
        for family in registered_families():
            method = _negtome(family.with_defaults(NegToMe()))
            for kind in family.pipelines:
                pipeline = getattr(diffusers, kind) if isinstance(kind, str) else kind
                place = "folder or hub id" if not_from_words(pipeline) is None else "from Python"
                table.add_row(
                    place, f"{family.name}, as {pipeline.__name__}", _guidance_scale(pipeline), method
                )
    Console().print(table)


def _guidance_scale(pipeline: Any) -> str:
    plain, guided = (own_guidance_scale(pipeline, guided=guided) for guided in (False, True))
    return f"{plain:g}" if plain == guided else f"{guided:g} with negatives, else off"


def _negtome(method: NegToMe) -> str:
    start, stop = method.window
    return f"alpha {method.alpha:g}, threshold {method.threshold:g}, window {start:g}-{stop:g}"
