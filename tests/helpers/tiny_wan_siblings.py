"""Tiny random siblings of Wan: from an image, from a video, and VACE."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from tiny_parts import T5_TEXT, Tiny, louder, picture, ready, size, t5, t5_tokenizer
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 40,
    "freq_dim": 64,
    "ffn_dim": 64,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
STRONG = {"attn1.to_": 2, "attn2.to_": 2, "text_embedder": 2}
IMAGE = 32
"""How many channels a token of an image prompt has."""


def parts() -> dict[str, Any]:
    vae = AutoencoderKLWan(
        base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    flow = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(40, multilingual=True),
        "vae": vae,
        "scheduler": flow,
    }


def wan_i2v() -> DiffusionPipeline:
    """As 2.1: the image is seen by CLIP, whose tokens attention has before the text's, and is channels of the input."""
    torch.manual_seed(30)
    model = WanTransformer3DModel(**{**TRANSFORMER, "in_channels": 36}, image_dim=IMAGE, added_kv_proj_dim=48)
    # most of 512 tokens are padding
    strong = {**STRONG, "text_embedder": 3, "attn2.to_k": 2, "attn2.to_q": 2}
    vision = CLIPVisionConfig(
        hidden_size=IMAGE,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    return ready(
        WanImageToVideoPipeline(
            **parts(),
            transformer=louder(model, strong),
            image_encoder=CLIPVisionModel(vision),
            image_processor=CLIPImageProcessor(size=32, crop_size=32),
        )
    )


def wan_i2v_channels() -> DiffusionPipeline:
    """As 2.2: the image is channels of the input alone."""
    torch.manual_seed(31)
    model = WanTransformer3DModel(**{**TRANSFORMER, "in_channels": 36})
    return ready(WanImageToVideoPipeline(**parts(), transformer=louder(model, STRONG)))


def wan_i2v_first_frame() -> DiffusionPipeline:
    """As 2.2 5B: the image is the first frame, whose tokens are at timestep 0."""
    torch.manual_seed(32)
    model = louder(WanTransformer3DModel(**TRANSFORMER), STRONG)
    return ready(WanImageToVideoPipeline(**parts(), transformer=model, expand_timesteps=True))


def wan_v2v() -> DiffusionPipeline:
    torch.manual_seed(33)
    model = louder(WanTransformer3DModel(**TRANSFORMER), STRONG)
    return ready(WanVideoToVideoPipeline(**parts(), transformer=model))


def wan_vace() -> DiffusionPipeline:
    torch.manual_seed(34)
    # what is given: 2 x 16 channels of it, and 64 of its mask
    model = WanVACETransformer3DModel(**TRANSFORMER, vace_layers=[0, 1], vace_in_channels=96)
    return ready(WanVACEPipeline(**parts(), transformer=louder(model, STRONG)))


def frames() -> Tensor:
    """A video of 5 frames, float [1, 5, 3, 64, 64] within 0 and 1."""
    return torch.rand(1, 5, 3, 64, 64, generator=torch.Generator().manual_seed(8))


def from_video() -> dict[str, Any]:
    return {**size()(), "video": frames(), "strength": 0.6, **T5_TEXT}


I2V = size(image=picture, num_frames=5, **T5_TEXT)
VIDEO: dict[str, Any] = {"video": True, "reference_images": False}

TINY: tuple[Tiny, ...] = (
    Tiny("wan-i2v", wan_i2v, size(image=picture, num_frames=5), like="wan", one_each=True, **VIDEO),
    Tiny("wan-i2v-channels", wan_i2v_channels, I2V, like="wan", **VIDEO),
    Tiny("wan-i2v-first-frame", wan_i2v_first_frame, I2V, like="wan", **VIDEO),
    Tiny("wan-v2v", wan_v2v, from_video, like="wan", one_each=True, **VIDEO),
    Tiny(
        "wan-vace",
        wan_vace,
        size(video=frames, num_frames=5, **T5_TEXT),
        one_prompt=True,
        one_each=True,
        **VIDEO,
    ),
)
