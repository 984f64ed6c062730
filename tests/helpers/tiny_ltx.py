"""Tiny random pipelines of LTX-Video."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from tiny_parts import T5_TEXT, Tiny, louder, ready, size, t5, t5_tokenizer
from torch import Tensor


def parts() -> dict[str, Any]:
    model = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=40,
    )
    # a latent of 4 x 4 pixels and 4 frames
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )
    strong = {"attn1.to_": 2, "attn2.to_": 2, "caption_projection": 2}
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(40),
        "vae": vae,
        "transformer": louder(model, strong),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


def ltx() -> DiffusionPipeline:
    torch.manual_seed(40)
    return ready(LTXPipeline(**parts()))


def ltx_i2v() -> DiffusionPipeline:
    torch.manual_seed(41)
    return ready(LTXImageToVideoPipeline(**parts()))


def small_picture() -> Tensor:
    """An image, float [1, 3, 32, 32] within 0 and 1."""
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))


VIDEO: dict[str, Any] = {"side": 32, "video": True, "reference_images": False}

TINY: tuple[Tiny, ...] = (
    Tiny("ltx", ltx, size(32, num_frames=9, **T5_TEXT), **VIDEO),
    Tiny(
        "ltx-i2v",
        ltx_i2v,
        size(32, image=small_picture, num_frames=9, **T5_TEXT),
        like="ltx",
        image_each=True,
        **VIDEO,
    ),
)
