"""PixArt-alpha and -Sigma: a transformer that meets T5's text in cross-attention."""

from dataclasses import replace
from typing import Any

import torch

from negguide.integration.families.base import Arguments, Denoiser, Family
from negguide.integration.families.common import (
    binned_size,
    call_guidance_scale,
    caption_channels,
    cleaned_token_budget,
    disabled_up_to_one,
    encode_masked_text,
    size_of,
    vae_latents,
    without_variances,
)
from negguide.integration.families.registry import register_family
from negguide.methods import Timestep


def _branches(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    return ("uncond", "cond") if arguments["guidance_scale"] > 1 else ("cond",)


def _bins(sample_size: int) -> Any:
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha as alpha
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_sigma as sigma

    tables = {256: "ASPECT_RATIO_2048_BIN", 128: "ASPECT_RATIO_1024_BIN", 64: "ASPECT_RATIO_512_BIN"}
    name = tables.get(sample_size, "ASPECT_RATIO_256_BIN")
    return getattr(sigma, name, None) or getattr(alpha, name)


PIXART = Family(
    name="PixArt-Sigma",
    pipelines=("PixArtSigmaPipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_attention_mask": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"},
    batched=(
        "timestep",
        "attention_mask",
        # PixArt-alpha's sizes; the pipelines of Sigma leave them out
        "added_cond_kwargs.resolution",
        "added_cond_kwargs.aspect_ratio",
    ),
    branches=_branches,
    guidance_scale=call_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=binned_size(lambda pipe: pipe.transformer.config.sample_size * pipe.vae_scale_factor, _bins),
    encode_text=encode_masked_text,
    padded_text=True,
    token_budget=cleaned_token_budget,
    encode_image=vae_latents,
    prediction_slice=without_variances,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
    # its betas are linear: at 600 the noise has the share of the mixture that it has in SDXL at 800
    defaults={"NegToMe": {"threshold": 0.65, "stop": Timestep(600)}},
    dtype=torch.float16,
    denoiser=Denoiser(
        classes=("PixArtTransformer2DModel",),
        text_channels=caption_channels,
        noise=lambda config: 1000.0,
        latent_size=size_of("hidden_states"),
    ),
)

PIXART_ALPHA = replace(
    PIXART, name="PixArt-alpha", pipelines=("PixArtAlphaPipeline",), denoiser=None, modular=None
)

register_family(PIXART)
register_family(PIXART_ALPHA)
