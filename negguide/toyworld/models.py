"""Load the models that ship with the package, and write them in that form."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    PreTrainedTokenizerFast,
)

from negguide.toyworld import deltas
from negguide.toyworld.domain import CLIP, EMBEDDED, JUDGE, TEXT_TO_IMAGE, TOYWORLD, WEIGHTS
from negguide.toyworld.judge import Judge

__all__ = [
    "CLIP",
    "JUDGE",
    "TEXT_TO_IMAGE",
    "WEIGHTS",
    "folder_of",
    "folders_of",
    "has_guidance",
    "load_clip",
    "load_judge",
    "load_pipeline",
    "save_clip",
    "save_pipeline",
]


def folder_of(name: str) -> Path:
    """Where an embedded model's own weights lie: what `save_pretrained` writes, or a difference (`deltas`)."""
    return WEIGHTS / EMBEDDED[name].folder


def folders_of(name: str) -> tuple[Path, ...]:
    """Every folder that an embedded model is made of: its own, and that of the model whose weights it shares."""
    base = EMBEDDED[name].base
    return (folder_of(name),) if base is None else (folder_of(name), folder_of(base))


def load_pipeline(
    name: str = TOYWORLD, dtype: torch.dtype = torch.float32, kind: type[DiffusionPipeline] | None = None
) -> Any:
    """An embedded text-to-image model for 64x64 images: a plain diffusers pipeline.

    Args:
        name: a key of `negguide.toyworld.domain.EMBEDDED`.
        dtype: of all weights.
        kind: another class of its family to load it as; None = its own.

    Raises:
        ValueError: there is no such model, or it cannot be loaded as ``kind``.
    """
    if name not in EMBEDDED:
        raise ValueError(f"name={name!r} is no embedded model; use one of {', '.join(EMBEDDED)}")
    model = EMBEDDED[name]
    chosen: Any = kind or getattr(diffusers, model.pipeline)
    changed: dict[str, Any] = {}
    if model.base is not None:
        changed["transformer"] = _changed(folder_of(model.base) / "transformer", folder_of(name), dtype)
    folder = folder_of(model.base or name)
    try:
        pipe = chosen.from_pretrained(str(folder), dtype=dtype, local_files_only=True, **changed)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"model={name!r} cannot be loaded as {chosen.__name__}: {error}") from error
    # what it is told by afterwards
    pipe.register_to_config(_name_or_path=str(folder_of(name)))
    return pipe


def _changed(base: Path, folder: Path, dtype: torch.dtype) -> FluxTransformer2DModel:
    """The transformer whose difference from the one in ``base`` lies in ``folder``."""
    weights = load_file(base / "diffusion_pytorch_model.safetensors")
    state = deltas.load(folder, weights)
    config = {**FluxTransformer2DModel.load_config(base), "guidance_embeds": has_guidance(state)}
    model = FluxTransformer2DModel.from_config(config)
    model.load_state_dict(state)
    return model.to(dtype).eval()


def has_guidance(state: Mapping[str, Tensor]) -> bool:
    """Whether the weights of a flow-matching transformer take the guidance scale as an input."""
    return any(".guidance_embedder." in key for key in state)


def load_clip(dtype: torch.dtype = torch.float32, folder: Path = CLIP) -> tuple[CLIPModel, CLIPProcessor]:
    """The embedded CLIP, or one that training left in a folder, and its processor."""
    model = CLIPModel.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    return model.eval(), CLIPProcessor.from_pretrained(folder, local_files_only=True)


@cache
def load_judge() -> Judge:
    """The embedded judge, on the CPU; loaded once."""
    return Judge.load(JUDGE)


def save_pipeline(
    folder: Path,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerFast,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> None:
    """Write a text-to-image model in half precision, loadable by `StableDiffusionPipeline.from_pretrained`."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)


def save_clip(folder: Path, model: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a CLIP with its processor in half precision, loadable by plain transformers."""
    size = model.config.vision_config.image_size
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    model.half().save_pretrained(folder, safe_serialization=True)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
