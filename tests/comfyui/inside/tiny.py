"""Tiny random models, texts, and runs of ComfyUI's guiders and samplers in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.supported_models_base
import torch
from negguide_pack import nodes

SAME = 1e-4
"""rms up to which latents count as the same: the same computation in another order."""
CPU = torch.device("cpu")
SIDE = 16
Conditioning = list[list[Any]]


def unet(kind: Any = comfy.model_base.ModelType.V_PREDICTION, **more: Any) -> Any:
    """A UNet of the kind of Stable Diffusion, with 4 channels of latents and 16 of text."""
    config = {
        "image_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "context_dim": 16,
        "legacy": False,
        "num_heads": 2,
        "num_head_channels": -1,
        **more,
    }
    return _made(comfy.model_base.BaseModel, config, 4, model_type=kind)


def wan() -> Any:
    """A Wan with 16 channels of latents and of text."""
    config = {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "patch_size": (1, 2, 2),
        "in_dim": 16,
        "out_dim": 16,
        "dim": 48,
        "ffn_dim": 64,
        "freq_dim": 32,
        "text_dim": 16,
        "num_heads": 2,
        "num_layers": 2,
    }
    return _made(comfy.model_base.WAN21, config, 16, {"shift": 3.0})


def _made(
    base: Any, config: dict[str, Any], channels: int, sampling: dict[str, float] | None = None, **options: Any
) -> Any:
    class Latents(comfy.latent_formats.LatentFormat):
        latent_channels = channels
        latent_dimensions = 3 if base is comfy.model_base.WAN21 else 2

    settings: dict[str, Any] = sampling or {}
    nothing_more: dict[str, Any] = {}

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = nothing_more
        latent_format = Latents
        sampling_settings = settings
        custom_operations = comfy.ops.disable_weight_init

    model = base(Config({**config, "dtype": torch.float32}), **options)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.diffusion_model.named_parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) / max(1, weight[0].numel()) ** 0.5
        else:
            weight.data = torch.full_like(weight, float(name.endswith("weight")))
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def exact(model: Any) -> Any:
    """A UNet in float64, where rounding decides no best match: a batch is its images alone on every CPU."""
    network = model.model.diffusion_model.double()
    network.dtype = torch.float64
    return model


def text(seed: int, tokens: int = 7, **options: Any) -> Conditioning:
    words = 2 * torch.randn(1, tokens, 16, generator=torch.Generator().manual_seed(seed))
    return [[words, {"pooled_output": None, **options}]]


PROMPT, EMPTY, NEGATIVE = text(10), text(11), text(12)


def guider(
    model: Any, cfg: float = 4.0, positive: Conditioning = PROMPT, negative: Conditioning = EMPTY
) -> Any:
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, negative)
    made.set_cfg(cfg)
    return made


def run(
    given: Any,
    steps: int = 6,
    sampler: str = "euler",
    batch: int = 1,
    sigmas: torch.Tensor | None = None,
    latent: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    scheduler: str = "simple",
    **options: Any,
) -> torch.Tensor:
    """What a guider makes of noise, or `guider` of a model and these options."""
    by = given if isinstance(given, comfy.samplers.CFGGuider) else guider(given, **options)
    latent = torch.zeros(batch, 4, SIDE, SIDE) if latent is None else latent
    noise = torch.randn(latent.shape, generator=torch.manual_seed(3)) if noise is None else noise
    if sigmas is None:
        sampling = by.model_patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    found = by.sample(
        noise, latent, comfy.samplers.sampler_object(sampler), sigmas, seed=3, disable_pbar=True
    )
    assert bool(found.isfinite().all())
    return found


def rms(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one.double() - other.double()).square().mean().sqrt())


def negative(conditioning: Conditioning = NEGATIVE, **options: Any) -> Any:
    """The node Negative."""
    given = {"weight": 1.0, "automatic": False, "start": 0.0, "stop": 1.0, "unit": "steps", **options}
    return nodes.NegativeNode().make(conditioning, **given)[0]


def perp_neg(model: Any, negatives: Any = None, **options: Any) -> Any:
    """The node Perp-Neg, whose negative acts in all steps."""
    given = {"joint": "automatic", "refresh_every": 1, "auto_weight": 4.5, "adaptive": False}
    given |= {"economy": False, "guidance_stop": 1.0, **options}
    return nodes.PerpNegNode().patch(model, negatives or negative(), **given)[0]


METHODS: dict[str, dict[str, Any]] = {
    "NAG": {"scale": 5.0, "tau": 2.5, "alpha": 0.25},
    "ONG": {"scale": 1.0},
    "VSF": {"scale": 3.0, "bias": 0.0, "orthogonal": False},
}


def in_attention(name: str, model: Any, negatives: Any = NEGATIVE, **options: Any) -> Any:
    """The node of a method in attention."""
    node = nodes.NODE_CLASS_MAPPINGS[f"Negguide{name}"]()
    return node.patch(model, negatives, **{**METHODS[name], **options})[0]


def negtome(model: Any, **options: Any) -> Any:
    """The node NegToMe, in all steps, with many pushes."""
    given = {"reference": "others", "alpha": 0.9, "threshold": 0.0, "start": 0.0, "stop": 1.0}
    given |= {"unit": "steps", "max_push": 0.0, "perpendicular": False, **options}
    return nodes.NegToMeNode().patch(model, **given)[0]


def first(output: Any) -> Any:
    """Of what one of ComfyUI's own nodes gives."""
    return (output.result if hasattr(output, "result") else output)[0]


@contextmanager
def low_memory() -> Iterator[None]:
    """The model is called with one conditioning at a time."""

    def none(*_: Any, **__: Any) -> int:
        return 0

    patcher = comfy.model_patcher.ModelPatcher
    with patch.object(comfy.model_management, "get_free_memory", none):
        if hasattr(patcher, "get_free_memory"):
            with patch.object(patcher, "get_free_memory", none):
                yield
        else:
            yield
