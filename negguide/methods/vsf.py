"""Value sign flip: prompt and negatives in one softmax, the negatives' values turned round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from negguide.guidance import vsf
from negguide.methods.base import AttentionMethod, NegativeAttention
from negguide.methods.negative import Negative
from negguide.methods.registry import register_method
from negguide.methods.validation import boolean, non_negative, number


@register_method
@dataclass(frozen=True, eq=False, init=False, repr=False)
class VSF(AttentionMethod):
    """Value sign flip (arXiv 2508.10931): attend to prompt and negatives at once, the negatives' values turned round.

    softmax(Q [K+; K_1; ..; K_n] / sqrt(D) + [0; bias; ..]) [V+; -scale weight_1 V_1; ..].

    A negative that overlaps the prompt takes the prompt's own words away: its keys draw attention from theirs, and its
    values cancel theirs. `orthogonal=True` is for such negatives: from the output for the prompt alone, only that part
    of the negatives' values is taken that is orthogonal to it.

    It is off only without a negative: at scale 0 the negatives still draw attention away from the prompt, unless
    `orthogonal`.

    Args:
        negatives: one or more `Negative` or plain strings.
        scale: strength of the flipped values, >= 0.
        bias: added to the logits of the negatives' keys; below 0 they draw less attention.
        orthogonal: leave the prompt its attention, and take away only what is orthogonal to its output; False is as
            published.
        max_sequence_length: to how many tokens at most each negative's text is encoded; None = as many as the prompt's
            (see `AttentionMethod`).

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    key: ClassVar[str] = "vsf"
    label: ClassVar[str] = "VSF"
    summary: ClassVar[str] = (
        "value sign flip: attends to prompt and negatives at once, with the negatives' values turned round"
    )
    source: ClassVar[str] = "arXiv 2508.10931"

    negatives: tuple[Negative, ...]
    scale: float = 3.0
    bias: float = 0.0
    orthogonal: bool = False
    max_sequence_length: int | None = None

    def __init__(
        self,
        *prompts: Negative | str,
        scale: float = 3.0,
        bias: float = 0.0,
        orthogonal: bool = False,
        max_sequence_length: int | None = None,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        self._hold_length(max_sequence_length)
        object.__setattr__(self, "scale", non_negative("scale", scale))
        bias = number("bias", bias)
        if not math.isfinite(bias):
            raise ValueError(f"bias must be finite, got {bias}")
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "orthogonal", boolean("orthogonal", orthogonal))

    def attend(self, attention: NegativeAttention) -> Tensor:
        """The output of attention over the prompt and the negatives, whose values have their sign flipped."""
        keys, values, mask = attention.negative_keys()
        output = vsf(
            attention.query,
            attention.key_pos,
            attention.value_pos,
            keys,
            values,
            self.scale,
            self.bias,
            mask_pos=attention.mask_pos,
            mask_neg=mask,
            orthogonal=self.orthogonal,
        )
        return output.transpose(1, 2).flatten(2)
