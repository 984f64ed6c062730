"""One run of a pipeline as data: what the command line asks for, what is stored in files, and what is replayed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from negguide.cli.errors import quiet_libraries
from negguide.cli.output import steps_bar, waiting
from negguide.methods import (
    Load,
    Method,
    Negative,
    NegativesMethod,
    NegToMe,
    PerpNeg,
    Save,
    method_from_dict,
)
from negguide.models import TOYWORLD, load_pipeline
from negguide.version import __version__

if TYPE_CHECKING:
    from negguide.integration.trace import Trace

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """Everything that decides what the images look like.

    Attributes:
        prompt, negative_prompt: as diffusers takes them; negative_prompt "" = without.
        methods: negative guidance, at most one of each kind.
        model: "toyworld", a folder or a hub id.
        steps, guidance_scale: of the sampler.
        seeds: one per image; each image has a generator of its own.
        device, dtype: by name.

    Raises:
        TypeError, ValueError: naming the option and what would be right.
    """

    prompt: str
    model: str
    steps: int
    guidance_scale: float
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
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {self.steps}")
        scale = self.guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < float("inf"):
            raise ValueError(f"--guidance-scale must be a finite number >= 0, got {scale!r}")
        if self.negative_prompt and scale <= 1:
            raise ValueError(f"--negative-prompt acts only with --guidance-scale above 1, got {scale}")
        if not self.seeds:
            raise ValueError("--num-images must be at least 1")
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
                raise ValueError(f"--seed must be an integer from 0 to 2**63 - 1, got {seed!r}")
        self._check_methods()
        if self.model == TOYWORLD:
            check_vocabulary([self.prompt, self.negative_prompt, *(n.prompt for n in self.negatives)])

    def _check_methods(self) -> None:
        for method in self.methods:
            if isinstance(method, PerpNeg) and self.guidance_scale <= 1:
                raise ValueError(
                    f"--negative acts only with --guidance-scale above 1, got {self.guidance_scale}; --method nag, "
                    "ong or vsf acts without guidance"
                )
            if isinstance(method, NegToMe) and not method.images and len(self.seeds) < 2:
                raise ValueError(
                    f"--negtome {method.reference} compares the images of one call, so --num-images must be at least "
                    "2, got 1; or give --reference image.png"
                )

    @property
    def negatives(self) -> tuple[Negative, ...]:
        """The negatives in words of all methods."""
        return tuple(
            n for method in self.methods if isinstance(method, NegativesMethod) for n in method.negatives
        )

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
    """Refuse words that the toy world does not know.

    Raises:
        ValueError: with the text and the vocabulary.
    """
    from negguide.toyworld.language import parse

    for text in texts:
        parse(text)


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


def draw(jobs: Sequence[Job]) -> list[list[Image.Image]]:
    """Load the model and run each job: one image per seed. All jobs share model, device and dtype.

    Raises:
        ValueError: when the model cannot be loaded, when the device has too little memory, and for what the
            pipeline refuses.
    """
    return [images for images, _ in _drawn(jobs, trace=False)]


def draw_with_traces(jobs: Sequence[Job]) -> list[tuple[list[Image.Image], Trace | None]]:
    """`draw`, and with the images of each job that has methods the trace of what they did."""
    return _drawn(jobs, trace=True)


def _drawn(jobs: Sequence[Job], trace: bool) -> list[tuple[list[Image.Image], Trace | None]]:
    quiet_libraries()
    first = jobs[0]
    with waiting(f"loading {first.model}"):
        pipe = load_pipeline(first.model, dtype=DTYPES[first.dtype], device=first.device)
    pipe.set_progress_bar_config(disable=True)
    count = sum(len(job.seeds) for job in jobs)
    with steps_bar(
        f"drawing {count} image{'s' if count > 1 else ''}", sum(job.steps for job in jobs)
    ) as advance:
        return [_run(pipe, job, trace and bool(job.methods), advance) for job in jobs]


def _run(
    pipe: Any, job: Job, trace: bool, advance: Callable[[], None]
) -> tuple[list[Image.Image], Trace | None]:
    def on_step_end(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        advance()
        return tensors

    accepted = inspect.signature(pipe.__call__).parameters
    if "num_videos_per_prompt" in accepted:
        raise ValueError(f"--model {job.model}: {type(pipe).__name__} makes videos; call it from Python")
    if job.negative_prompt and "negative_prompt" not in accepted:
        raise ValueError(
            f"--negative-prompt: {type(pipe).__name__} takes none; leave it out, or say it as a --negative"
        )
    arguments: dict[str, Any] = {"negative_prompt": job.negative_prompt or None}
    # FLUX and Qwen-Image have guidance of their own beside this one, and need a negative prompt to be guided by it
    true_cfg = "true_cfg_scale" in accepted
    arguments["true_cfg_scale" if true_cfg else "guidance_scale"] = job.guidance_scale
    if true_cfg and job.guidance_scale > 1:
        arguments["negative_prompt"] = job.negative_prompt
    if "callback_on_step_end" in accepted:
        arguments["callback_on_step_end"] = on_step_end
    try:
        output = pipe(
            prompt=job.prompt,
            negative_guidance=list(job.methods) or None,
            trace=trace,
            num_inference_steps=job.steps,
            num_images_per_prompt=len(job.seeds),
            # on the CPU, so that a seed is the same noise on every device
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in job.seeds],
            **{name: value for name, value in arguments.items() if name in accepted},
        )
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{job.device} has too little memory for {len(job.seeds)} images at once; use a smaller --num-images"
        ) from error
    return list(output.images), output.trace if trace else None


def describe(job: Job, methods: Sequence[Method] | None = None) -> str:
    """One line that says how the images are made, for the foot of a picture; `methods` instead of the job's own."""
    # of a folder, its name
    parts = [
        Path(job.model).name if Path(job.model).is_absolute() else job.model,
        f"{job.steps} steps",
        f"guidance scale {job.guidance_scale:g}",
    ]
    for method in job.methods if methods is None else methods:
        if isinstance(method, NegativesMethod):
            name = "Perp-Neg" if isinstance(method, PerpNeg) else f"{type(method).__name__} {method.scale:g}"
            for negative in method.negatives:
                window = _window(*negative.window)
                parts.append(f"{name}: {negative.prompt}, weight {negative.weight:g}, {window}")
        else:
            kind = method.reference if isinstance(method.reference, str) else "reference images"
            numbers = f"alpha {method.alpha:g}, threshold {method.threshold:g}"
            parts.append(f"NegToMe: {kind}, {numbers}, {_window(method.start, method.stop)}")
    return " · ".join([*parts, f"negguide {__version__}"])


def _window(start: float, stop: float) -> str:
    return f"{100 * start:g}-{100 * stop:g}% of the steps"
