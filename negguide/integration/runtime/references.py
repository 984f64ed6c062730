"""NegToMe's reference images as the denoiser takes them, at the noise of a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class EncodedReferences:
    """NegToMe's R reference images as the model takes them.

    Attributes:
        latents: [R, C, h, w], noise: [1, C, h, w] (the same at every step and for every reference).
        text: {text input: [1, ...]} of the empty prompt.
    """

    latents: Tensor
    noise: Tensor
    text: Mapping[str, Tensor]


def noised(scheduler: Any, references: EncodedReferences, timestep: Tensor) -> Tensor:
    """The references at the noise of a timestep, as the scheduler hands its sample to the denoiser."""
    latents = references.latents
    noise, timesteps = references.noise.expand_as(latents), timestep.reshape(1).expand(len(latents))
    if hasattr(scheduler, "scale_noise"):  # flow matching
        flow: Tensor = scheduler.scale_noise(latents, timesteps, noise)
        return flow
    noisy: Tensor = scheduler.scale_model_input(scheduler.add_noise(latents, noise, timesteps), timestep)
    return noisy


def with_latents(sample: Any, latents: Tensor, last: bool = False) -> Any:
    """A denoiser's sample with other latents; what it holds behind them (masks, reference images) stays.

    Args:
        last: whether that stands before them instead.
    """
    if isinstance(sample, list):
        return [row.to(like) for row, like in zip(latents, sample, strict=True)]
    changed: Tensor = sample.clone()
    if last:
        changed[:, -latents.shape[1] :] = latents
        return changed
    # [rows, channels, ..], or in packed form [rows, tokens, channels]
    changed[:, : latents.shape[1], : latents.shape[2]] = latents
    return changed
