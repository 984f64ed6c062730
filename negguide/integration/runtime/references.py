"""NegToMe's reference images as the denoiser takes them, at the noise of a step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Family, nested_input


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


def given_apart(family: Family, inputs: Mapping[str, Any], latents: Tensor, images: int) -> list[int]:
    """For each image of a call the first one that is given the same beside its latents: a mask, images, sizes.

    Args:
        inputs: of the denoiser, of which the first `images` rows are looked at.
        latents: [R, ...] of references, which say what in a sample is latents.
    """
    sample = inputs[family.sample]
    others = set(family.batched) - {family.sample, family.timestep, *family.text, *family.controls}
    rows = [row for path in sorted(others) for row in _with_rows(nested_input(inputs, path), len(sample))]
    if isinstance(sample, Tensor) and sample.shape[1:] != latents.shape[1:]:
        nothing = latents.new_zeros(1, *latents.shape[1:]).to(sample)
        rows.append(with_latents(sample[:images], nothing, family.references_first))
    first: list[int] = []
    for i in range(images):
        earlier = (j for j in sorted(set(first)) if all(torch.equal(given[j], given[i]) for given in rows))
        first.append(next(earlier, i))
    return first


def _with_rows(value: Any, count: int) -> Iterator[Tensor]:
    """The tensors in an input that have so many rows."""
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _with_rows(inner, count)


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
