"""Random IP-Adapters for the tiny pipelines of every family that has them in diffusers."""

import inspect
from typing import Any

import torch
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from diffusers.utils import is_sentencepiece_available
from tiny_pipelines import denoiser
from torch import Tensor, nn

IMAGE = 16
"""How many numbers an image's embedding has."""
WITH_ADAPTERS = (
    "sd",
    "sdxl",
    "sd3",
    "flux",
    "chroma",
    "animatediff",
    "animatediff-sdxl",
    *(("kolors",) if is_sentencepiece_available() else ()),
)
"""The tiny pipelines whose families have IP-Adapters."""

Weights = dict[str, dict[str, Tensor]]


def weights(pipe: Any, seed: int = 5) -> Weights:
    """An IP-Adapter as a file would hold it, for the pipeline's denoiser."""
    torch.manual_seed(seed)
    model = denoiser(pipe)
    return {
        "UNet2DConditionModel": _of_unet,
        "UNetMotionModel": _of_unet,
        "SD3Transformer2DModel": _of_sd3,
    }.get(type(model).__name__, _of_flux)(model)


def _of_unet(unet: Any) -> Weights:
    """Four tokens from an image's embedding."""
    width = unet.config.cross_attention_dim
    projection = {"proj.weight": torch.randn(4 * width, IMAGE), "proj.bias": torch.randn(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers = {}
    # motion modules have an attn2 that meets no text
    cross = [name for name in unet.attn_processors if "attentions" in name and "attn2" in name]
    for position, name in enumerate(cross):
        inner = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("k", "v"):
            layers[f"{2 * position + 1}.to_{part}_ip.weight"] = torch.randn(inner, width) / 4
    return {"image_proj": {**projection, **norm}, "ip_adapter": layers}


def _of_flux(transformer: Any) -> Weights:
    """Four tokens, for the blocks with two streams only."""
    width = transformer.config.joint_attention_dim
    projection = {"proj.weight": torch.randn(4 * width, IMAGE), "proj.bias": torch.randn(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers = {}
    for block in range(transformer.config.num_layers):
        for part in ("k", "v"):
            layers[f"{block}.to_{part}_ip.weight"] = torch.randn(transformer.inner_dim, width) / 4
            layers[f"{block}.to_{part}_ip.bias"] = torch.randn(transformer.inner_dim) / 4
    return {"image_proj": {**projection, **norm}, "ip_adapter": layers}


def _of_sd3(transformer: Any) -> Weights:
    """Tokens that a resampler makes from those of an image, by the timestep."""
    config, time = transformer.config, 64
    width = config.attention_head_dim * config.num_attention_heads
    projection = IPAdapterTimeImageProjection(
        embed_dim=IMAGE, output_dim=width, hidden_dim=time, heads=1, num_queries=4, timestep_in_dim=8
    )
    layers: Weights = {}
    for position in range(len(transformer.attn_processors)):
        processor = SD3IPAdapterJointAttnProcessor2_0(
            hidden_size=width,
            ip_hidden_states_dim=width,
            head_dim=config.attention_head_dim,
            timesteps_emb_dim=time,
        )
        nn.init.normal_(processor.to_v_ip.weight)
        layers |= {f"{position}.{name}": value for name, value in processor.state_dict().items()}
    return {"image_proj": projection.state_dict(), "ip_adapter": layers}


def load(pipe: Any, count: int = 1) -> None:
    """Put `count` IP-Adapters on a pipeline's denoiser, as `load_ip_adapter` does from files."""
    adapters = [weights(pipe, seed) for seed in range(5, 5 + count)]
    one = adapters[0] if count == 1 else adapters
    names = [""] * count if count > 1 else ""
    # no encoder of images: the calls give embeddings
    encoder = next(name for name in inspect.signature(pipe.load_ip_adapter).parameters if "encoder" in name)
    pipe.load_ip_adapter(one, subfolder=names, weight_name=names, **{encoder: None})


def images(tiny: Any, count: int = 1) -> dict[str, Any]:
    """The arguments of a call with an image for each adapter."""
    generator = torch.Generator().manual_seed(3)
    # of no image, and of one
    pairs = [torch.randn(2, 1, IMAGE, generator=generator) for _ in range(count)]
    if tiny.name == "sd3":
        return {"ip_adapter_image_embeds": pairs[0]}
    if tiny.name in ("flux", "chroma"):
        return {
            "ip_adapter_image_embeds": [pair[1:] for pair in pairs],
            "negative_ip_adapter_image_embeds": [pair[:1] for pair in pairs],
        }
    return {"ip_adapter_image_embeds": pairs}
