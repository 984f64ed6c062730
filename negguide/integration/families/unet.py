"""The rows of the families with a UNet: Stable Diffusion 1.x/2.x and XL."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.common import (
    autoencoder_latents,
    each_text,
    guided_batch,
    lora_scale,
    off_up_to_one,
    own_scale,
    picture_size,
    read_by_clip,
)
from negguide.integration.family import Arguments, Family, Reading


def _unet_guidance_off(pipe: Any, arguments: Arguments) -> str | None:
    if pipe.unet.config.time_cond_proj_dim is not None:
        return "this UNet is distilled and takes guidance_scale as an input, so there is no second prediction"
    return off_up_to_one(pipe, arguments)


def _unet_latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    if arguments.get("latents") is not None:
        height, width = arguments["latents"].shape[-2:]
        return height, width
    pixels: tuple[int | None, int | None] = (arguments.get("height"), arguments.get("width"))
    # image-to-image and ControlNet take the size of the picture that they are given, inpainting the model's own
    picture = arguments.get("image") if arguments.get("mask_image") is None else None
    size: Any = pipe.unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    factor = pipe.vae_scale_factor
    if picture is not None and None in pixels:
        given = picture_size(picture)
        if isinstance(picture, Tensor) and picture.ndim == 4 and picture.shape[1] == 4:
            # image to image takes these for latents, as a base model hands them on to a refiner
            return given
        pixels = (8 * (given[0] // 8), 8 * (given[1] // 8))
    # Stable Diffusion takes its own size as soon as one side is missing; SDXL fills in the missing one
    one_missing = None in pixels and "prompt_2" not in arguments
    height, width = (
        side if not pixel or one_missing else int(pixel) // factor
        for pixel, side in zip(pixels, sides, strict=True)
    )
    return height, width


def _clip_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        list(texts),
        pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        lora_scale=lora_scale(arguments, "cross_attention_kwargs"),
        clip_skip=arguments["clip_skip"],
    )
    return each_text({"encoder_hidden_states": embeddings})


def _clip_reading(pipe: Any, text: str, arguments: Arguments, name: str = "tokenizer") -> Reading:
    # a textual inversion may be several tokens
    return read_by_clip(pipe, pipe.maybe_convert_prompt(text, getattr(pipe, name)), arguments, name)


STABLE_DIFFUSION = Family(
    name="Stable Diffusion 1.x/2.x",
    denoisers=("unet",),
    text_encoders=("text_encoder",),
    sample="sample",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    branches=guided_batch,
    scale=own_scale,
    guidance_off=_unet_guidance_off,
    latent_size=_unet_latent_size,
    encode_text=_clip_text,
    reading=_clip_reading,
    encode_image=autoencoder_latents,
    attention=((r"attn2$", "cross"),),
    # the choice published for SDXL at 1024 pixels, whose latents are 128 wide
    negtome_blocks=r"up_blocks\..*attn1$",
    negtome_min_side=32,
)


def _sdxl_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        list(texts),
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        lora_scale=lora_scale(arguments, "cross_attention_kwargs"),
        clip_skip=arguments["clip_skip"],
    )
    return each_text({"encoder_hidden_states": embeddings, "added_cond_kwargs.text_embeds": pooled})


def _sdxl_image(pipe: Any, pixels: Tensor) -> Tensor:
    config = pipe.vae.config
    # SDXL's autoencoder overflows in float16
    wide = config.get("force_upcast", False) and pipe.vae.dtype == torch.float16
    if wide:
        pipe.vae.to(torch.float32)
    try:
        latents = autoencoder_latents(pipe, pixels)
    finally:
        if wide:
            pipe.vae.to(torch.float16)
    if getattr(config, "latents_mean", None) is None or getattr(config, "latents_std", None) is None:
        return latents
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (config.latents_mean, config.latents_std)
    )
    return (latents - mean * config.scaling_factor) / std


STABLE_DIFFUSION_XL = Family(
    name="Stable Diffusion XL",
    denoisers=("unet",),
    text_encoders=("text_encoder_2",),
    sample="sample",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "added_cond_kwargs.text_embeds": "pooled"},
    branches=guided_batch,
    scale=own_scale,
    guidance_off=_unet_guidance_off,
    latent_size=_unet_latent_size,
    encode_text=_sdxl_text,
    reading=partial(_clip_reading, name="tokenizer_2"),
    encode_image=_sdxl_image,
    attention=((r"attn2$", "cross"),),
    # as published, t 1000->800
    negtome_blocks=r"up_blocks\..*attn1$",
    negtome_min_side=32,
    negtome_threshold=0.7,
    negtome_stop=0.2,
)
