"""Z-Image: a transformer over one sequence of image and text, whose inputs are lists of one tensor a row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Family, ImageBehindText, Modular
from negguide.integration.families.common import (
    chat_token_budget,
    cond_first,
    image_size,
    patch_tokens,
    requested_size,
    vae_latents,
)
from negguide.integration.families.registry import register_family


def _branches(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    truncation, scheduler = arguments["cfg_truncation"], pipe.scheduler
    if truncation is not None and truncation < 1:
        # guidance ends where so much of the way from noise to image is done
        # before its first step a scheduler knows only where image to image begins
        index = scheduler.begin_index if scheduler.step_index is None else scheduler.step_index
        timestep = scheduler.timesteps[index or 0].float()
        if float((1000 - timestep) / 1000) > truncation:
            return ("cond",)
    return cond_first(pipe, arguments)


def _guidance_scale(pipe: Any, arguments: Arguments) -> float:
    """Z-Image computes c + s (c - u), which is u + (1 + s) (c - u)."""
    return 1.0 + float(pipe.guidance_scale)


def _cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    scale = arguments["guidance_scale"]
    return None if scale > 0 else f"guidance_scale is {scale}, and Z-Image's guidance is off at 0; use e.g. 4"


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        prompt=list(texts),
        device=pipe._execution_device,
        do_classifier_free_guidance=False,
        max_sequence_length=arguments["max_sequence_length"],
    )
    return [{"cap_feats": [row]} for row in embeddings]


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    return vae_latents(pipe, pixels).unsqueeze(2)


def _image_tokens(sample: Any, latent_size: tuple[int, int]) -> tuple[int, int]:
    tokens = patch_tokens(latent_size)
    # padded to whole 32s
    return tokens, -(-tokens // 32) * 32


def _image_starts(inputs: Mapping[str, Any]) -> list[int]:
    """Behind the text, which is filled up to whole 32s."""
    return [-(-len(text) // 32) * 32 for text in inputs["cap_feats"]]


def _rotation(model: Any) -> tuple[float, int]:
    return float(model.rope_theta), int(model.axes_dims[0])


def _size_of_image(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """A side that is not given is that of the image, in whole patches."""
    if arguments.get("latents") is not None:
        height, width = arguments["latents"].shape[-2:]
        return height, width
    patch = 2 * pipe.vae_scale_factor
    sides = image_size(arguments["image"])
    height, width = (
        patch * (side // patch) if arguments[name] is None else int(arguments[name])
        for name, side in zip(("height", "width"), sides, strict=True)
    )
    return 2 * (height // patch), 2 * (width // patch)


def _controlled_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """A control image that is a tensor is not resized, and the generated image has its size."""
    image = arguments["control_image"]
    if not isinstance(image, Tensor):
        return requested_size(lambda pipe: 1024)(pipe, arguments)
    height, width = image.shape[-2:]
    return height // pipe.vae_scale_factor, width // pipe.vae_scale_factor


def _size_of_rows(inputs: Mapping[str, Any]) -> tuple[int, int]:
    height, width = inputs["x"][0].shape[-2:]
    return height, width


Z_IMAGE = Family(
    name="Z-Image",
    pipelines=("ZImagePipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="x",
    timestep="t",
    text={"cap_feats": "tokens"},
    # a list of one tensor [tokens, channels] for each prompt
    embeds={"cap_feats": "prompt_embeds"},
    channels={"prompt_embeds": lambda config: (int(config.cap_feat_dim),)},
    batched=("t",),
    row_lists=("x", "cap_feats"),
    branches=_branches,
    upcasts=True,
    guidance_scale=_guidance_scale,
    cfg_disabled_reason=_cfg_disabled,
    latent_size=requested_size(lambda pipe: 1024),
    encode_text=_encode_text,
    token_budget=partial(chat_token_budget, thinking=True),
    encode_image=_encode_image,
    image_tokens=_image_tokens,
    negative_rows=True,
    image_behind_text=ImageBehindText(_image_starts, _rotation),
    attention=((r"^layers\.\d+\.attention$", "image first"),),
    negtome_blocks=r"^layers\.\d+\.attention$",
    # its transformer takes no attention processors
    denoiser=None,
    modular=Modular("z-image", fields={"cap_feats": "prompt_embeds"}, latent_size=_size_of_rows),
)

Z_IMAGE_FROM_IMAGE = replace(
    Z_IMAGE,
    name="Z-Image with image",
    pipelines=("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    latent_size=_size_of_image,
    modular=None,
)

Z_IMAGE_CONTROLNET = replace(
    Z_IMAGE,
    name="Z-Image with ControlNet",
    pipelines=("ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline"),
    latent_size=_controlled_size,
    batched=("t", "controlnet_block_samples"),
    deferred={"controlnet_block_samples": "controlnet"},
    controls=("controlnet_block_samples",),
    modular=None,
)

register_family(Z_IMAGE)
register_family(Z_IMAGE_FROM_IMAGE)
register_family(Z_IMAGE_CONTROLNET)
