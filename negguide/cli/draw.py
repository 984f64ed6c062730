"""Run jobs: load the model, check what its pipeline takes, draw, and say how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from negguide.cli.errors import quiet_libraries
from negguide.cli.job import DTYPES, Job
from negguide.cli.lora import load_loras
from negguide.cli.output import remark, steps_bar, waiting
from negguide.cli.takes import NUMBERS, check_takes, one_by_one, picture_size
from negguide.methods import Method, NegativesMethod
from negguide.methods.choices import options_of
from negguide.models import (
    call_arguments,
    guidance_arguments,
    load_pipeline,
    own_guidance_scale,
    picture_arguments,
    pipeline_class,
    pipeline_name,
)
from negguide.version import __version__

if TYPE_CHECKING:
    from negguide.integration.diagnostics.trace import Trace


@dataclass(frozen=True)
class Drawn:
    """A job with everything that was left to the pipeline, its images, one for each seed, and what its methods did."""

    job: Job
    images: list[Image.Image]
    trace: Trace | None


Embeds = Callable[[Any], Mapping[str, torch.Tensor]]
"""From the loaded pipeline to {argument of its call: [1, ...]}, the prompt already encoded."""


def draw(
    jobs: Sequence[Job], *, trace: bool = False, embeds: Sequence[Embeds | None] | None = None
) -> list[Drawn]:
    """Load the model and run each job. All jobs share model, device and dtype.

    Jobs without a guidance scale get the same one, what suits the pipeline when one of them needs guidance, so that
    they differ by what they ask for alone.

    Args:
        trace: also say of each job that has methods what they did.
        embeds: for each job what stands in place of its prompt in the call, or None; None = the prompts everywhere.

    Raises:
        ValueError: when the model cannot be loaded, when the device has too little memory, and for what the
            pipeline refuses.
    """
    quiet_libraries()
    first = jobs[0]
    # before gigabytes are loaded, where the model's index says which pipeline it is
    named = pipeline_class(first.pipeline or pipeline_name(first.model))
    if named is not None:
        check_takes(named, jobs, explain=trace)
    with waiting(f"loading {first.model}"):
        pipe = load_pipeline(
            first.model,
            dtype=DTYPES[first.dtype],
            device=first.device if first.offload == "none" else "cpu",
            pipeline=first.pipeline,
        )
        check_takes(pipe, jobs, explain=trace)
        load_loras(pipe, first.loras)
        offload(pipe, first.offload, first.device)
    pipe.set_progress_bar_config(disable=True)
    encoded = [None if one is None else one(pipe) for one in embeds or [None] * len(jobs)]
    own = own_guidance_scale(pipe, guided=any(job.guided for job in jobs))
    jobs = [_settled(job, own, pipe) for job in jobs]
    count = sum(len(job.seeds) for job in jobs)
    with steps_bar(
        f"drawing {count} image{'s' if count > 1 else ''}", sum(job.steps for job in jobs)
    ) as advance:
        return [
            Drawn(job, *_run(pipe, job, prompt, trace and bool(job.methods), advance))
            for job, prompt in zip(jobs, encoded, strict=True)
        ]


def offload(pipe: Any, how: str, device: str) -> None:
    """Keep on the CPU what does not compute, by diffusers' own hooks.

    Raises:
        ValueError: the pipeline cannot be offloaded like that.
    """
    try:
        if how == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif how == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        elif how == "group":
            # the next groups are fetched while one computes, where the device can do both at once
            pipe.enable_group_offload(
                torch.device(device), offload_type="leaf_level", use_stream=device.startswith("cuda")
            )
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"--offload {how}: {type(pipe).__name__} cannot: {error}") from error


def _settled(job: Job, guidance_scale: float, pipe: Any) -> Job:
    """The job with everything said that was left to the pipeline, so that its record is whole."""
    methods = tuple(pipe.family.with_defaults(method) for method in job.methods)
    if job.guidance_scale is not None:
        guidance_scale = job.guidance_scale
    height, width = picture_size(pipe, job)
    return replace(job, guidance_scale=guidance_scale, methods=methods, height=height, width=width)


def _run(
    pipe: Any,
    job: Job,
    prompt: Mapping[str, torch.Tensor] | None,
    trace: bool,
    advance: Callable[[], None],
) -> tuple[list[Image.Image], Trace | None]:
    if not one_by_one(pipe, job):
        return _call(pipe, job, prompt, job.seeds, trace, advance)
    drawn = [_call(pipe, job, prompt, (seed,), trace, advance) for seed in job.seeds]
    return [image for images, _ in drawn for image in images], drawn[0][1]


def _call(
    pipe: Any,
    job: Job,
    prompt: Mapping[str, torch.Tensor] | None,
    seeds: tuple[int, ...],
    trace: bool,
    advance: Callable[[], None],
) -> tuple[list[Image.Image], Trace | None]:
    def on_step_end(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        advance()
        return tensors

    accepted = signature(pipe.__call__).parameters
    assert job.guidance_scale is not None
    arguments = call_arguments(pipe)
    arguments |= guidance_arguments(pipe, job.guidance_scale, job.negative_prompt)
    if "callback_on_step_end" in accepted:
        arguments["callback_on_step_end"] = on_step_end
    elif "callback" in accepted:  # PixArt-Sigma has the older kind
        arguments["callback"] = lambda *_: advance()
    arguments |= {name: getattr(job, name) for name in NUMBERS if getattr(job, name) is not None}
    arguments |= {
        argument: getattr(job, name)
        for name, argument in picture_arguments(pipe).items()
        if getattr(job, name) is not None
    }
    if prompt is None:
        arguments |= {"prompt": job.prompt, "num_images_per_prompt": len(seeds)}
    else:
        # not every pipeline repeats embeddings, or a negative prompt beside them, for several images
        arguments |= {name: torch.cat([value] * len(seeds)) for name, value in prompt.items()}
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(seeds)
    try:
        output = pipe(
            negative_guidance=list(job.methods) or None,
            trace=trace,
            num_inference_steps=job.steps,
            # on the CPU, so that a seed is the same noise on every device
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            **arguments,
        )
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{job.device} has too little memory for {len(seeds)} images at once; use a smaller --num-images"
            + ("" if job.device == "cpu" or job.offload != "none" else ", or --offload model")
        ) from error
    images = list(output.images)
    asked = (job.width or images[0].width, job.height or images[0].height)
    if images[0].size != asked:
        # some pipelines round without a word
        remark("asked for {}x{} pixels, the model drew {}x{}".format(*asked, *images[0].size))
    return images, output.trace if trace else None


def describe(job: Job, methods: Sequence[Method] | None = None) -> str:
    """One line that says how the images of a drawn job were made, for the foot of a picture.

    Args:
        methods: instead of the job's own.
    """
    # of a folder, its name
    parts = [
        Path(job.model).name if Path(job.model).is_absolute() else job.model,
        *([] if job.pipeline is None else [f"as {job.pipeline}"]),
        *(f"{Path(lora.source).stem} {lora.scale:g}" for lora in job.loras),
        f"{job.steps} steps",
        f"guidance scale {job.guidance_scale:g}",
    ]
    for method in job.methods if methods is None else methods:
        parts += _described(method)
    return " · ".join([*parts, f"negguide {__version__}"])


def _described(method: Method) -> list[str]:
    """What a method does, one text for each of its windows."""
    values = {name: getattr(method, name) for name in options_of(type(method))}
    if isinstance(method, NegativesMethod):
        name = method.label if "scale" not in values else f"{method.label} {values['scale']:g}"
        return [
            f"{name}: {negative.prompt}, weight {negative.weight_in_words}, {window.in_words()}"
            for negative, window in zip(method.negatives, method.windows, strict=True)
        ]
    reference = values.get("reference")
    said = [reference if isinstance(reference, str) else "reference images"]
    said += [
        f"{name} {value:g}"
        for name, value in values.items()
        if isinstance(value, float) and name not in ("start", "stop")
    ]
    return [f"{method.label}: {', '.join([*said, window.in_words()])}" for window in method.windows]
