"""`negguide views`: one seed from all around, the view in words and the other views as negatives, as one strip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negguide.cli import guidance, options
from negguide.cli.compare import CLASSIC, PLAIN
from negguide.cli.output import check_folder, remark, show
from negguide.cli.views_object import ROUNDS, draw_object
from negguide.cli.views_strip import PERP_NEG, ROWS, draw_strip

if TYPE_CHECKING:
    from negguide.views import ViewPrompt

_OBJECT = "A solid"
USUAL_PRESET = "threestudio"
"""Of models that are of no closed world with a preset of its own."""
AZIMUTHS = ",".join(str(degrees) for degrees in range(0, 360, 30))


def views(
    ctx: typer.Context,
    prompt: Annotated[
        str, typer.Argument(help="What is seen, without a view, e.g. 'a bear'; the cameras add it.")
    ],
    azimuths: Annotated[
        str,
        typer.Option(
            metavar="DEGREES,DEGREES", help="Columns: 0 is the front, 90 and 270 the sides, 180 the back."
        ),
    ] = AZIMUTHS,
    elevation: Annotated[
        float, typer.Option(metavar="DEGREES", help="Of all cameras; presets may have an overhead view.")
    ] = 0.0,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="[threestudio|stable-dreamfusion|paper|toyworld]",
            help="Which words and which weighted negatives hold at an azimuth (toyworld for the embedded model, "
            "threestudio for others).",
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            "--method",
            metavar="NAME,NAME",
            help=f"Rows: {PERP_NEG}; {PLAIN}, the view in words alone; {CLASSIC}, the heaviest negative as the classic "
            "negative prompt.",
        ),
    ] = PERP_NEG,
    model: options.ModelOption = options.MODEL,
    pipeline: options.PipelineOption = None,
    steps: options.StepsOption = None,
    guidance_scale: options.GuidanceScaleOption = None,
    height: options.HeightOption = None,
    width: options.WidthOption = None,
    num_images: Annotated[int, typer.Option(help="How many seeds, each with rows of its own.")] = 1,
    seed: options.SeedOption = options.SEED,
    device: options.DeviceOption = options.DEVICE,
    dtype: options.DtypeOption = options.DTYPE,
    offload: options.OffloadOption = options.OFFLOAD,
    out: options.OutOption = options.OUT,
    object_: Annotated[
        Path | None,
        typer.Option(
            "--object",
            metavar="FILE.glb",
            help="Draw a solid instead, with a mesh, a turntable (.gif) and a sheet (.png) beside each other; of the "
            "embedded model.",
            rich_help_panel=_OBJECT,
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Of rendering, denoising and fitting.", rich_help_panel=_OBJECT)
    ] = ROUNDS,
) -> None:
    """Draw PROMPT on one seed from all around: columns are azimuths, rows methods.

    Each camera says its view in the prompt and has the views that it does not see as weighted negatives. Writes one PNG
    with its settings inside; with the embedded model, the view that its judge reads stands under each picture.
    """
    from negguide.cli.job import Job, choose_device, choose_dtype
    from negguide.domain import domain_of
    from negguide.models import check_model, revision, usual_steps
    from negguide.pictures import file_name, save_png, versions
    from negguide.views import find_preset, view_prompts, view_text

    model = check_model(model)
    steps = usual_steps(model) if steps is None else steps
    _check_given(ctx, object_ is not None)
    names = _methods(methods)
    degrees = _degrees(azimuths)
    domain = domain_of(model)
    own = None if domain is None or preset is not None else domain.preset
    chosen = _said("preset", preset or USUAL_PRESET, find_preset) if own is None else own()
    if object_ is not None:
        draw_object(
            prompt,
            object_,
            model=model,
            preset=chosen,
            guidance_scale=guidance_scale,
            seed=seed,
            rounds=rounds,
        )
        return
    check_folder(out)
    if elevation and chosen.overhead_above is None:
        raise ValueError(
            f"--elevation {elevation:g} changes nothing with --preset {chosen.name}, which has no overhead view; leave "
            f"it out, or give --preset {USUAL_PRESET}"
        )
    _said("elevation", elevation, partial(view_prompts, 0.0, preset=chosen))
    cameras = _said("azimuths", degrees, partial(view_prompts, elevation=elevation, preset=chosen))
    _check_pipeline(model, pipeline, cameras)
    device = choose_device(device)
    base = Job(
        prompt=view_text(prompt, "front", model=model),
        model=model,
        steps=steps,
        guidance_scale=guidance.guidance_scale(guidance_scale, model),
        seeds=tuple(range(seed, seed + num_images)),
        device=device,
        dtype=choose_dtype(dtype, device, model, pipeline),
        pipeline=pipeline,
        height=height,
        width=width,
        offload=offload,
    )
    strip = draw_strip(base, prompt, chosen, degrees, elevation, names)
    digest = hashlib.sha256(json.dumps(strip.settings, sort_keys=True).encode()).hexdigest()
    path = out / f"views-{file_name(prompt)}-{digest[:8]}.png"
    save_png(strip.sheet, path, {**strip.settings, "revision": revision(model), "versions": versions()})
    for reading in strip.readings:
        remark(reading)
    show(path)


def _check_given(ctx: typer.Context, solid: bool) -> None:
    """Refuse options that say nothing of what is drawn: a solid has few of a strip's, and a strip no rounds."""
    of_solid = {"prompt", "preset", "model", "guidance_scale", "seed", "object_", "rounds"}
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if getattr(ctx.get_parameter_source(name), "name", "") != "COMMANDLINE":
            continue
        if solid and name not in of_solid:
            raise ValueError(f"--object draws one solid from all around; leave out {parameter.opts[0]}")
        if name == "rounds" and not solid:
            raise ValueError("--rounds are those of a solid; give --object FILE.glb too")


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ROWS:
            raise ValueError(f"--methods {text!r}: {name!r} is no row; use {', '.join(ROWS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"--methods {text!r} names a row more than once; each row differs")
    return names


def _degrees(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--azimuths must be numbers in degrees with commas between, e.g. 0,90,180, got {text!r}"
        ) from None


def _said(option: str, value: Any, read: Any) -> Any:
    """`read(value)`, with the option in front of what it refuses."""
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--{option}: {error}") from error


def _check_pipeline(model: str, pipeline: str | None, cameras: Sequence[ViewPrompt]) -> None:
    """Refuse, before gigabytes are loaded, a pipeline that draws nothing from words alone or cannot mix embeddings."""
    from negguide.integration.families import family_of
    from negguide.models import not_from_words, pipeline_class, pipeline_name
    from negguide.views import check_mixes

    kind = pipeline_class(pipeline or pipeline_name(model))
    if kind is None:
        # said where the model is loaded
        return
    if reason := not_from_words(kind):
        raise ValueError(f"--model {model}: {kind.__name__} {reason}; give a text-to-image model")
    family = family_of(kind)
    if family is not None and any(len(camera.positive) > 1 for camera in cameras):
        try:
            check_mixes(family)
        except ValueError as error:
            raise ValueError(f"--preset: {error}; on the command line --preset toyworld") from error
