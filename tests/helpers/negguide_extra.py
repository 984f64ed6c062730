"""What another package would bring: two methods and a model family, registered from outside.

`register` is what its entry point in the group "negguide" names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from negguide import Negative, register_family, register_method
from negguide.integration.families.stable_diffusion import STABLE_DIFFUSION
from negguide.methods import AttentionMethod, ScoreMethod


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Minus(AttentionMethod):
    """z+ - scale sum_k weight_k z_k."""

    key: ClassVar[str] = "minus"
    label: ClassVar[str] = "Minus"
    summary: ClassVar[str] = "subtracts the negative's attention as it is"
    source: ClassVar[str] = "tests"

    negatives: tuple[Negative, ...]
    scale: float = 0.25

    def __init__(
        self,
        *prompts: Negative | str,
        scale: float = 0.25,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        object.__setattr__(self, "scale", float(scale))

    def combine(
        self, positive: Tensor, negatives: Sequence[Tensor], strengths: Sequence[float | Tensor]
    ) -> Tensor:
        taken = [strength * negative for strength, negative in zip(strengths, negatives, strict=True)]
        return positive - self.scale * torch.stack(taken).sum(dim=0)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Whole(ScoreMethod):
    """uncond + g (cond - uncond - sum_k weight_k (n_k - uncond))."""

    key: ClassVar[str] = "whole"
    label: ClassVar[str] = "Whole"
    summary: ClassVar[str] = "subtracts the whole negative"
    source: ClassVar[str] = "tests"

    negatives: tuple[Negative, ...]
    refresh_every: int = 1

    def __init__(
        self,
        *prompts: Negative | str,
        refresh_every: int = 1,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        object.__setattr__(self, "refresh_every", refresh_every)

    def guide(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Tensor,
        weights: Tensor,
        guidance_scale: float,
        masks: Tensor | None = None,
    ) -> Tensor:
        columns = weights.reshape(*weights.shape, *[1] * (negatives.ndim - weights.ndim))
        taken = (columns * (negatives - uncond)).sum(dim=0)
        return uncond + guidance_scale * (cond - uncond - taken)


class ElsewherePipeline(StableDiffusionPipeline):
    """A pipeline that diffusers does not have."""


FAMILY = replace(STABLE_DIFFUSION, name="Elsewhere", pipelines=(ElsewherePipeline,), denoiser=None)


def register() -> None:
    """Make all of it known."""
    register_method(Minus)
    register_method(Whole)
    register_family(FAMILY)
