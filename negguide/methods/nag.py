"""Normalized attention guidance: negatives in attention space, bounded in norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from negguide.guidance import nag
from negguide.methods.base import AttentionMethod
from negguide.methods.negative import Negative
from negguide.methods.registry import register_method
from negguide.methods.validation import number


@register_method
@dataclass(frozen=True, eq=False, init=False, repr=False)
class NAG(AttentionMethod):
    """Normalized attention guidance (arXiv 2505.21179): extrapolate attention away from the negatives.

    With z+ and z_k the attention outputs for the prompt and for negative k, per token:
    z = z+ + (scale - 1) sum_k weight_k (z+ - z_k); |z|_1 is capped at tau |z+|_1; the result is
    alpha z + (1 - alpha) z+. One negative of weight 1 is the published scale z+ - (scale - 1) z_1.

    Args:
        negatives: one or more `Negative` or plain strings.
        scale: extrapolation, >= 1; 1 is off.
        tau: largest |z|_1 as a multiple of |z+|_1, > 0.
        alpha: fraction of the extrapolated output in the result, in [0, 1]; 0 is off.
        max_sequence_length: to how many tokens at most each negative's text is encoded; None = as many as the prompt's
            (see `AttentionMethod`).

    The defaults are the ones published for FLUX.1.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    key: ClassVar[str] = "nag"
    label: ClassVar[str] = "NAG"
    summary: ClassVar[str] = (
        "normalized attention guidance: extrapolates attention away from the negative's, bounded in norm"
    )
    source: ClassVar[str] = "arXiv 2505.21179"

    negatives: tuple[Negative, ...]
    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    max_sequence_length: int | None = None

    def __init__(
        self,
        *prompts: Negative | str,
        scale: float = 5.0,
        tau: float = 2.5,
        alpha: float = 0.25,
        max_sequence_length: int | None = None,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        self._hold_length(max_sequence_length)
        scale, tau, alpha = number("scale", scale), number("tau", tau), number("alpha", alpha)
        if not (math.isfinite(scale) and scale >= 1):
            raise ValueError(f"scale must be finite and >= 1 (1 is off), got {scale}")
        if not (math.isfinite(tau) and tau > 0):
            raise ValueError(f"tau must be finite and > 0, got {tau}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        for name, value in (("scale", scale), ("tau", tau), ("alpha", alpha)):
            object.__setattr__(self, name, value)

    def combine(
        self, positive: Tensor, negatives: Sequence[Tensor], strengths: Sequence[float | Tensor]
    ) -> Tensor:
        """NAG of the weighted negatives: the published formula for one of weight 1.

        Args:
            positive: the output with the prompt.
            negatives: those with each negative, of the same shape.
            strengths: the weight of each negative, a number or one that broadcasts against it.
        """
        if len(negatives) == 1 and isinstance(strengths[0], float) and strengths[0] == 1:
            return nag(positive, negatives[0], self.scale, self.tau, self.alpha)
        # z+ - sum_k weight_k (z+ - z_k) stands for z- in the published form
        wide = torch.promote_types(positive.dtype, torch.float32)
        away = [s * (positive.to(wide) - n.to(wide)) for s, n in zip(strengths, negatives, strict=True)]
        negative = positive.to(wide) - torch.stack(away).sum(dim=0)
        guided = nag(positive, negative, self.scale, self.tau, self.alpha)
        # nor is anything capped where no negative acts
        acts: Any = sum(strengths) > 0
        return guided if acts is True else torch.where(acts, guided, positive)
