"""Orthogonal negative guidance: Perp-Neg's projection inside attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from negguide.guidance import ong
from negguide.methods.base import AttentionMethod
from negguide.methods.negative import Negative
from negguide.methods.registry import register_method
from negguide.methods.validation import non_negative


@register_method
@dataclass(frozen=True, eq=False, init=False, repr=False)
class ONG(AttentionMethod):
    """Orthogonal negative guidance (arXiv 2605.29390): Perp-Neg's projection on attention outputs.

    With z+ and z_k the attention outputs for the prompt and for negative k, per token:
    z+ - scale sum_k weight_k (z_k - <z_k, z+> / |z+|^2 z+).

    Args:
        negatives: one or more `Negative` or plain strings.
        scale: strength, >= 0; 0 is off.
        max_sequence_length: to how many tokens at most each negative's text is encoded; None = as many as the prompt's
            (see `AttentionMethod`).

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    key: ClassVar[str] = "ong"
    label: ClassVar[str] = "ONG"
    summary: ClassVar[str] = (
        "orthogonal negative guidance: takes the part of the negative's attention away that is orthogonal to the "
        "prompt's; any number of negatives"
    )
    source: ClassVar[str] = "arXiv 2605.29390"

    negatives: tuple[Negative, ...]
    scale: float = 1.0
    max_sequence_length: int | None = None

    def __init__(
        self,
        *prompts: Negative | str,
        scale: float = 1.0,
        max_sequence_length: int | None = None,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        self._hold_length(max_sequence_length)
        object.__setattr__(self, "scale", non_negative("scale", scale))

    def combine(
        self, positive: Tensor, negatives: Sequence[Tensor], strengths: Sequence[float | Tensor]
    ) -> Tensor:
        """The output minus what the weighted negatives have that is orthogonal to it.

        Args:
            positive: the output with the prompt.
            negatives: those with each negative, of the same shape.
            strengths: the weight of each negative, a number or one that broadcasts against it.
        """
        weighted = torch.stack([s * n for s, n in zip(strengths, negatives, strict=True)])
        return ong(positive, weighted, self.scale)
