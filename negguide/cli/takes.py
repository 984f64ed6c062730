"""What a pipeline's call takes, by its signature: what it does not take is refused, what it needs is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

from negguide._utils.text import listed
from negguide.cli.job import Job
from negguide.cli.syntax import flag
from negguide.methods import TokenMethod
from negguide.models import (
    PICTURES,
    needed_pictures,
    not_from_words,
    picture_arguments,
    pipeline_class,
)

NUMBERS = ("height", "width", "strength", "control_mode")
"""Options that are called as the pipelines' arguments are."""


def check_takes(pipeline: Any, jobs: Sequence[Job], *, explain: bool = False) -> None:
    """Refuse what a pipeline, or a class of them, does not take, and ask for what it needs.

    Args:
        explain: whether it is also to be shown what the methods did.

    Raises:
        ValueError: naming the option and the pipeline.
    """
    kind = _name(pipeline)
    model = jobs[0].model
    if not_from_words(pipeline) == "makes videos":
        raise ValueError(
            f"--model {model}: {kind} makes videos; give a text-to-image model, or call it from Python"
        )
    accepted = signature(pipeline.__call__).parameters
    if "num_images_per_prompt" not in accepted:
        raise ValueError(
            f"--model {model}: {kind} does not draw several images of one prompt; call it from Python"
        )
    said = {name for job in jobs for name in (*NUMBERS, *PICTURES) if getattr(job, name) is not None}
    refused = [flag(name) for name in (*NUMBERS, *PICTURES) if name in said - takes(pipeline)]
    if refused:
        raise ValueError(f"{', '.join(refused)}: {kind} takes none; leave it out{_others(pipeline, said)}")
    missing = [flag(name) for name in needs(pipeline) if name not in said]
    if missing:
        raise ValueError(
            f"--model {model}: {kind} needs {listed(missing)}; give it, or a text-to-image model"
        )
    if explain and any(one_by_one(pipeline, job) and job.methods for job in jobs) and len(jobs[0].seeds) > 1:
        raise ValueError(
            f"--explain: {kind} draws one image a call, got --num-images {len(jobs[0].seeds)}; give 1"
        )
    if any(job.negative_prompt for job in jobs) and "negative_prompt" not in accepted:
        raise ValueError(f"--negative-prompt: {kind} takes none; leave it out, or say it as a --negative")


def takes(pipeline: Any) -> set[str]:
    """Those of `NUMBERS` and `PICTURES` that a pipeline takes."""
    return (set(NUMBERS) & set(signature(pipeline.__call__).parameters)) | set(picture_arguments(pipeline))


def needs(pipeline: Any) -> tuple[str, ...]:
    """Those of `NUMBERS` and `PICTURES` that it cannot do without."""
    return (*needed_pictures(pipeline), *(("control_mode",) if "Union" in _name(pipeline) else ()))


def one_by_one(pipeline: Any, job: Job) -> bool:
    """Whether each image of a job is a call of its own.

    Many pipelines that start from a picture draw the noise of a whole batch from its first generator, or want as many
    pictures as images. Alone, each image is that of its seed. NegToMe may need them together.
    """
    together = any(isinstance(method, TokenMethod) and not method.images for method in job.methods)
    return bool(needed_pictures(pipeline)) and not together


def picture_size(pipeline: Any, job: Job) -> tuple[int | None, int | None]:
    """Height and width of the images: as said, or those of a picture that the pipeline would stretch to its own.

    Pipelines that have a size of their own beside the picture's draw a square of an oblong picture otherwise.
    """
    starts = [name for name in PICTURES if name in needed_pictures(pipeline)]
    picture = next((getattr(job, name) for name in starts if getattr(job, name) is not None), None)
    sized = {"height", "width"} <= takes(pipeline)
    # a picture that is only edited has no pixel in common with the result: the pipeline chooses
    if picture is None or not sized or not {"strength", "mask_image", "control_image"} & takes(pipeline):
        return job.height, job.width
    step = max(16, getattr(pipeline, "vae_scale_factor", 8))
    height, width = (max(step, pixels // step * step) for pixels in (picture.height, picture.width))
    return job.height or height, job.width or width


def _name(pipeline: Any) -> str:
    return str((pipeline if isinstance(pipeline, type) else type(pipeline)).__name__)


def _others(pipeline: Any, said: set[str]) -> str:
    """The pipelines that draw with the same models and take all that was said, as a hint."""
    # diffusers calls them so; what else takes pictures has models of its own (ControlNets, editing models)
    names = [_name(pipeline).removesuffix("Pipeline") + f"{task}Pipeline" for task in ("Img2Img", "Inpaint")]
    others = [(name, pipeline_class(name)) for name in names]
    found = [
        name
        for name, other in others
        if other is not None and said <= takes(other) and set(needs(other)) <= said
    ]
    return f", or give --pipeline {listed(found, 'or')}" if found else ""
