"""AnimateDiff: the UNets of Stable Diffusion and SDXL with motion modules between, in which frames see one another.

The UNet takes each frame for an image, with the prompt for each. Negatives are the same for all frames, and a mask lies
over each of them. NegToMe matches a token with those of all frames of the other videos, as on other video models; a
pipeline makes one video of each prompt, so that the videos are those of a list of prompts, with `group_size`.
"""

from dataclasses import replace
from typing import Any

from negguide.integration.families.base import Arguments, Family
from negguide.integration.families.common import (
    call_guidance_scale,
    pipe_guidance_scale,
    unet_channels,
    unet_size,
)
from negguide.integration.families.registry import register_family
from negguide.integration.families.stable_diffusion import STABLE_DIFFUSION
from negguide.integration.families.stable_diffusion_xl import STABLE_DIFFUSION_XL


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """That of height and width, a missing side being the model's own.

    Raises:
        ValueError: the call has what cannot be carried.
    """
    _check(pipe, arguments)
    return unet_size(pipe, arguments, fills_in_missing_side=True)


def _check(pipe: Any, arguments: Arguments) -> None:
    videos, kind = arguments["num_videos_per_prompt"], type(pipe).__name__
    if videos not in (None, 1):
        raise ValueError(
            f"num_videos_per_prompt is {videos}, and {kind} makes one video of each prompt whatever it is; give 1, and "
            "the prompt several times in a list"
        )
    if isinstance(arguments["prompt"], dict):
        raise ValueError(
            f"prompt is a dict of prompts for frames, {arguments['prompt']!r}; beside negatives give one prompt for "
            "the whole video"
        )
    if getattr(pipe, "free_init_enabled", False):
        raise ValueError(
            "FreeInit runs the steps several times over, in which windows have no place; call pipe.disable_free_init() "
            "before a call with negative_guidance="
        )
    if getattr(pipe, "free_noise_enabled", False):
        raise ValueError(
            "FreeNoise takes a video apart inside the model; call pipe.disable_free_noise() before a call with "
            "negative_guidance="
        )
    if (arguments.get("cross_attention_kwargs") or {}).get("ip_adapter_masks") is not None:
        raise ValueError(
            f"cross_attention_kwargs holds ip_adapter_masks, which {kind} cannot have beside negative_guidance=; leave "
            "them out"
        )


def _animated(family: Family, name: str, *pipelines: str) -> Family:
    """A family of images with motion modules, which have attention too, but none to text or inside a frame."""
    return replace(
        family,
        name=name,
        pipelines=pipelines,
        frame_rows=(
            "encoder_hidden_states",
            "down_block_additional_residuals",
            "mid_block_additional_residual",
        ),
        channels={**family.channels, "prompt_embeds": lambda config: (unet_channels(config),)},
        latent_size=_latent_size,
        attention=((r"attentions\..*attn2$", "cross"),),
        negtome_blocks=r"up_blocks\..*attentions\..*attn1$",
        # a picture has no frames
        encode_image=None,
        denoiser=None,
        modular=None,
    )


ANIMATEDIFF = replace(
    _animated(
        STABLE_DIFFUSION,
        "AnimateDiff",
        "AnimateDiffPipeline",
        "AnimateDiffControlNetPipeline",
        "AnimateDiffVideoToVideoPipeline",
    ),
    guidance_scale=call_guidance_scale,
)
ANIMATEDIFF_SDXL = replace(
    _animated(STABLE_DIFFUSION_XL, "AnimateDiff SDXL", "AnimateDiffSDXLPipeline"),
    guidance_scale=pipe_guidance_scale,
)

register_family(ANIMATEDIFF)
register_family(ANIMATEDIFF_SDXL)
