"""Sana and Sana Sprint: a transformer with linear self-attention that meets Gemma's text in cross-attention."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family
from negguide.integration.families.common import (
    binned_size,
    call_guidance_scale,
    caption_channels,
    cleaned_token_budget,
    disabled_up_to_one,
    encode_masked_text,
    lora_scale,
    size_of,
    split_texts,
    uncond_first,
    without_variances,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    return encode_masked_text(
        pipe,
        texts,
        arguments,
        # Sana puts its instruction before the prompt alone, never before a negative
        complex_human_instruction=None,
        lora_scale=lora_scale(arguments, "attention_kwargs"),
    )


def _bins(sample_size: int) -> Any:
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha as alpha
    from diffusers.pipelines.sana import pipeline_sana as sana

    tables = {128: "ASPECT_RATIO_4096_BIN", 64: "ASPECT_RATIO_2048_BIN", 32: "ASPECT_RATIO_1024_BIN"}
    name = tables.get(sample_size, "ASPECT_RATIO_512_BIN")
    return getattr(sana, name, None) or getattr(alpha, name)


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    # a deep autoencoder, without a distribution
    latents = pipe.vae.encode(pixels.to(pipe._execution_device, pipe.vae.dtype)).latent
    result: Tensor = latents * pipe.vae.config.scaling_factor
    return result


def _noise(config: Any) -> float:
    # Sana Sprint, which embeds its guidance, counts from 1
    return 1.0 if config.guidance_embeds else 1000.0 * config.timestep_scale


_latent_size = binned_size(lambda pipe: 1024, _bins)


def _controlled_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """A control image that is a tensor is taken as it is, and the image has its size."""
    image = arguments["control_image"]
    if isinstance(image, Tensor) and arguments["latents"] is None:
        height, width = image.shape[-2:]
        return height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
    return _latent_size(pipe, arguments)


def _encode_sprint_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, mask = pipe.encode_prompt(
        list(texts),
        num_images_per_prompt=1,
        device=pipe._execution_device,
        clean_caption=arguments["clean_caption"],
        max_sequence_length=arguments["max_sequence_length"],
        # as in Sana, before the prompt alone
        complex_human_instruction=None,
        lora_scale=lora_scale(arguments, "attention_kwargs"),
    )
    return split_texts({"encoder_hidden_states": embeddings, "encoder_attention_mask": mask})


def _sprint_cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    return "Sana Sprint is distilled and takes guidance_scale as an input, so there is no second prediction"


SANA = Family(
    name="Sana",
    pipelines=("SanaPipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_attention_mask": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"},
    batched=("timestep", "guidance", "attention_mask", "controlnet_block_samples"),
    controls=("controlnet_block_samples",),
    branches=uncond_first,
    upcasts=True,
    guidance_scale=call_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=_latent_size,
    encode_text=_encode_text,
    padded_text=True,
    token_budget=cleaned_token_budget,
    encode_image=_encode_image,
    prediction_slice=without_variances,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
    denoiser=Denoiser(
        classes=("SanaTransformer2DModel",),
        text_channels=caption_channels,
        noise=_noise,
        latent_size=size_of("hidden_states"),
    ),
)

SANA_CONTROLNET = replace(
    SANA,
    name="Sana with a ControlNet",
    pipelines=("SanaControlNetPipeline",),
    latent_size=_controlled_size,
    denoiser=None,
    modular=None,
)
SANA_SPRINT = replace(
    SANA,
    name="Sana Sprint",
    pipelines=("SanaSprintPipeline", "SanaSprintImg2ImgPipeline"),
    branches=lambda pipe, arguments: ("cond",),
    cfg_disabled_reason=_sprint_cfg_disabled,
    guided=False,
    encode_text=_encode_sprint_text,
    # its scheduler does not say how an image is noised
    encode_image=None,
    denoiser=None,
    modular=None,
)

register_family(SANA)
register_family(SANA_CONTROLNET)
register_family(SANA_SPRINT)
