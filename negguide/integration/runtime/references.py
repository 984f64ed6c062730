"""NegToMe's reference images as the denoiser takes them, at the noise of a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
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


def given_apart(sample: Any, latents: Tensor, images: int, last: bool = False) -> list[int]:
    """For each image of a call the first one that is given the same beside its latents (masks, reference images).

    Args:
        sample: the denoiser's, of which the first `images` rows are looked at.
        latents: [R, ...] of references, which say what in a sample is latents.
        last: whether what is given stands before them.
    """
    if isinstance(sample, list) or sample.shape[1:] == latents.shape[1:]:
        return [0] * images
    nothing = latents.new_zeros(1, *latents.shape[1:]).to(sample)
    given = with_latents(sample[:images], nothing, last)
    first: list[int] = []
    for i in range(images):
        first.append(next(j for j in [*sorted(set(first)), i] if torch.equal(given[j], given[i])))
    return first


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
