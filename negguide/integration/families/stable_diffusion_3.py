"""Stable Diffusion 3 and 3.5: a transformer with joint attention over text and image."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.common import (
    clip_token_budget,
    disabled_up_to_one,
    image_latents_size,
    image_size,
    joint_attention_channels,
    lora_scale,
    pipe_guidance_scale,
    pooled_channels,
    requested_size,
    sequence_token_budget,
    size_of,
    split_texts,
    uncond_first,
    vae_latents,
)
from negguide.integration.families.registry import register_family


def _encode_text(
    pipe: Any, texts: Sequence[str], arguments: Arguments, scales_lora: bool = True
) -> list[dict[str, Any]]:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        list(texts),
        None,
        None,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        clip_skip=arguments["clip_skip"],
        max_sequence_length=arguments["max_sequence_length"],
        lora_scale=lora_scale(arguments, "joint_attention_kwargs") if scales_lora else None,
    )
    return split_texts({"encoder_hidden_states": embeddings, "pooled_projections": pooled})


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    budgets = [clip_token_budget(pipe, text, arguments, "tokenizer_2")]
    if pipe.text_encoder_3 is not None:
        budgets.append(sequence_token_budget(pipe, text, arguments, "tokenizer_3"))
    return max(budgets, key=lambda budget: budget.limit - budget.tokens)


_requested_size = requested_size(lambda pipe: pipe.default_sample_size * pipe.vae_scale_factor)


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """An image given as latents, and a tensor for one ControlNet, are not resized: the picture has their size."""
    if arguments.get("latents") is None:
        size = image_latents_size(pipe, arguments.get("image"))
        if size is not None:
            return size
        control = arguments.get("control_image")
        if isinstance(control, Tensor):
            height, width = image_size(control)
            return height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
    return _requested_size(pipe, arguments)


STABLE_DIFFUSION_3 = Family(
    name="Stable Diffusion 3",
    pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2"),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "pooled_projections": "pooled"},
    embeds={"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"},
    channels={"pooled_prompt_embeds": pooled_channels},
    batched=(
        "timestep",
        "block_controlnet_hidden_states",
        "joint_attention_kwargs.ip_adapter_image_embeds",
    ),
    controls=("block_controlnet_hidden_states",),
    branches=uncond_first,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=_latent_size,
    encode_text=_encode_text,
    padded_text=True,
    token_budget=_token_budget,
    encode_image=vae_latents,
    # a further call without some layers, for the pipeline's skip_guidance_layers
    is_auxiliary=lambda inputs: inputs.get("skip_layers") is not None,
    attention=((r"^transformer_blocks\.\d+\.attn$", "image first"),),
    negtome_blocks=r"\.attn$",
    denoiser=Denoiser(
        classes=("SD3Transformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1000.0,
        latent_size=size_of("hidden_states"),
    ),
    modular=Modular(
        "stable-diffusion-3",
        fields={"encoder_hidden_states": "prompt_embeds", "text_embeds": "pooled_prompt_embeds"},
    ),
)

STABLE_DIFFUSION_3_CONTROLLED = replace(
    STABLE_DIFFUSION_3,
    name="Stable Diffusion 3 with ControlNet or mask",
    pipelines=(
        # the transformer trained for it, with mask and masked image as further channels, and the ordinary one
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
    ),
    # they encode the prompt without a scale for the text encoders' LoRAs
    encode_text=partial(_encode_text, scales_lora=False),
    denoiser=None,
    modular=None,
)

register_family(STABLE_DIFFUSION_3)
register_family(STABLE_DIFFUSION_3_CONTROLLED)
