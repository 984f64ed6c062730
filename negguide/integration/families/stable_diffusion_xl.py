"""Stable Diffusion XL: a UNet that meets the text of two CLIPs in cross-attention, and pooled beside the timestep."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular
from negguide.integration.families.common import (
    UNET_BATCHED,
    UNET_CONTROLS,
    call_guidance_scale,
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
from negguide.methods import Timestep


def _encode_text(
    pipe: Any, texts: Sequence[str], arguments: Arguments, scales_lora: bool = True
) -> list[dict[str, Any]]:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        list(texts),
        device=pipe._execution_device,
        do_classifier_free_guidance=False,
        lora_scale=lora_scale(arguments, "cross_attention_kwargs") if scales_lora else None,
        clip_skip=arguments["clip_skip"],
    )
    return split_texts({"encoder_hidden_states": embeddings, "added_cond_kwargs.text_embeds": pooled})


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    config = pipe.vae.config
    # SDXL's autoencoder overflows in float16
    upcast = config.get("force_upcast", False) and pipe.vae.dtype == torch.float16
    if upcast:
        pipe.vae.to(torch.float32)
    try:
        latents = vae_latents(pipe, pixels)
    finally:
        if upcast:
            pipe.vae.to(torch.float16)
    if getattr(config, "latents_mean", None) is None or getattr(config, "latents_std", None) is None:
        return latents
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (config.latents_mean, config.latents_std)
    )
    normalised: Tensor = (latents - mean * config.scaling_factor) / std
    return normalised


def _pooled_channels(config: Any) -> tuple[int, ...]:
    """They share an input with 6 numbers about the image, or 5 in the refiner."""
    whole, each = int(config.projection_class_embeddings_input_dim), int(config.addition_time_embed_dim)
    return whole - 6 * each, whole - 5 * each


STABLE_DIFFUSION_XL = Family(
    name="Stable Diffusion XL",
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    ),
    denoisers=("unet",),
    text_encoders=("text_encoder_2",),
    sample="sample",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "added_cond_kwargs.text_embeds": "pooled"},
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "added_cond_kwargs.text_embeds": "pooled_prompt_embeds",
    },
    channels={"pooled_prompt_embeds": _pooled_channels},
    batched=(*UNET_BATCHED, "added_cond_kwargs.time_ids"),
    controls=UNET_CONTROLS,
    branches=uncond_first,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=unet_cfg_disabled,
    latent_size=partial(unet_size, fills_in_missing_side=True),
    encode_text=_encode_text,
    token_budget=partial(inversion_token_budget, name="tokenizer_2"),
    encode_image=_encode_image,
    attention=((r"attn2$", "cross"),),
    # as published
    negtome_blocks=r"up_blocks\..*attn1$",
    negtome_min_side=32,
    defaults={"NegToMe": {"threshold": 0.7, "stop": Timestep(800)}, "NAG": {"scale": 3.0}},
    dtype=torch.float16,
    denoiser=Denoiser(
        classes=("UNet2DConditionModel",),
        text_channels=unet_channels,
        noise=lambda config: 1000.0,
        latent_size=size_of("sample"),
        matches=is_sdxl,
    ),
    modular=Modular(
        "stable-diffusion-xl",
        fields={"prompt_embeds": "prompt_embeds", "text_embeds": "pooled_prompt_embeds"},
    ),
)

STABLE_DIFFUSION_XL_CONTROLLED = replace(
    STABLE_DIFFUSION_XL,
    name="Stable Diffusion XL with ControlNet",
    pipelines=(
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
    ),
    # they combine the branches by the argument, whatever a callback makes of the pipeline's own scale
    guidance_scale=call_guidance_scale,
    denoiser=None,
    modular=None,
)

STABLE_DIFFUSION_XL_ADAPTER = replace(
    STABLE_DIFFUSION_XL_CONTROLLED,
    name="Stable Diffusion XL with T2I-Adapter",
    pipelines=("StableDiffusionXLAdapterPipeline",),
    # which leaves the LoRA of its text encoders as it is
    encode_text=partial(_encode_text, scales_lora=False),
)

for _family in (STABLE_DIFFUSION_XL, STABLE_DIFFUSION_XL_CONTROLLED, STABLE_DIFFUSION_XL_ADAPTER):
    register_family(_family)
