"""The strip of `negguide views`: a row of pictures from all around for each way of saying the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from negguide.cli.compare import CLASSIC, PLAIN

if TYPE_CHECKING:
    from PIL import Image

    from negguide.cli.draw import Drawn, Embeds
    from negguide.cli.job import Job
    from negguide.views import Preset, ViewPrompt

PERP_NEG = "perp-neg"
ROWS = {PERP_NEG: "Perp-Neg", PLAIN: "plain", CLASSIC: "negative prompt"}
"""What a row can be, and how it is labelled."""


@dataclass(frozen=True)
class Strip:
    """A picture of all rows.

    Attributes:
        sheet: rows by azimuths.
        settings: how each picture of it was made.
        readings: for each row what it is and how often the embedded model's judge reads the view of the camera;
            empty for other models.
    """

    sheet: Image.Image
    settings: dict[str, Any]
    readings: tuple[str, ...]


def draw_strip(
    base: Job, prompt: str, preset: Preset, azimuths: Sequence[float], elevation: float, names: Sequence[str]
) -> Strip:
    """Draw a prompt from all around.

    Args:
        base: everything but prompt and negatives.
        prompt: without a view.
        preset: whose words and negatives hold at a camera.
        azimuths, elevation: of the cameras, in degrees.
        names: rows, of `ROWS`.
    """
    from negguide.cli.draw import describe, draw
    from negguide.domain import domain_of
    from negguide.pictures import grid
    from negguide.views import view_prompts

    cameras = list(view_prompts(azimuths, elevation, preset=preset))
    rows = [[_as_drawn(camera, name) for camera in cameras] for name in names]
    # cameras that differ in nothing, as those of a mirrored azimuth, have one picture
    unique = list(
        dict.fromkeys((camera, name) for row, name in zip(rows, names, strict=True) for camera in row)
    )
    pictures = draw(
        [_job(base, prompt, camera, name) for camera, name in unique],
        embeds=[_embeds(prompt, camera, base.model) for camera, _ in unique],
    )
    found = dict(zip(unique, pictures, strict=True))
    by_row = [[found[camera, name] for camera in row] for row, name in zip(rows, names, strict=True)]

    images = [[one.images[k] for one in row] for row in by_row for k in range(len(base.seeds))]
    labels = [
        ROWS[name] + (f", seed {one}" if len(base.seeds) > 1 else "") for name in names for one in base.seeds
    ]
    domain = domain_of(base.model)
    judge = None if domain is None else domain.judge("cpu")
    readings = [] if judge is None else [judge.views(row) for row in images]
    sheet = grid(
        images,
        row_labels=labels,
        column_labels=[f"{angle:g}°" for angle in azimuths],
        title=f"“{prompt}” from all around",
        footer=f"preset {preset.name} · seed {', '.join(map(str, base.seeds))} · "
        f"{describe(pictures[0].job, methods=())}",
        captions=readings,
    )
    settings = {
        "command": "views",
        "prompt": prompt,
        "preset": preset.name,
        "azimuths": list(azimuths),
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
    wanted = [camera.view for camera in cameras]
    said = []
    for label, reading in zip(labels, readings, strict=False):
        right = sum(read == view for read, view in zip(reading, wanted, strict=True))
        said.append(f"{label}: the judge reads the view of the camera in {right} of {len(wanted)} pictures")
    return Strip(sheet, settings, tuple(said))


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


def _record(prompt: str, camera: ViewPrompt, drawn: Drawn) -> dict[str, Any]:
    """How one picture was made: the job, and the mixed positive where its prompt is none."""
    from negguide.views import view_text

    positive = [
        [view_text(prompt, view, model=drawn.job.model), fraction] for view, fraction in camera.positive
    ]
    return {**drawn.job.to_dict(), **({"positive": positive} if len(positive) > 1 else {})}
