"""Tiny random siblings of Z-Image: image to image, inpainting, ControlNets."""

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
)
from tiny_joint import CHAT_TEXT, z_image
from tiny_parts import Tiny, louder, picture, ready, size
from tiny_unet_and_cross import all_new, left_half
from torch import nn

# ---- Image to image -------------------------------------------------------------------------------------------------


def z_image_img2img() -> DiffusionPipeline:
    return ready(ZImageImg2ImgPipeline(**z_image().components))


def z_image_inpaint() -> DiffusionPipeline:
    return ready(ZImageInpaintPipeline(**z_image().components))


# ---- ControlNets ----------------------------------------------------------------------------------------------------


def controlnet(channels: int, refiner: str | None) -> nn.Module:
    """One that is heard: a fresh one begins with zeros."""
    torch.manual_seed(43)
    net = ZImageControlNetModel(
        control_layers_places=[0, 1],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        add_control_noise_refiner=refiner,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    for name, module in net.named_modules():
        if name.endswith(("before_proj", "after_proj")):
            module.reset_parameters()
    return louder(net, {"after_proj": 3, "control_all_x_embedder": 2})


def z_image_controlnet() -> DiffusionPipeline:
    """As the first one, for latents alone."""
    return ready(ZImageControlNetPipeline(**z_image().components, controlnet=controlnet(4, refiner=None)))


def z_image_controlnet_inpaint() -> DiffusionPipeline:
    """As 2.1, which is also given a mask and the image."""
    net = controlnet(9, refiner="control_noise_refiner")
    return ready(ZImageControlNetInpaintPipeline(**z_image().components, controlnet=net))


# ---- All of them ----------------------------------------------------------------------------------------------------


LIKE: dict[str, Any] = {"like": "z-image", "chat": True, "scale_offset": 1.0}
GUIDED: dict[str, Any] = {**CHAT_TEXT, "guidance_scale": 3.0, "negative_prompt": ""}
FROM_PICTURE: dict[str, Any] = {**GUIDED, "image": picture, "strength": 0.6}
CONTROL: dict[str, Any] = {**GUIDED, "control_image": picture}

TINY: tuple[Tiny, ...] = (
    Tiny("z-image-img2img", z_image_img2img, size(**FROM_PICTURE), **LIKE, one_noise=True),
    Tiny(
        "z-image-inpaint",
        z_image_inpaint,
        size(**FROM_PICTURE, mask_image=left_half),
        **LIKE,
        one_noise=True,
        alike=all_new,
    ),
    Tiny("z-image-controlnet", z_image_controlnet, size(**CONTROL), **LIKE, shares_modules=True),
    Tiny(
        "z-image-controlnet-inpaint",
        z_image_controlnet_inpaint,
        size(**CONTROL, image=picture, mask_image=left_half),
        **LIKE,
        shares_modules=True,
        mask_each=True,
    ),
)
