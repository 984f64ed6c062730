"""Load the models that ship with the package, and write them in that form."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    PreTrainedTokenizerFast,
)

from negguide.toyworld.judge import Judge

WEIGHTS = Path(__file__).parent / "weights"
TEXT_TO_IMAGE = WEIGHTS / "text-to-image"
CLIP = WEIGHTS / "clip"
JUDGE = WEIGHTS / "judge"


def load_pipeline(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The embedded text-to-image model, a plain `StableDiffusionPipeline` for 64x64 images."""
    return StableDiffusionPipeline.from_pretrained(str(TEXT_TO_IMAGE), dtype=dtype, local_files_only=True)


def load_clip(dtype: torch.dtype = torch.float32) -> tuple[CLIPModel, CLIPProcessor]:
    """The embedded CLIP and its processor."""
    model = CLIPModel.from_pretrained(CLIP, dtype=dtype, local_files_only=True)
    return model.eval(), CLIPProcessor.from_pretrained(CLIP, local_files_only=True)


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
