"""Tiny random pipelines of Chroma: all parts there, nothing learnt."""

from typing import Any

import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    ChromaInpaintPipeline,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_joint import DYNAMIC, HEADS, flux_vae
from tiny_parts import T5_TEXT, Tiny, louder, picture, ready, size, t5, t5_tokenizer
from tiny_unet_and_cross import all_new, left_half


def built(kind: Any, seed: int) -> DiffusionPipeline:
    torch.manual_seed(seed)
    model = ChromaTransformer2DModel(
        **HEADS,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    # inpainting asks for it, and the class itself does not have it (diffusers 0.42)
    model.register_to_config(guidance_embeds=False)
    return ready(
        kind(
            transformer=louder(model, {"attn.": 2, "distilled_guidance_layer": 3, "proj_out": 2}),
            vae=flux_vae(),
            text_encoder=t5(32),
            tokenizer=t5_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        )
    )


def chroma() -> DiffusionPipeline:
    return built(ChromaPipeline, 71)


def chroma_img2img() -> DiffusionPipeline:
    return built(ChromaImg2ImgPipeline, 72)


def chroma_inpaint() -> DiffusionPipeline:
    return built(ChromaInpaintPipeline, 73)


HALF: dict[str, Any] = {"strength": 0.5}
"""2 steps are 1, 4 are 2, 5 are 3."""
CALL: dict[str, Any] = {**T5_TEXT, "guidance_scale": 3.0, "negative_prompt": ""}
MASKED: dict[str, Any] = {**HALF, "image": picture, "mask_image": left_half}
EACH: dict[str, Any] = {"like": "chroma", "image_each": True}

TINY: tuple[Tiny, ...] = (
    Tiny("chroma", chroma, size(**CALL)),
    Tiny("chroma-img2img", chroma_img2img, size(**CALL, **HALF, image=picture), **EACH),
    Tiny("chroma-inpaint", chroma_inpaint, size(**CALL, **MASKED), **EACH, alike=all_new),
)
