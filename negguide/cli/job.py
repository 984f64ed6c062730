"""One run of a pipeline as data: what the command line asks for, what is stored in files, and what is replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from negguide._utils.text import listed
from negguide.cli.errors import quiet_libraries
from negguide.cli.output import steps_bar, waiting
from negguide.methods import (
    Load,
    Method,
    Negative,
    NegativesMethod,
    Save,
    TokenMethod,
    method_from_dict,
    negatives_of,
)
from negguide.methods.choices import methods_in_words, options_of
from negguide.models import TOYWORLD, load_pipeline, not_from_words, own_guidance_scale
from negguide.version import __version__

if TYPE_CHECKING:
    from negguide.integration.diagnostics.trace import Trace
    from negguide.integration.families import Family

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """Everything that decides what the images look like.

    Attributes:
        prompt, negative_prompt: as diffusers takes them; negative_prompt "" = without.
        methods: negative guidance, at most one of each kind.
        model: "toyworld", a folder or a hub id.
        steps: of the sampler.
        guidance_scale: of classifier-free guidance (true CFG where a pipeline has it); None until the model is loaded =
            what suits its pipeline.
        seeds: one per image; each image has a generator of its own.
        device, dtype: by name.

    Raises:
        TypeError, ValueError: naming the option and what would be right.
    """

    prompt: str
    model: str
    steps: int
    guidance_scale: float | None
    seeds: tuple[int, ...]
    negative_prompt: str = ""
    methods: tuple[Method, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, kind in (("prompt", str), ("negative_prompt", str), ("model", str), ("steps", int)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be of type {kind.__name__}, got {getattr(self, name)!r}")
        if not self.prompt.strip():
            raise ValueError("PROMPT is empty; say what to draw, e.g. 'a bear wearing glasses'")
        if self.negative_prompt and not self.negative_prompt.strip():
            raise ValueError("--negative-prompt is blank; say what to leave out, or leave it out")
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {self.steps}")
        if self.guidance_scale is not None:
            self._check_guidance_scale(self.guidance_scale)
        if not self.seeds:
            raise ValueError("--num-images must be at least 1")
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
                raise ValueError(f"--seed must be an integer from 0 to 2**63 - 1, got {seed!r}")
        self._check_methods()
        if self.model == TOYWORLD:
            check_vocabulary([self.prompt, self.negative_prompt, *(n.prompt for n in self.negatives)])

    def _check_guidance_scale(self, scale: Any) -> None:
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < float("inf"):
            raise ValueError(f"--guidance-scale must be a finite number >= 0, got {scale!r}")
        if self.negative_prompt and scale <= 1:
            raise ValueError(f"--negative-prompt acts only with --guidance-scale above 1, got {scale}")
        if scale <= 1 and any(method.needs_guidance for method in self.methods):
            others = [key for key, method in methods_in_words().items() if not method.needs_guidance]
            raise ValueError(
                f"--negative acts only with --guidance-scale above 1, got {scale}; --method {listed(others, 'or')} "
                "acts without guidance"
            )

    def _check_methods(self) -> None:
        for method in self.methods:
            if isinstance(method, TokenMethod) and not method.images and len(self.seeds) < 2:
                raise ValueError(
                    f"{method.label} with the reference {method.reference!r} compares the images of one call, so "
                    "--num-images must be at least 2, got 1; or give --reference image.png"
                )

    @property
    def guided(self) -> bool:
        """Whether it asks for something that needs classifier-free guidance."""
        return bool(self.negative_prompt) or any(method.needs_guidance for method in self.methods)

    @property
    def negatives(self) -> tuple[Negative, ...]:
        """The negatives in words of all methods."""
        return tuple(negatives_of(self.methods))

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """As JSON data; `save` stores the methods' images and masks."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**data, "seeds": list(self.seeds), "methods": [m.to_dict(save) for m in self.methods]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Job:
        """The inverse of `to_dict`; further keys are left alone.

        Raises:
            TypeError, ValueError: for keys that are missing, or values that are wrong.
        """
        names = [f.name for f in fields(cls)]
        missing = [name for name in names if name not in data]
        if missing:
            raise ValueError(f"the settings lack {', '.join(missing)}")
        for name in ("seeds", "methods"):
            if not isinstance(data[name], list):
                raise TypeError(f"{name} must be a list, got {data[name]!r}")
        values = {name: data[name] for name in names}
        for method in data["methods"]:
            if not isinstance(method, Mapping):
                raise TypeError(f"methods must hold JSON objects, got {method!r}")
        methods = tuple(method_from_dict(m, load) for m in data["methods"])
        return cls(**{**values, "seeds": tuple(data["seeds"]), "methods": methods})


def check_vocabulary(texts: Sequence[str]) -> None:
    """Refuse words that the toy world does not know, and texts without any.

    Raises:
        ValueError: with the text and the vocabulary.
    """
    from negguide.toyworld.language import parse
    from negguide.toyworld.scene import Scene

    for text in texts:
        if parse(text) == Scene(()) and text:
            raise ValueError(f"{text!r} holds no word; write a caption like 'a bear wearing glasses'")


def choose_device(name: str) -> str:
    """`name` when this machine has it; "auto" is a GPU when there is one, and the CPU otherwise.

    Raises:
        ValueError: for a device that torch does not know or this machine does not have.
    """
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name == "auto":
        return found[0]
    if name not in found:
        raise ValueError(f"--device must be auto or one of {', '.join(found)} on this machine, got {name!r}")
    return name


def choose_dtype(name: str, device: str, model: str) -> str:
    """`name` when it is a dtype to compute in; "auto" is float16 for large models on a GPU, float32 otherwise.

    Raises:
        ValueError: for another name.
    """
    if name == "auto":
        return "float32" if device == "cpu" or model == TOYWORLD else "float16"
    if name not in DTYPES:
        raise ValueError(f"--dtype must be auto or one of {', '.join(DTYPES)}, got {name!r}")
    return name


@dataclass(frozen=True)
class Drawn:
    """A job with everything that was left to the pipeline, its images, one for each seed, and what its methods did."""

    job: Job
    images: list[Image.Image]
    trace: Trace | None


def draw(jobs: Sequence[Job], *, trace: bool = False) -> list[Drawn]:
    """Load the model and run each job. All jobs share model, device and dtype.

    Jobs without a guidance scale get the same one, what suits the pipeline when one of them needs guidance, so that
    they differ by what they ask for alone.

    Args:
        trace: also say of each job that has methods what they did.

    Raises:
        ValueError: when the model cannot be loaded, when the device has too little memory, and for what the
            pipeline refuses.
    """
    quiet_libraries()
    first = jobs[0]
    with waiting(f"loading {first.model}"):
        pipe = load_pipeline(first.model, dtype=DTYPES[first.dtype], device=first.device)
    pipe.set_progress_bar_config(disable=True)
    _check_pipeline(pipe, jobs)
    own = own_guidance_scale(pipe, guided=any(job.guided for job in jobs))
    jobs = [_settled(job, own, pipe.family) for job in jobs]
    count = sum(len(job.seeds) for job in jobs)
    with steps_bar(
        f"drawing {count} image{'s' if count > 1 else ''}", sum(job.steps for job in jobs)
    ) as advance:
        return [Drawn(job, *_run(pipe, job, trace and bool(job.methods), advance)) for job in jobs]


def _settled(job: Job, guidance_scale: float, family: Family) -> Job:
    """The job with everything said that was left to the pipeline, so that its record is whole."""
    methods = tuple(family.with_defaults(method) for method in job.methods)
    if job.guidance_scale is not None:
        guidance_scale = job.guidance_scale
    return replace(job, guidance_scale=guidance_scale, methods=methods)


def _check_pipeline(pipe: Any, jobs: Sequence[Job]) -> None:
    kind = type(pipe).__name__
    reason = not_from_words(pipe)
    if reason is not None:
        raise ValueError(
            f"--model {jobs[0].model}: {kind} {reason}; give a text-to-image model, or call it from Python"
        )
    negative_prompts = any(job.negative_prompt for job in jobs)
    if negative_prompts and "negative_prompt" not in signature(pipe.__call__).parameters:
        raise ValueError(f"--negative-prompt: {kind} takes none; leave it out, or say it as a --negative")


def _run(
    pipe: Any, job: Job, trace: bool, advance: Callable[[], None]
) -> tuple[list[Image.Image], Trace | None]:
    def on_step_end(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        advance()
        return tensors

    accepted = signature(pipe.__call__).parameters
    # FLUX.1 and Qwen-Image have guidance of their own beside this one, and need a negative prompt to be guided by it
    true_cfg = "true_cfg_scale" in accepted
    arguments: dict[str, Any] = {"true_cfg_scale" if true_cfg else "guidance_scale": job.guidance_scale}
    if job.negative_prompt or (true_cfg and arguments["true_cfg_scale"] > 1):
        arguments["negative_prompt"] = job.negative_prompt
    if "callback_on_step_end" in accepted:
        arguments["callback_on_step_end"] = on_step_end
    else:  # PixArt-Sigma has the older kind
        arguments["callback"] = lambda *_: advance()
    try:
        output = pipe(
            prompt=job.prompt,
            negative_guidance=list(job.methods) or None,
            trace=trace,
            num_inference_steps=job.steps,
            num_images_per_prompt=len(job.seeds),
            # on the CPU, so that a seed is the same noise on every device
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in job.seeds],
            **arguments,
        )
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{job.device} has too little memory for {len(job.seeds)} images at once; use a smaller --num-images"
        ) from error
    return list(output.images), output.trace if trace else None


def describe(job: Job, methods: Sequence[Method] | None = None) -> str:
    """One line that says how the images of a drawn job were made, for the foot of a picture.

    Args:
        methods: instead of the job's own.
    """
    # of a folder, its name
    parts = [
        Path(job.model).name if Path(job.model).is_absolute() else job.model,
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
            f"{name}: {negative.prompt}, weight {negative.weight:g}, {_window(*negative.window)}"
            for negative in method.negatives
        ]
    reference = values.get("reference")
    said = [reference if isinstance(reference, str) else "reference images"]
    said += [
        f"{name} {value:g}"
        for name, value in values.items()
        if isinstance(value, float) and name not in ("start", "stop")
    ]
    return [f"{method.label}: {', '.join([*said, _window(*window)])}" for _, *window in method.windows]


def _window(start: float, stop: float) -> str:
    return f"{100 * start:g}-{100 * stop:g}% of the steps"
