"""Stable Diffusion 1.x and 2.x: a UNet that meets CLIP's text in cross-attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from negguide.integration.families.base import Arguments, Denoiser, Family
from negguide.integration.families.common import (
    UNET_BATCHED,
    inversion_token_budget,
    is_sdxl,
    lora_scale,
    pipe_guidance_scale,
    size_of,
    split_texts,
    uncond_first,
    unet_cfg_disabled,
    unet_channels,
    unet_size,
    vae_latents,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        list(texts),
        pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        lora_scale=lora_scale(arguments, "cross_attention_kwargs"),
        clip_skip=arguments["clip_skip"],
    )
    return split_texts({"encoder_hidden_states": embeddings})


STABLE_DIFFUSION = Family(
    name="Stable Diffusion 1.x/2.x",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionControlNetPipeline",
    ),
    denoisers=("unet",),
    text_encoders=("text_encoder",),
    sample="sample",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    batched=UNET_BATCHED,
    branches=uncond_first,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=unet_cfg_disabled,
    latent_size=partial(unet_size, fills_in_missing_side=False),
    encode_text=_encode_text,
    token_budget=inversion_token_budget,
    encode_image=vae_latents,
    attention=((r"attn2$", "cross"),),
    # the choice published for SDXL at 1024 pixels, whose latents are 128 wide
    negtome_blocks=r"up_blocks\..*attn1$",
    negtome_min_side=32,
    dtype=torch.float16,
    denoiser=Denoiser(
        classes=("UNet2DConditionModel",),
        text_channels=unet_channels,
        noise=lambda config: 1000.0,
        latent_size=size_of("sample"),
        matches=lambda config: not is_sdxl(config),
    ),
)

register_family(STABLE_DIFFUSION)
