"""The model families that negguide supports: one row each. Nothing else in this package names a model."""

from typing import Any

from negguide.integration.families.cross import PIXART, SANA, WAN
from negguide.integration.families.joint import (
    FLUX,
    FLUX_2_DEV,
    FLUX_2_KLEIN,
    FLUX_KONTEXT,
    QWEN_IMAGE,
    STABLE_DIFFUSION_3,
    Z_IMAGE,
)
from negguide.integration.families.unet import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from negguide.integration.family import Family

PIPELINES: dict[str, Family] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionControlNetPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusionXLImg2ImgPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusionXLInpaintPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusionXLControlNetPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
    "FluxPipeline": FLUX,
    "FluxKontextPipeline": FLUX_KONTEXT,
    "Flux2Pipeline": FLUX_2_DEV,
    "Flux2KleinPipeline": FLUX_2_KLEIN,
    "QwenImagePipeline": QWEN_IMAGE,
    "ZImagePipeline": Z_IMAGE,
    "PixArtSigmaPipeline": PIXART,
    "SanaPipeline": SANA,
    "WanPipeline": WAN,
}
"""The supported pipelines of diffusers, by class name."""


def unet_family(unet: Any) -> Family:
    """The row of a UNet without its pipeline: only those of Stable Diffusion XL are told their picture's size."""
    sized = unet.config.get("addition_embed_type") == "text_time"
    return STABLE_DIFFUSION_XL if sized else STABLE_DIFFUSION


__all__ = ["PIPELINES", "STABLE_DIFFUSION", "unet_family"]
