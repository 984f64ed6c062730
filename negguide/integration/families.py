"""What is particular to a model family, as data: one row each. Nothing else in this package names a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Family:
    """One row. `pipe` below is the diffusers pipeline, `arguments` its call's arguments by name, defaults included.

    Attributes:
        name: for messages.
        denoiser: the pipeline's attribute that holds the denoiser.
        sample, timestep: names of the denoiser's inputs that hold the noisy latents [rows, C, H, W] and the timestep.
        text: names of the denoiser's inputs that carry the prompt; a negative replaces exactly these.
        branches: `branches(pipe)` -> what one denoiser call holds along its batch, in order: "uncond" and "cond", each
            as many rows as there are images. Asked at each step: a callback may switch guidance off.
        guidance_off: `guidance_off(pipe, arguments)` -> why this call runs without classifier-free guidance, so that
            score-space methods cannot act; None when it runs with it.
        latent_size: `latent_size(pipe, arguments)` -> (height, width) of the latents of this call.
        encode_text: `encode_text(pipe, texts, arguments)` -> {text input: [len(texts), ...]}, by the pipeline itself.
        encode_image: `encode_image(pipe, pixels)` -> latents; pixels [R, 3, H, W] in [-1, 1].
        negtome_blocks, negtome_min_side: where NegToMe acts unless told: modules whose name matches, on feature maps
            with a shorter side of at least negtome_min_side, or half the latent's shorter side where that is less.
    """

    name: str
    denoiser: str
    sample: str
    timestep: str
    text: tuple[str, ...]
    branches: Callable[[Any], tuple[str, ...]]
    guidance_off: Callable[[Any, Mapping[str, Any]], str | None]
    latent_size: Callable[[Any, Mapping[str, Any]], tuple[int, int]]
    encode_text: Callable[[Any, list[str], Mapping[str, Any]], dict[str, torch.Tensor]]
    encode_image: Callable[[Any, torch.Tensor], torch.Tensor]
    negtome_blocks: str
    negtome_min_side: int


def _batched_guidance(pipe: Any) -> tuple[str, ...]:
    return ("uncond", "cond") if pipe.do_classifier_free_guidance else ("cond",)


def _unet_guidance_off(pipe: Any, arguments: Mapping[str, Any]) -> str | None:
    if pipe.unet.config.time_cond_proj_dim is not None:
        return "this UNet is distilled and takes guidance_scale as an input, so there is no second prediction"
    if not arguments["guidance_scale"] > 1:
        return f"guidance_scale is {arguments['guidance_scale']}, and guidance is off up to 1; use e.g. 7.5"
    return None


def _unet_latent_size(pipe: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    if arguments["latents"] is not None:
        height, width = arguments["latents"].shape[-2:]
        return height, width
    if arguments["height"] and arguments["width"]:
        height, width = int(arguments["height"]), int(arguments["width"])
        return height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
    size = pipe.unet.config.sample_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _clip_encode_text(pipe: Any, texts: list[str], arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    if pipe.text_encoder is None or pipe.tokenizer is None:
        raise ValueError("negative_guidance needs the pipeline's text_encoder and tokenizer, and one is None")
    embeddings, _ = pipe.encode_prompt(
        texts,
        pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        lora_scale=(arguments["cross_attention_kwargs"] or {}).get("scale"),
        clip_skip=arguments["clip_skip"],
    )
    return {"encoder_hidden_states": embeddings}


def _vae_encode_image(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    encoded = pipe.vae.encode(pixels.to(pipe._execution_device, pipe.vae.dtype))
    # AutoencoderTiny gives latents; AutoencoderKL a distribution, whose mode needs no random numbers
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return latents * pipe.vae.config.scaling_factor


STABLE_DIFFUSION = Family(
    name="Stable Diffusion 1.x/2.x",
    denoiser="unet",
    sample="sample",
    timestep="timestep",
    text=("encoder_hidden_states",),
    branches=_batched_guidance,
    guidance_off=_unet_guidance_off,
    latent_size=_unet_latent_size,
    encode_text=_clip_encode_text,
    encode_image=_vae_encode_image,
    # the choice published for SDXL at 1024 pixels, whose latents are 128 wide
    negtome_blocks=r"up_blocks\..*attn1$",
    negtome_min_side=32,
)
