"""Tiny random pipelines of three kinds of prediction, their denoisers called by hand, and images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny_joint
import tiny_unet_and_cross
import torch
from diffusers import DDIMScheduler
from tiny_parts import T5_TEXT
from torch import Tensor


def _sd_predict(pipe: Any, sample: Tensor, timestep: float, text: str) -> Tensor:
    embeds, _ = pipe.encode_prompt([text], "cpu", 1, False)
    prediction: Tensor = pipe.unet(sample, timestep, encoder_hidden_states=embeds).sample
    return prediction


def _sd3_predict(pipe: Any, sample: Tensor, timestep: float, text: str) -> Tensor:
    embeds, _, pooled, _ = pipe.encode_prompt(
        [text], None, None, do_classifier_free_guidance=False, **T5_TEXT
    )
    prediction: Tensor = pipe.transformer(
        sample, timestep=torch.tensor([timestep]), encoder_hidden_states=embeds, pooled_projections=pooled
    ).sample
    return prediction


def _flux_predict(pipe: Any, sample: Tensor, timestep: float, text: str) -> Tensor:
    embeds, pooled, txt_ids = pipe.encode_prompt([text], None, **T5_TEXT)
    ids = pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    prediction: Tensor = pipe.transformer(
        hidden_states=sample,
        timestep=torch.tensor([timestep / 1000]),
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        txt_ids=txt_ids,
        img_ids=ids,
    ).sample
    return prediction


def _vae_latents(pipe: Any, images: Tensor) -> Tensor:
    shift = pipe.vae.config.shift_factor or 0
    latents: Tensor = pipe.vae.encode(images * 2 - 1).latent_dist.mode()
    return (latents - shift) * pipe.vae.config.scaling_factor


def _flux_latents(pipe: Any, images: Tensor) -> Tensor:
    latents = _vae_latents(pipe, images)
    packed: Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


def _sd_v() -> Any:
    pipe = tiny_unet_and_cross.sd()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    return pipe


def _discrete_levels(pipe: Any, timestep: float) -> tuple[float, float]:
    cumulated = float(pipe.scheduler.alphas_cumprod[int(timestep)].double())
    return cumulated**0.5, (1 - cumulated) ** 0.5


def _flow_levels(pipe: Any, timestep: float) -> tuple[float, float]:
    return 1 - timestep / 1000, timestep / 1000


@dataclass(frozen=True)
class ByHand:
    """A pipeline, and what distillation does with it written out.

    Attributes:
        predict: `predict(pipe, sample [1, ..], timestep, text)` -> the denoiser's prediction.
        encode: `encode(pipe, images)` -> latents as the denoiser has them.
        levels: `levels(pipe, timestep)` -> (alpha, sigma).
        noise: `noise(prediction, sample, alpha, sigma)` -> the noise that a prediction says.
        arguments: of the pipeline's call.
    """

    build: Callable[[], Any]
    predict: Callable[[Any, Tensor, float, str], Tensor]
    encode: Callable[[Any, Tensor], Tensor]
    levels: Callable[[Any, float], tuple[float, float]]
    noise: Callable[[Tensor, Tensor, float, float], Tensor]
    arguments: dict[str, Any]


BY_HAND = {
    "epsilon": ByHand(
        tiny_unet_and_cross.sd, _sd_predict, _vae_latents, _discrete_levels, lambda m, x, a, s: m, {}
    ),
    "v_prediction": ByHand(
        _sd_v, _sd_predict, _vae_latents, _discrete_levels, lambda m, x, a, s: a * m + s * x, {}
    ),
    "flow": ByHand(
        tiny_unet_and_cross.sd3,
        _sd3_predict,
        _vae_latents,
        _flow_levels,
        lambda m, x, a, s: x + a * m,
        T5_TEXT,
    ),
    "flow, packed, true CFG": ByHand(
        tiny_joint.flux, _flux_predict, _flux_latents, _flow_levels, lambda m, x, a, s: x + a * m, T5_TEXT
    ),
}
_built: dict[str, Any] = {}


@pytest.fixture(params=list(BY_HAND))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def by_hand(kind: str) -> ByHand:
    return BY_HAND[kind]


@pytest.fixture
def pipe(kind: str) -> Any:
    """The plain pipeline; tests share it and leave it as it is."""
    if kind not in _built:
        _built[kind] = BY_HAND[kind].build()
    return _built[kind]


@pytest.fixture
def sd() -> Any:
    """The one that predicts epsilon."""
    if "epsilon" not in _built:
        _built["epsilon"] = BY_HAND["epsilon"].build()
    return _built["epsilon"]


@pytest.fixture
def images() -> Tensor:
    """Two images, float [2, 3, 64, 64] within 0 and 1."""
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)).requires_grad_()
