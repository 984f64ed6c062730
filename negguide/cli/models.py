"""`negguide models`: what can be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negguide.cli.output import console, show, waiting
from negguide.domain import DomainModel, domain_models
from negguide.models import (
    check_model,
    defaults,
    needed_pictures,
    not_from_words,
    own_guidance_scale,
    pipeline_class,
    pipeline_name,
)

if TYPE_CHECKING:
    from negguide.integration.families import Family
    from negguide.methods import NegToMe

_NAME, _NEEDS, _SCALE = 49, 20, 7
"""Widths of the columns, within 80 altogether; the longest name of a pipeline has 47 letters."""
_SHORT = {"image": "image", "mask_image": "mask", "control_image": "control"}


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A pipeline class (FluxPipeline), a folder or a hub id: which methods it takes and with which values.",
        ),
    ] = None,
) -> None:
    """Show the embedded model and the supported diffusers pipelines, by family, with what each has unless told.

    --model takes a folder or a hub id of any of them; --pipeline loads it as another pipeline of its family. "needs"
    are the pictures without which a pipeline draws nothing (--image, --mask-image, --control-image). FLUX.1 and
    Qwen-Image have a guidance of their own; theirs is that of true CFG, which is off (1) without negatives.
    """
    if name is not None:
        _show_one(name)
        return
    with waiting("asking diffusers"):
        from negguide.integration.families import registered_families
        from negguide.methods import NegToMe

        # the classes are imported, for their defaults
        families = [
            (
                family.name,
                _about(str(family.dtype).removeprefix("torch."), family.with_defaults(NegToMe())),
                rows,
            )
            for family in registered_families()
            if (rows := _rows(family))
        ]
        embedded = [
            (
                f"{one.name} (embedded, {one.size}x{one.size}, a closed vocabulary)",
                _about("float32", _negtome(one)),
                [(one.pipeline, "", _guidance_in_words(one))],
            )
            for one in domain_models().values()
        ]
    screen = console()
    screen.print(Text("Models that take negatives", style="bold"))
    screen.print(_table([Text("pipeline"), Text("needs"), Text("guidance")], style="dim"))
    for name, about, rows in [*embedded, *families]:
        _show(screen, name, about, rows)


def _show_one(name: str) -> None:
    """Show what `negguide.defaults` says of a pipeline class, or of that which a model names."""
    with waiting("asking diffusers"):
        from negguide.integration.defaults import defaults as defaults_of
        from negguide.integration.pipelines import not_supported

        # a class has neither a slash nor a folder of its name
        model = name in domain_models() or "/" in name or Path(name).is_dir()
        own = pipeline_name(check_model(name)) if model else name
        if own is None:
            raise ValueError(
                f"model={name!r} cannot be found, or has no model_index.json that says its pipeline"
            )
        kind = pipeline_class(own)
        if kind is None:
            raise ValueError(not_supported(own))
        page = str(defaults_of(kind))
    show(page)
    if name in domain_models():
        suited = defaults(name)
        from negguide.methods import registered_methods

        begins = [f"Perp-Neg at {_said(suited.negative)}"]
        for method in registered_methods():
            own_values = suited.arguments(method.key)
            begins += [f"{method.label} at {_said(own_values)}"] if own_values else []
            with_images = suited.arguments(method.key, images=True)
            if with_images != own_values:
                begins.append(f"{method.label} with reference images at {_said(with_images)}")
        show("\n".join(("", f"{name} begins with", *(f"  {one}" for one in begins))))


def _negtome(model: DomainModel) -> NegToMe:
    """NegToMe as an embedded model begins with it."""
    from negguide.integration.families import supported_pipelines
    from negguide.methods import NegToMe

    own = NegToMe(**model.defaults.negtome, default_values=model.defaults.negtome)
    return supported_pipelines()[model.pipeline].with_defaults(own)


def _guidance_in_words(model: DomainModel) -> str:
    scale = f"{model.defaults.guidance_scale:g}"
    return scale if model.always_guided else f"{scale}, or 1"


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _show(screen: Console, name: str, about: str, rows: list[tuple[str, str, str]]) -> None:
    screen.print()
    screen.print(Text(name, style="bold"))
    screen.print(Text(f"  {about}", style="dim"))
    screen.print(
        _table(*([Text(f"  {pipeline}"), Text(needs), Text(scale)] for pipeline, needs, scale in rows))
    )


def _table(*rows: list[Text], style: str = "") -> Table:
    table = Table.grid(padding=(0, 1))
    for width in (_NAME, _NEEDS, _SCALE):
        table.add_column(min_width=width, overflow="fold")
    for row in rows:
        table.add_row(*row, style=style)
    return table


def _about(what: str, negtome: NegToMe) -> str:
    (window,) = negtome.windows
    return f"{what}; NegToMe alpha {negtome.alpha:g}, threshold {negtome.threshold:g}, {window.in_words()}"


def _rows(family: Family) -> list[tuple[str, str, str]]:
    """(name, what it needs, guidance scale) of each pipeline of a family."""
    rows = []
    for named in family.pipelines:
        name = named if isinstance(named, str) else named.__name__
        kind = pipeline_class(name)
        if kind is None or kind.__module__.startswith("diffusers.utils.dummy"):
            rows.append((name, "not installed", ""))
        else:
            videos = not_from_words(kind) == "makes videos"
            needed = "from Python" if videos else ", ".join(_SHORT[one] for one in needed_pictures(kind))
            rows.append((name, needed, _guidance_scale(kind)))
    return rows


def _guidance_scale(pipeline: Any) -> str:
    plain, guided = (own_guidance_scale(pipeline, guided=guided) for guided in (False, True))
    return f"{plain:g}" if plain == guided else f"{guided:g}, or {plain:g}"
