"""Stable Diffusion 1.x and 2.x: a UNet that meets CLIP's text in cross-attention."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from negguide.integration.families.base import NEGTOME_DISCRETE, Arguments, Denoiser, Family
from negguide.integration.families.common import (
    UNET_BATCHED,
    UNET_CONTROLS,
    call_guidance_scale,
    clip_token_budget,
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


def _encode_text(
    pipe: Any, texts: Sequence[str], arguments: Arguments, scales_lora: bool = True
) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        list(texts),
        pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        lora_scale=lora_scale(arguments, "cross_attention_kwargs") if scales_lora else None,
        clip_skip=arguments["clip_skip"],
    )
    return split_texts({"encoder_hidden_states": embeddings})


STABLE_DIFFUSION = Family(
    name="Stable Diffusion 1.x/2.x",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionDepth2ImgPipeline",
    ),
    denoisers=("unet",),
    text_encoders=("text_encoder",),
    sample="sample",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    batched=UNET_BATCHED,
    controls=UNET_CONTROLS,
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
    defaults={"NegToMe": NEGTOME_DISCRETE},
    dtype=torch.float16,
    denoiser=Denoiser(
        classes=("UNet2DConditionModel",),
        text_channels=unet_channels,
        noise=lambda config: 1000.0,
        latent_size=size_of("sample"),
        matches=lambda config: not is_sdxl(config),
    ),
)

STABLE_DIFFUSION_INPAINT = replace(
    STABLE_DIFFUSION,
    name="Stable Diffusion 1.x/2.x inpainting",
    pipelines=("StableDiffusionInpaintPipeline",),
    latent_size=partial(unet_size, fills_in_missing_side=True),
    denoiser=None,
)

STABLE_DIFFUSION_CONTROLLED = replace(
    STABLE_DIFFUSION,
    name="Stable Diffusion 1.x/2.x with ControlNet and image",
    pipelines=("StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionControlNetInpaintPipeline"),
    # they combine the branches by the argument, whatever a callback makes of the pipeline's own scale
    guidance_scale=call_guidance_scale,
    denoiser=None,
)

STABLE_DIFFUSION_ADAPTER = replace(
    STABLE_DIFFUSION_CONTROLLED,
    name="Stable Diffusion 1.x/2.x with T2I-Adapter",
    pipelines=("StableDiffusionAdapterPipeline",),
    # neither textual inversions nor a scale for the text encoder's LoRA
    encode_text=partial(_encode_text, scales_lora=False),
    token_budget=clip_token_budget,
)

LATENT_CONSISTENCY = replace(
    STABLE_DIFFUSION_INPAINT,
    name="Latent Consistency Models",
    pipelines=("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
    guided=False,
)

for _family in (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_INPAINT,
    STABLE_DIFFUSION_CONTROLLED,
    STABLE_DIFFUSION_ADAPTER,
    LATENT_CONSISTENCY,
):
    register_family(_family)
