"""Tiny random pipelines around the UNets of Stable Diffusion and SDXL: masks, controls, adapters, consistency."""

from typing import Any

import torch
from diffusers import (
    ControlNetUnionModel,
    DiffusionPipeline,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    T2IAdapter,
)
from tiny_parts import Tiny, louder, picture, ready, size
from tiny_unet_and_cross import (
    BETAS,
    POOLED,
    UNET,
    all_new,
    controlnet,
    from_picture,
    left_half,
    sd_parts,
    sdxl_parts,
    unet,
    unheard,
)
from torch import Tensor, nn
from transformers import DPTConfig, DPTForDepthEstimation


def control() -> Tensor:
    """What a ControlNet or an adapter is told, float [1, 3, 64, 64]; another picture than the one that is changed."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(8))


def depth() -> Tensor:
    """[1, 64, 64]."""
    return control()[:, 0]


# ---- Stable Diffusion -----------------------------------------------------------------------------------------------


def sd_inpaint() -> DiffusionPipeline:
    """The UNet trained for it: mask and masked image are channels of its input."""
    torch.manual_seed(31)
    return ready(StableDiffusionInpaintPipeline(**{**sd_parts(), "unet": unet(UNET, in_channels=9)}))


def sd_inpaint_plain() -> DiffusionPipeline:
    """An ordinary UNet: what lies outside the mask is put back after each step."""
    torch.manual_seed(32)
    return ready(StableDiffusionInpaintPipeline(**sd_parts()))


def sd_depth() -> DiffusionPipeline:
    """The depth is a channel of the UNet's input."""
    torch.manual_seed(33)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    parts = {
        name: part
        for name, part in sd_parts().items()
        if name not in ("safety_checker", "requires_safety_checker", "feature_extractor")
    }
    return ready(
        StableDiffusionDepth2ImgPipeline(
            **{**parts, "unet": unet(UNET, in_channels=5)},
            depth_estimator=DPTForDepthEstimation(config),
            feature_extractor=None,
        )
    )


def sd_controlnet_img2img() -> DiffusionPipeline:
    torch.manual_seed(39)
    parts = sd_parts()
    return ready(StableDiffusionControlNetImg2ImgPipeline(**parts, controlnet=controlnet(parts["unet"])))


def sd_controlnet_inpaint() -> DiffusionPipeline:
    torch.manual_seed(35)
    parts = sd_parts()
    return ready(StableDiffusionControlNetInpaintPipeline(**parts, controlnet=controlnet(parts["unet"])))


def adapter(kind: str, downscale: int) -> nn.Module:
    """A T2I-Adapter for UNets of two blocks."""
    model = T2IAdapter(
        in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=downscale, adapter_type=kind
    )
    return louder(model, {"conv_in": 3})


def sd_adapter() -> DiffusionPipeline:
    torch.manual_seed(36)
    return ready(StableDiffusionAdapterPipeline(**sd_parts(), adapter=adapter("full_adapter", 8)))


def lcm_parts() -> dict[str, Any]:
    """The UNet is told the guidance scale beside the timestep."""
    model = louder(unet(UNET, time_cond_proj_dim=32), {"cond_proj": 1})
    scheduler = LCMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True)
    return {**sd_parts(), "unet": model, "scheduler": scheduler}


def lcm() -> DiffusionPipeline:
    torch.manual_seed(37)
    return ready(LatentConsistencyModelPipeline(**lcm_parts()))


def lcm_img2img() -> DiffusionPipeline:
    torch.manual_seed(38)
    return ready(LatentConsistencyModelImg2ImgPipeline(**lcm_parts()))


# ---- Stable Diffusion XL --------------------------------------------------------------------------------------------


def union(model: Any) -> nn.Module:
    """A ControlNet for several kinds of control, whose zero layers are none, so that what it is told counts."""
    like_the_unet = ControlNetUnionModel.from_unet(model, conditioning_embedding_out_channels=(8, 8, 8, 8))
    first = model.config.block_out_channels[0]
    narrow = {"num_trans_channel": first, "num_proj_channel": first, "num_trans_head": 4}
    config = {name: value for name, value in like_the_unet.config.items() if not name.startswith("_")}
    net = ControlNetUnionModel(**{**config, **narrow})
    zeros = [
        net.controlnet_cond_embedding.conv_out,
        net.spatial_ch_projs,
        *net.controlnet_down_blocks,
        net.controlnet_mid_block,
    ]
    for module in zeros:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    # it acts at a scale of 0 too, so that only without text a prompt and a negative have the same residuals
    louder(net, {"attn2.to_v": 0})
    net.add_embedding.linear_1.weight.data[:, :POOLED] = 0
    return louder(net, {"controlnet_cond_embedding": 3})


def sdxl_controlnet_img2img() -> DiffusionPipeline:
    torch.manual_seed(41)
    parts = sdxl_parts()
    return ready(StableDiffusionXLControlNetImg2ImgPipeline(**parts, controlnet=controlnet(parts["unet"])))


def sdxl_controlnet_inpaint() -> DiffusionPipeline:
    torch.manual_seed(42)
    parts = sdxl_parts()
    return ready(StableDiffusionXLControlNetInpaintPipeline(**parts, controlnet=controlnet(parts["unet"])))


def sdxl_union() -> DiffusionPipeline:
    torch.manual_seed(43)
    parts = sdxl_parts()
    return ready(StableDiffusionXLControlNetUnionPipeline(**parts, controlnet=union(parts["unet"])))


def sdxl_union_img2img() -> DiffusionPipeline:
    torch.manual_seed(44)
    parts = sdxl_parts()
    return ready(StableDiffusionXLControlNetUnionImg2ImgPipeline(**parts, controlnet=union(parts["unet"])))


def sdxl_union_inpaint() -> DiffusionPipeline:
    torch.manual_seed(45)
    parts = sdxl_parts()
    return ready(StableDiffusionXLControlNetUnionInpaintPipeline(**parts, controlnet=union(parts["unet"])))


def sdxl_adapter() -> DiffusionPipeline:
    torch.manual_seed(46)
    parts = {name: part for name, part in sdxl_parts().items() if name != "add_watermarker"}
    return ready(StableDiffusionXLAdapterPipeline(**parts, adapter=adapter("full_adapter_xl", 16)))


# ---- All of them ----------------------------------------------------------------------------------------------------


INPAINT = size(image=picture, mask_image=left_half, strength=0.6)
CHANGED: dict[str, Any] = {"image": picture, "control_image": control, "strength": 0.6}
UNION: dict[str, Any] = {"control_image": lambda: [control(), picture()], "control_mode": lambda: [0, 3]}


def with_depth() -> dict[str, Any]:
    return {**from_picture(), "depth_map": depth()}


def all_new_and_unheard() -> dict[str, Any]:
    return {**all_new(), **unheard()}


DISTILLED: dict[str, Any] = {"guided": False, "negative_prompt": False}
TINY: tuple[Tiny, ...] = (
    Tiny("sd-inpaint", sd_inpaint, INPAINT, like="sd", one_noise=True),
    Tiny("sd-inpaint-plain", sd_inpaint_plain, INPAINT, like="sd", one_noise=True, alike=all_new),
    Tiny("sd-depth", sd_depth, with_depth, like="sd"),
    Tiny("sd-controlnet-img2img", sd_controlnet_img2img, size(**CHANGED), like="sd", alike=unheard),
    Tiny(
        "sd-controlnet-inpaint",
        sd_controlnet_inpaint,
        size(**CHANGED, mask_image=left_half),
        like="sd",
        one_noise=True,
        alike=all_new_and_unheard,
    ),
    Tiny("sd-adapter", sd_adapter, size(image=control), like="sd", image_of_each_prompt=True),
    Tiny("lcm", lcm, size(), like="sd", **DISTILLED),
    Tiny("lcm-img2img", lcm_img2img, from_picture, like="sd", **DISTILLED),
    Tiny("sdxl-controlnet-img2img", sdxl_controlnet_img2img, size(**CHANGED), like="sdxl", alike=unheard),
    Tiny(
        "sdxl-controlnet-inpaint",
        sdxl_controlnet_inpaint,
        size(**CHANGED, mask_image=left_half),
        like="sdxl",
        one_noise=True,
        alike=all_new_and_unheard,
    ),
    Tiny("sdxl-union", sdxl_union, size(**UNION), like="sdxl"),
    Tiny("sdxl-union-img2img", sdxl_union_img2img, size(**{**CHANGED, **UNION}), like="sdxl"),
    Tiny(
        "sdxl-union-inpaint",
        sdxl_union_inpaint,
        size(**{**CHANGED, **UNION}, mask_image=left_half),
        like="sdxl",
        one_noise=True,
        alike=all_new,
    ),
    Tiny("sdxl-adapter", sdxl_adapter, size(image=control), like="sdxl", image_of_each_prompt=True),
)
