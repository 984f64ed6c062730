"""What NAG, ONG and VSF make of the attention outputs for prompt and negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guidance.attention import nag, ong, vsf

Strength = float | Tensor
"""Weight of a negative: a number, or [1 or rows, N, 1] where it has a mask."""


@dataclass(frozen=True)
class NAG:
    """Normalized attention guidance, arXiv 2505.21179.

    z = z+ + (scale - 1) sum_k w_k (z+ - z_k); |z|_1 is capped at tau |z+|_1; the result is alpha z + (1 - alpha) z+.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    label = "NAG"

    def __post_init__(self) -> None:
        if not self.scale >= 1:
            raise ValueError(f"scale must be >= 1 (1 is off), got {self.scale}")
        if not self.tau > 0:
            raise ValueError(f"tau must be > 0, got {self.tau}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")

    def combine(self, positive: Tensor, negatives: Sequence[Tensor], strengths: Sequence[Strength]) -> Tensor:
        if len(negatives) == 1 and isinstance(strengths[0], float) and strengths[0] == 1:
            return nag(positive, negatives[0], self.scale, self.tau, self.alpha)
        # z+ - sum_k w_k (z+ - z_k) stands for z- in the published form
        wide = torch.promote_types(positive.dtype, torch.float32)
        away = [s * (positive.to(wide) - n.to(wide)) for s, n in zip(strengths, negatives, strict=True)]
        negative = positive.to(wide) - torch.stack(away).sum(dim=0)
        guided = nag(positive, negative, self.scale, self.tau, self.alpha)
        # nor is anything capped where no negative acts
        acts: Any = sum(strengths) > 0
        return guided if acts is True else torch.where(acts, guided, positive)


@dataclass(frozen=True)
class ONG:
    """Orthogonal negative guidance, arXiv 2605.29390: z+ - scale sum_k w_k (z_k - <z_k, z+> / |z+|^2 z+)."""

    scale: float = 1.0
    label = "ONG"

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale must be >= 0 (0 is off), got {self.scale}")

    def combine(self, positive: Tensor, negatives: Sequence[Tensor], strengths: Sequence[Strength]) -> Tensor:
        weighted = torch.stack([s * n for s, n in zip(strengths, negatives, strict=True)])
        return ong(positive, weighted, self.scale)


@dataclass(frozen=True)
class VSF:
    """Value sign flip, arXiv 2508.10931: prompt and negatives attended at once, the negatives' values turned round."""

    scale: float = 3.0
    bias: float = 0.0
    orthogonal: bool = False
    label = "VSF"

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale must be >= 0, got {self.scale}")

    def attend(
        self,
        query: Tensor,
        prompt: tuple[Tensor, Tensor, Tensor | None],
        negatives: Sequence[tuple[Tensor, Tensor]],
        strengths: Sequence[Strength],
        weights: Sequence[float],
    ) -> Tensor:
        """[B, H, N, D] for a query of that shape.

        Args:
            prompt: keys and values [B, H, M, D] that the query sees with the prompt, and their mask.
            negatives: keys and values of each negative's text.
            strengths: as for `combine`: where it is below half of its weight, a negative's keys are closed.
            weights: of the negatives.
        """
        keys = torch.cat([key for key, _ in negatives], dim=2)
        values = torch.cat([w * value for w, (_, value) in zip(weights, negatives, strict=True)], dim=2)
        return vsf(
            query,
            prompt[0],
            prompt[1],
            keys,
            values,
            self.scale,
            self.bias,
            mask_pos=prompt[2],
            mask_neg=_closed(query, negatives, strengths, weights),
            orthogonal=self.orthogonal,
        )


def _closed(
    query: Tensor,
    negatives: Sequence[tuple[Tensor, Tensor]],
    strengths: Sequence[Strength],
    weights: Sequence[float],
) -> Tensor | None:
    """[rows, 1, N, keys]: closed where a negative's mask is below half; None without masks."""
    if not any(isinstance(strength, Tensor) for strength in strengths):
        return None
    parts = []
    for (key, _), strength, weight in zip(negatives, strengths, weights, strict=True):
        part = query.new_zeros(len(query), 1, query.shape[2], key.shape[2])
        if isinstance(strength, Tensor):
            acts = strength[..., 0] >= 0.5 * weight
            part = part.masked_fill(~acts[:, None, :, None], -torch.inf)
        parts.append(part)
    return torch.cat(parts, dim=3)


Method = NAG | ONG | VSF
