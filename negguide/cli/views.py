"""`negguide views`: one seed from all around, the view in words and the other views as negatives, as one strip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negguide.cli import guidance, options
from negguide.cli.compare import CLASSIC, PLAIN
from negguide.cli.output import check_folder, remark, show
from negguide.cli.views_object import ROUNDS, draw_object

if TYPE_CHECKING:
    from PIL import Image

    from negguide.cli.draw import Drawn, Embeds
    from negguide.cli.job import Job
    from negguide.views import ViewPrompt

PERP_NEG = "perp-neg"
ROWS = {PERP_NEG: "Perp-Neg", PLAIN: "plain", CLASSIC: "negative prompt"}
"""What a row can be, and how it is labelled."""
_OBJECT = "A solid"
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
    model: options.ModelOption = "toyworld",
    pipeline: options.PipelineOption = None,
    steps: options.StepsOption = 25,
    guidance_scale: options.GuidanceScaleOption = None,
    height: options.HeightOption = None,
    width: options.WidthOption = None,
    num_images: Annotated[int, typer.Option(help="How many seeds, each with rows of its own.")] = 1,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    offload: options.OffloadOption = "none",
    out: options.OutOption = Path("out"),
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
    from negguide.cli.draw import describe, draw
    from negguide.cli.job import Job, choose_device, choose_dtype
    from negguide.models import TOYWORLD, TOYWORLD_DEFAULTS, check_model, revision
    from negguide.pictures import file_name, grid, save_png, versions
    from negguide.views import find_preset, view_prompts, view_text

    model = check_model(model)
    _check_given(ctx, object_ is not None)
    names = _methods(methods)
    degrees = _degrees(azimuths)
    chosen = _said("preset", preset or ("toyworld" if model == TOYWORLD else "threestudio"), find_preset)
    if object_ is not None:
        if model != TOYWORLD:
            raise ValueError(
                f"--object is of the embedded model, got --model {model}; for others there is "
                "negguide.views.ScoreDistillation, with a renderer of your own"
            )
        draw_object(
            prompt,
            object_,
            preset=chosen,
            guidance_scale=TOYWORLD_DEFAULTS.guidance_scale if guidance_scale is None else guidance_scale,
            seed=seed,
            rounds=rounds,
        )
        return
    check_folder(out)
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
    rows = [[_as_drawn(camera, name) for camera in cameras] for name in names]
    # cameras that differ in nothing, as those of a mirrored azimuth, have one picture
    unique = list(
        dict.fromkeys((camera, name) for row, name in zip(rows, names, strict=True) for camera in row)
    )
    pictures = draw(
        [_job(base, prompt, camera, name) for camera, name in unique],
        embeds=[_embeds(prompt, camera, model) for camera, _ in unique],
    )
    found = dict(zip(unique, pictures, strict=True))
    by_row = [[found[camera, name] for camera in row] for row, name in zip(rows, names, strict=True)]

    images = [[one.images[k] for one in row] for row in by_row for k in range(num_images)]
    labels = [
        ROWS[name] + (f", seed {one}" if num_images > 1 else "") for name in names for one in base.seeds
    ]
    readings = [_readings(row) for row in images] if model == TOYWORLD else []
    settled = pictures[0].job
    sheet = grid(
        images,
        row_labels=labels,
        column_labels=[f"{angle:g}°" for angle in degrees],
        title=f"“{prompt}” from all around",
        footer=f"preset {chosen.name} · seed {', '.join(map(str, base.seeds))} · {describe(settled, methods=())}",
        captions=readings,
    )
    settings = {
        "command": "views",
        "prompt": prompt,
        "preset": chosen.name,
        "azimuths": list(degrees),
        "elevation": elevation,
        "rows": [
            {
                "label": ROWS[name],
                "cameras": [_record(prompt, c, d) for c, d in zip(cameras, row, strict=True)],
            }
            for name, row in zip(names, by_row, strict=True)
        ],
        "readings": readings,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = out / f"views-{file_name(prompt)}-{digest[:8]}.png"
    save_png(sheet, path, {**settings, "revision": revision(model), "versions": versions()})
    wanted = [camera.view for camera in cameras]
    for label, reading in zip(labels, readings, strict=False):
        right = sum(read == view for read, view in zip(reading, wanted, strict=True))
        remark(f"{label}: the judge reads the view of the camera in {right} of {len(wanted)} pictures")
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


def _as_drawn(camera: ViewPrompt, method: str) -> ViewPrompt:
    """The camera with what of its negatives counts in a row."""
    if method == PLAIN or not camera.negatives:
        return replace(camera, negatives=())
    if method == CLASSIC:
        heaviest, _ = max(camera.negatives, key=lambda negative: negative[1])
        # a negative prompt has no weight
        return replace(camera, negatives=((heaviest, 1.0),))
    return camera


def _job(base: Job, prompt: str, camera: ViewPrompt, method: str) -> Job:
    from negguide.methods import PerpNeg
    from negguide.views import view_negatives, view_text

    job = replace(base, prompt=view_text(prompt, camera.view, model=base.model))
    if not camera.negatives:
        return job
    if method == CLASSIC:
        (view, _), *_ = camera.negatives
        return replace(job, negative_prompt=view_text(prompt, view, model=base.model))
    return replace(job, methods=(PerpNeg(*view_negatives(prompt, camera, model=base.model)),))


def _embeds(prompt: str, camera: ViewPrompt, model: str) -> Embeds | None:
    """What the camera's prompt is where it is no text; None where it is one."""
    from negguide.views import mixed_embeds

    if len(camera.positive) == 1:
        return None
    return lambda pipe: mixed_embeds(pipe, prompt, [camera], model=model)


def _readings(images: Sequence[Image.Image]) -> list[str]:
    """The view that the embedded judge reads in each image."""
    from negguide.toyworld.models import load_judge

    scenes = load_judge().read(images)
    return [(scene.characters[0].view or "?") if scene.characters else "nobody" for scene in scenes]


def _record(prompt: str, camera: ViewPrompt, drawn: Drawn) -> dict[str, Any]:
    """How one picture was made: the job, and the mixed positive where its prompt is none."""
    from negguide.views import view_text

    positive = [[view_text(prompt, view, model=drawn.job.model), share] for view, share in camera.positive]
    return {**drawn.job.to_dict(), **({"positive": positive} if len(positive) > 1 else {})}
