"""One call of a pipeline for a column and an item: its arguments, its images, its time and its memory."""

from __future__ import annotations

import gc
import hashlib
import inspect
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from negguide._utils.text import listed
from negguide.domain import USUAL_STEPS, domain_models
from negguide.methods import Method
from negguide.methods.choices import methods_in_words
from negguide.models import (
    call_arguments,
    check_model,
    guidance_arguments,
    load_pipeline,
    not_from_words,
    own_guidance_scale,
    revision,
)
from negguide.pictures import versions


@dataclass(frozen=True)
class Sampling:
    """What all calls of a run share.

    Attributes:
        model: an embedded one, a folder or a hub id.
        steps: of the sampler.
        guidance_scale: None = what suits the pipeline.
        height, width: in pixels; None = the pipeline's own.
        device, dtype: by name.
        offload: what is kept on the CPU while it does not compute; "none" = nothing.
        loras: the LoRAs on the model, as JSON.
        guided: whether something is compared that needs classifier-free guidance, so that a pipeline without a
            guidance scale of its own gets one.

    Raises:
        TypeError, ValueError: naming the option and what would be right.
    """

    model: str
    steps: int = USUAL_STEPS
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    offload: str = "none"
    loras: tuple[Mapping[str, Any], ...] = ()
    guided: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", check_model(self.model))
        for name, value in (("steps", self.steps), ("height", self.height), ("width", self.width)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        scale = self.guidance_scale
        if scale is not None and not 0 <= scale < float("inf"):
            raise ValueError(f"--guidance-scale must be a finite number >= 0, got {scale}")
        embedded = domain_models().get(self.model)
        if embedded is not None and {self.height, self.width} - {None, embedded.size}:
            size = f"{embedded.size} x {embedded.size}"
            raise ValueError(f"--height and --width: the embedded models draw {size}; leave them out")

    def to_dict(self) -> dict[str, Any]:
        """What decides how the images look, as JSON: the settings, the weights, the versions and the device."""
        return {
            "model": self.model,
            "revision": revision(self.model),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "guided": self.guided,
            "height": self.height,
            "width": self.width,
            "dtype": self.dtype,
            "offload": self.offload,
            "loras": [dict(lora) for lora in self.loras],
            "device": device_name(self.device),
            "versions": versions(),
        }


@dataclass(frozen=True)
class Call:
    """What is asked of the pipeline beside what all calls share; one image a seed."""

    prompt: str
    seeds: tuple[int, ...]
    negative_prompt: str = ""
    methods: tuple[Method, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON; of images that methods hold, their fingerprints."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seeds": list(self.seeds),
            "methods": [method.to_dict() for method in self.methods],
        }


@dataclass(frozen=True, eq=False)
class Measured:
    """The images of a call, the seconds it took, and the most memory of the GPU; None where it is not measured."""

    images: list[Image.Image]
    seconds: float
    peak_bytes: int | None


class NotPossibleError(ValueError):
    """A method cannot act here; the message says why."""


class OutOfMemoryError(NotPossibleError):
    """The device has too little memory for a call; another time it may have enough."""


Prepare = Callable[[Any], None]
"""Does to a loaded pipeline what `Sampling.offload` and `Sampling.loras` say."""


class Generator:
    """A loaded pipeline.

    Args:
        prepare: None = nothing is to be done to the pipeline.

    Raises:
        ValueError: the model cannot be loaded, does not draw single images from words alone, or has no such size.
    """

    def __init__(self, sampling: Sampling, prepare: Prepare | None = None) -> None:
        self.sampling = sampling
        dtype = getattr(torch, sampling.dtype)
        device = sampling.device if sampling.offload == "none" else "cpu"
        self.pipe = load_pipeline(sampling.model, dtype=dtype, device=device)
        if prepare is not None:
            prepare(self.pipe)
        self.pipe.set_progress_bar_config(disable=True)
        self.accepted = inspect.signature(self.pipe.__call__).parameters
        kind = type(self.pipe).__name__
        reason = not_from_words(self.pipe)
        if reason is not None:
            raise ValueError(f"--model {sampling.model}: {kind} {reason}; give a text-to-image model")
        for name in ("height", "width"):
            if getattr(sampling, name) is not None and name not in self.accepted:
                raise ValueError(f"--{name}: {kind} has none; leave it out")
        self.guidance_scale = sampling.guidance_scale
        if self.guidance_scale is None:
            self.guidance_scale = own_guidance_scale(self.pipe, guided=sampling.guided)

    def draw(self, call: Call) -> Measured:
        """The images of a call.

        Raises:
            NotPossibleError: the pipeline, its guidance or the device cannot carry what is asked for.
        """
        device = self.sampling.device
        arguments = self._arguments(call)
        _start_of_peak(device)
        began = time.perf_counter()
        try:
            output = self.pipe(
                prompt=call.prompt,
                negative_guidance=list(call.methods) or None,
                num_inference_steps=self.sampling.steps,
                num_images_per_prompt=len(call.seeds),
                # on the CPU, so that a seed is the same noise on every device
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in call.seeds],
                **arguments,
            )
        except torch.OutOfMemoryError as error:
            count = len(call.seeds)
            raise OutOfMemoryError(
                f"{device} has too little memory for {count} image{'s' if count > 1 else ''} at once; --offload model, "
                "a --dtype of 16 bits, or a smaller --height and --width may help"
            ) from error
        except (TypeError, ValueError) as error:
            # what negguide and diffusers refuse, before any model runs
            raise NotPossibleError(str(error)) from error
        _wait_for(device)
        return Measured(list(output.images), time.perf_counter() - began, _peak(device))

    def _arguments(self, call: Call) -> dict[str, Any]:
        sampling, scale = self.sampling, self.guidance_scale
        assert scale is not None
        kind = type(self.pipe).__name__
        if call.negative_prompt and "negative_prompt" not in self.accepted:
            raise NotPossibleError(f"{kind} takes no negative prompt")
        if call.negative_prompt and scale <= 1:
            others = [method.label for method in methods_in_words().values() if not method.needs_guidance]
            raise NotPossibleError(
                f"a classic negative prompt acts only with a guidance scale above 1, got {scale:g}; "
                f"{listed(others)} act without"
            )
        found = call_arguments(self.pipe) | guidance_arguments(self.pipe, scale, call.negative_prompt)
        sizes = {"height": sampling.height, "width": sampling.width}
        return found | {name: value for name, value in sizes.items() if value is not None}

    def close(self) -> None:
        """Give the memory of the models back."""
        del self.pipe
        gc.collect()
        if self.sampling.device.startswith("cuda"):
            torch.cuda.empty_cache()


def device_name(device: str) -> str:
    """The GPU by its name, or the CPU by its kind."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{device} ({platform.machine()})"


def digest(data: Mapping[str, Any]) -> str:
    """What tells JSON data apart from other data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _start_of_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: str) -> int | None:
    return int(torch.cuda.max_memory_allocated(device)) if device.startswith("cuda") else None


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
