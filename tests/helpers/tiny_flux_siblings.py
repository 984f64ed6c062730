"""Tiny random pipelines that share FLUX.1's and FLUX.2 klein's denoisers: all parts there, nothing learnt."""

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    Flux2KleinInpaintPipeline,
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
)
from tiny_joint import AS_ASKED, FLUX2, KLEIN, TRUE_CFG, flux2_parts, flux_parts, qwen3, qwen_tokenizer
from tiny_parts import T5_TEXT, Tiny, louder, picture, ready, size
from tiny_unet_and_cross import left_half, unheard
from torch import Tensor, nn

# ---- FLUX.1 ---------------------------------------------------------------------------------------------------------


def built(kind: Any, seed: int, in_channels: int = 16, **further: Any) -> DiffusionPipeline:
    torch.manual_seed(seed)
    return ready(kind(**flux_parts(guidance_embeds=True, in_channels=in_channels), **further))


def controlnet(seed: int, **config: Any) -> nn.Module:
    """A ControlNet whose zero layers are none, so that what it is told counts."""
    torch.manual_seed(seed)
    net = FluxControlNetModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 6, 6),
        **config,
    )
    for module in (net.controlnet_x_embedder, net.controlnet_blocks, net.controlnet_single_blocks):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.2)
    return louder(net, {"attn.": 2})


def flux_img2img() -> DiffusionPipeline:
    return built(FluxImg2ImgPipeline, 51)


def flux_inpaint() -> DiffusionPipeline:
    return built(FluxInpaintPipeline, 52)


def flux_kontext_inpaint() -> DiffusionPipeline:
    return built(FluxKontextInpaintPipeline, 53)


def flux_controlnet() -> DiffusionPipeline:
    """Two ControlNets, one of them for several kinds of images, with a guidance scale of its own."""
    nets = [controlnet(54, guidance_embeds=True), controlnet(55, guidance_embeds=True, num_mode=3)]
    return built(FluxControlNetPipeline, 56, controlnet=nets)


def flux_controlnet_img2img() -> DiffusionPipeline:
    return built(FluxControlNetImg2ImgPipeline, 57, controlnet=controlnet(58))


def flux_controlnet_inpaint() -> DiffusionPipeline:
    return built(FluxControlNetInpaintPipeline, 59, controlnet=controlnet(60))


def flux_control() -> DiffusionPipeline:
    """The control image is as many further channels."""
    return built(FluxControlPipeline, 61, in_channels=2 * 16)


def flux_control_img2img() -> DiffusionPipeline:
    return built(FluxControlImg2ImgPipeline, 62, in_channels=2 * 16)


def flux_control_inpaint() -> DiffusionPipeline:
    return built(FluxControlInpaintPipeline, 63, in_channels=2 * 16)


def flux_fill() -> DiffusionPipeline:
    """The masked image is as many further channels, and the mask has one for each of a token's 16x16 pixels."""
    return built(FluxFillPipeline, 64, in_channels=2 * 16 + 16 * 16)


# ---- FLUX.2 klein ---------------------------------------------------------------------------------------------------


def flux2_klein_inpaint() -> DiffusionPipeline:
    torch.manual_seed(65)
    parts = flux2_parts(guidance_embeds=False)
    encoder = {"text_encoder": qwen3(32, causal_lm=True), "tokenizer": qwen_tokenizer()}
    return ready(Flux2KleinInpaintPipeline(**parts, **encoder, is_distilled=False))


# ---- All of them ----------------------------------------------------------------------------------------------------


def other_picture() -> Tensor:
    return 1 - picture()


def two_pictures() -> list[Tensor]:
    """One for each ControlNet."""
    return [picture(), other_picture()]


def all_new() -> dict[str, Any]:
    """What is outside the mask is put back after the step."""
    return {"mask_image": torch.ones(1, 1, 64, 64)}


def unheard_nets() -> dict[str, Any]:
    """ControlNets are given the prompt, also where the transformer has a negative."""
    return {"controlnet_conditioning_scale": [0.0, 0.0]}


def unheard_and_all_new() -> dict[str, Any]:
    return {**unheard(), **all_new()}


HALF: dict[str, Any] = {"strength": 0.5}
"""2 steps are 1, 4 are 2, 5 are 3."""
MASKED: dict[str, Any] = {**HALF, "image": picture, "mask_image": left_half}
CONTROLLED: dict[str, Any] = {**T5_TEXT, "control_image": other_picture}
NETS: dict[str, Any] = {
    "control_image": two_pictures,
    "control_mode": lambda: [None, 1],
    "controlnet_conditioning_scale": lambda: [0.8, 0.5],
}
KONTEXT = size(**T5_TEXT, **TRUE_CFG, **AS_ASKED, **MASKED, image_reference=other_picture)
KLEIN_INPAINT = size(**KLEIN, **MASKED, image_reference=other_picture)

GUIDED: dict[str, Any] = {"like": "flux"}
DISTILLED: dict[str, Any] = {"like": "flux", "guided": False, "negative_prompt": False}
EACH: dict[str, Any] = {"image_each": True}

TINY: tuple[Tiny, ...] = (
    Tiny("flux-img2img", flux_img2img, size(**T5_TEXT, **TRUE_CFG, **HALF, image=picture), **GUIDED, **EACH),
    Tiny(
        "flux-inpaint", flux_inpaint, size(**T5_TEXT, **TRUE_CFG, **MASKED), **GUIDED, **EACH, alike=all_new
    ),
    Tiny("flux-kontext-inpaint", flux_kontext_inpaint, KONTEXT, **GUIDED, **EACH, alike=all_new),
    Tiny(
        "flux-controlnet", flux_controlnet, size(**T5_TEXT, **TRUE_CFG, **NETS), **GUIDED, alike=unheard_nets
    ),
    Tiny(
        "flux-controlnet-img2img",
        flux_controlnet_img2img,
        size(**CONTROLLED, **HALF, image=picture),
        **DISTILLED,
        **EACH,
        alike=unheard,
    ),
    Tiny(
        "flux-controlnet-inpaint",
        flux_controlnet_inpaint,
        size(**CONTROLLED, **MASKED),
        **DISTILLED,
        **EACH,
        alike=unheard_and_all_new,
    ),
    Tiny("flux-control", flux_control, size(**CONTROLLED), **DISTILLED),
    Tiny(
        "flux-control-img2img",
        flux_control_img2img,
        size(**CONTROLLED, **HALF, image=picture),
        **DISTILLED,
        **EACH,
    ),
    Tiny(
        "flux-control-inpaint",
        flux_control_inpaint,
        size(**CONTROLLED, **MASKED),
        **DISTILLED,
        **EACH,
        alike=all_new,
    ),
    Tiny("flux-fill", flux_fill, size(**T5_TEXT, **MASKED), **DISTILLED, **EACH),
    Tiny(
        "flux2-klein-inpaint",
        flux2_klein_inpaint,
        KLEIN_INPAINT,
        **FLUX2,
        **EACH,
        like="flux2-klein",
        alike=all_new,
    ),
)
