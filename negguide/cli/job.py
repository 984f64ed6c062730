"""One run of a pipeline as data: what the command line asks for, what is stored in files, and what is replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

import torch
from PIL import Image

from negguide._utils.text import listed
from negguide.cli.lora import Lora
from negguide.cli.options import OFFLOADS
from negguide.cli.syntax import flag
from negguide.domain import domain_of
from negguide.methods import Load, Method, Negative, Save, TokenMethod, method_from_dict, negatives_of
from negguide.methods.choices import methods_in_words
from negguide.methods.serialise import decode, encode
from negguide.models import PICTURES, published_dtype

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


_IF_SAID = {"if_said": True}
"""Of fields that are stored only where they are not as they are without saying."""


@dataclass(frozen=True)
class Job:
    """Everything that decides what the images look like.

    Attributes:
        prompt, negative_prompt: as diffusers takes them; negative_prompt "" = without.
        methods: negative guidance, at most one of each kind.
        model: an embedded one, a folder or a hub id.
        steps: of the sampler.
        guidance_scale: of classifier-free guidance (true CFG where a pipeline has it); None until the model is loaded =
            what suits its pipeline.
        seeds: one per image; each image has a generator of its own.
        device, dtype: by name.
        pipeline: the class to load the model as; None = the one that it names.
        height, width: in pixels; None until the model is loaded = what suits it, or the size of the picture.
        strength: how much of `image` may change; None = the pipeline's own.
        control_mode: of a union ControlNet.
        image, mask_image, control_image: see `negguide.models.PICTURES`.
        loras: low-rank weights that are added to the model's.
        offload: one of `OFFLOADS`; it does not decide the images, but whether they can be made.

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
    pipeline: str | None = field(default=None, metadata=_IF_SAID)
    height: int | None = field(default=None, metadata=_IF_SAID)
    width: int | None = field(default=None, metadata=_IF_SAID)
    strength: float | None = field(default=None, metadata=_IF_SAID)
    control_mode: int | None = field(default=None, metadata=_IF_SAID)
    # "image" is which one of a run a PNG is
    image: Image.Image | None = field(default=None, metadata={**_IF_SAID, "key": "input_image"})
    mask_image: Image.Image | None = field(default=None, metadata=_IF_SAID)
    control_image: Image.Image | None = field(default=None, metadata=_IF_SAID)
    loras: tuple[Lora, ...] = field(default=(), metadata=_IF_SAID)
    offload: str = field(default="none", metadata=_IF_SAID)

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
        self._check_numbers()
        self._check_pictures()
        if self.offload not in OFFLOADS:
            raise ValueError(f"--offload must be one of {', '.join(OFFLOADS)}, got {self.offload!r}")
        if self.offload != "none" and self.device == "cpu":
            raise ValueError(
                f"--offload {self.offload} keeps a model on the CPU while a GPU computes, and --device is cpu; leave "
                "it out"
            )
        domain = domain_of(self.model)
        if domain is not None:
            for text in (self.prompt, self.negative_prompt, *(n.prompt for n in self.negatives)):
                if text:
                    domain.language().check(text)

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

    def _check_numbers(self) -> None:
        for name in ("height", "width", "control_mode"):
            value, least = getattr(self, name), 0 if name == "control_mode" else 1
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{flag(name)} must be a whole number from {least}, got {value!r}")
        strength = self.strength
        if strength is not None and (
            isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1
        ):
            raise ValueError(f"--strength must be from 0 to 1, got {strength!r}")
        if self.pipeline is not None and not isinstance(self.pipeline, str):
            raise TypeError(f"pipeline must be the name of a class, got {self.pipeline!r}")

    def _check_pictures(self) -> None:
        """Pictures that lie upon one another must have one aspect ratio: the pipelines stretch them."""
        first, *others = [name for name in PICTURES if getattr(self, name) is not None] or [""]
        for name in others:
            (width, height), (w, h) = getattr(self, first).size, getattr(self, name).size
            # up to the rounding of a size in pixels
            if abs(width * h - height * w) > max(width, height, w, h):
                raise ValueError(
                    f"{flag(name)} is {w}x{h} (width x height) and {flag(first)} is {width}x{height}; give one with "
                    "the same aspect ratio"
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
        """As JSON data; `save` stores its images and masks, and those of its methods."""
        data = {
            _key(f): encode(getattr(self, f.name), save)
            for f in fields(self)
            if not f.metadata.get("if_said") or getattr(self, f.name) != f.default
        }
        if self.loras:
            data["loras"] = [lora.to_dict() for lora in self.loras]
        return {**data, "methods": [m.to_dict(save) for m in self.methods]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Job:
        """The inverse of `to_dict`; further keys are left alone.

        Raises:
            TypeError, ValueError: for keys that are missing, or values that are wrong.
        """
        missing = [f.name for f in fields(cls) if _key(f) not in data and not f.metadata.get("if_said")]
        if missing:
            raise ValueError(f"the settings lack {', '.join(missing)}")
        values = {f.name: data[_key(f)] for f in fields(cls) if _key(f) in data}
        for name in ("seeds", "methods", "loras"):
            if not isinstance(values.get(name, []), list):
                raise TypeError(f"{name} must be a list, got {data[name]!r}")
        for method in data["methods"]:
            if not isinstance(method, Mapping):
                raise TypeError(f"methods must hold JSON objects, got {method!r}")
        values["methods"] = tuple(method_from_dict(m, load) for m in data["methods"])
        values["seeds"] = tuple(data["seeds"])
        values["loras"] = tuple(Lora.from_dict(lora) for lora in values.get("loras", []))
        for name in PICTURES:
            values[name] = decode(name, values.get(name), load)
        return cls(**values)


def _key(of: Field[Any]) -> str:
    """What a field is called where it is stored."""
    return str(of.metadata.get("key", of.name))


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


def choose_dtype(name: str, device: str, model: str, pipeline: str | None = None) -> str:
    """`name` when it is a dtype to compute in, or what "auto" means.

    That is float32 on the CPU and for the embedded models, and on a GPU what the model's family was published in.

    Raises:
        ValueError: for another name.
    """
    if name == "auto":
        small = device == "cpu" or domain_of(model) is not None
        return "float32" if small else published_dtype(model, pipeline)
    if name not in DTYPES:
        raise ValueError(f"--dtype must be auto or one of {', '.join(DTYPES)}, got {name!r}")
    return name
