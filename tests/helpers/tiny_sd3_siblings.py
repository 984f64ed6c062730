"""Tiny random pipelines that share Stable Diffusion 3's denoiser: all parts there, nothing learnt."""

import inspect
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
)
from tiny_parts import T5_TEXT, Tiny, louder, picture, ready, size, t5
from tiny_unet_and_cross import all_new, left_half, sd3_pipeline, unheard
from torch import Tensor, nn

MEDIUM: dict[str, Any] = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}


def parts(kind: Any, seed: int, **transformer: Any) -> dict[str, Any]:
    """The components of a tiny 3.5 that a pipeline class takes; one step, of an image, must show what it does."""
    torch.manual_seed(seed)
    components = sd3_pipeline(t5(80), **MEDIUM, **transformer).components
    louder(components["transformer"], {"proj_out": 4})
    takes = inspect.signature(kind.__init__).parameters
    return {name: part for name, part in components.items() if name in takes}


def sd3_img2img() -> DiffusionPipeline:
    return ready(StableDiffusion3Img2ImgPipeline(**parts(StableDiffusion3Img2ImgPipeline, 41)))


def sd3_inpaint() -> DiffusionPipeline:
    """The transformer trained for it: mask and masked image are channels of its input."""
    return ready(
        StableDiffusion3InpaintPipeline(**parts(StableDiffusion3InpaintPipeline, 42, in_channels=33))
    )


def sd3_inpaint_plain() -> DiffusionPipeline:
    """The ordinary transformer: what lies outside the mask is put back after each step."""
    own = parts(StableDiffusion3InpaintPipeline, 43)
    # in half of the image, what attention does must show all the more
    louder(own["transformer"], {"attn.to_out": 3})
    return ready(StableDiffusion3InpaintPipeline(**own))


def quiet(vae: Any) -> Any:
    """The autoencoder with hardly a variance: ControlNet's pipelines draw from it without the call's generator."""
    channels = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[channels:] = 0
        vae.quant_conv.bias[channels:] = -30
    return vae


def controlnet(transformer: Any, extra_channels: int = 0, **changes: Any) -> nn.Module:
    """A ControlNet of the transformer's shape whose zero layers are none, so that what it is told counts."""
    config = {**transformer.config, "num_layers": 2, "extra_conditioning_channels": extra_channels, **changes}
    net = SD3ControlNetModel.from_config(config)
    for module in (net.pos_embed_input, net.controlnet_blocks):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    return louder(net, {"attn.to_": 2, "norm1": 2})


def sd3_controlnet() -> DiffusionPipeline:
    own = parts(StableDiffusion3ControlNetPipeline, 44)
    quiet(own["vae"])
    # of the kind that is given the prompt's pooled embeddings
    net = controlnet(own["transformer"], force_zeros_for_pooled_projection=False)
    return ready(StableDiffusion3ControlNetPipeline(**own, controlnet=net))


def sd3_controlnet_inpaint() -> DiffusionPipeline:
    """The mask is one more channel of what the ControlNet is given."""
    own = parts(StableDiffusion3ControlNetInpaintingPipeline, 45)
    quiet(own["vae"])
    net = controlnet(own["transformer"], extra_channels=1)
    return ready(StableDiffusion3ControlNetInpaintingPipeline(**own, controlnet=net))


def drawn() -> Tensor:
    """A control image; what the pipeline draws from torch's own generator is the same in every run."""
    torch.manual_seed(0)
    return picture()


HALF: dict[str, Any] = {"strength": 0.5}
"""2 steps are 1, 4 are 2, 5 are 3."""
IMG2IMG = size(**T5_TEXT, **HALF, image=picture)
INPAINT = size(**T5_TEXT, **HALF, image=picture, mask_image=left_half)
CONTROL = size(**T5_TEXT, control_image=drawn)
CONTROL_INPAINT = size(**T5_TEXT, control_image=drawn, control_mask=left_half)

TINY: tuple[Tiny, ...] = (
    Tiny("sd3-img2img", sd3_img2img, IMG2IMG, like="sd3", image_each=True),
    Tiny("sd3-inpaint", sd3_inpaint, INPAINT, like="sd3", one_noise=True, forgets_shift=True),
    Tiny(
        "sd3-inpaint-plain",
        sd3_inpaint_plain,
        INPAINT,
        like="sd3",
        one_noise=True,
        alike=all_new,
        forgets_shift=True,
    ),
    Tiny("sd3-controlnet", sd3_controlnet, CONTROL, like="sd3", alike=unheard),
    Tiny("sd3-controlnet-inpaint", sd3_controlnet_inpaint, CONTROL_INPAINT, like="sd3", alike=unheard),
)
