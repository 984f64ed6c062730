"""Perp-Neg: negatives in score space, one prediction a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from negguide.guidance import perp_neg
from negguide.methods.base import ScoreMethod
from negguide.methods.negative import Negative
from negguide.methods.registry import register_method
from negguide.methods.validation import at_least_one, boolean
from negguide.methods.window import Edge


@register_method
@dataclass(frozen=True, eq=False, init=False, repr=False)
class PerpNeg(ScoreMethod):
    """Perp-Neg (arXiv 2304.04968): subtract only what of each negative is perpendicular to the prompt.

    With p = cond - uncond and n_k = negative_k - uncond the prediction is
    uncond + g (p - sum_k weight_k (n_k - <n_k, p> / |p|^2 p)).

    Args:
        negatives: one or more `Negative` or plain strings.
        joint: also make each negative perpendicular to the ones before it, so that two wordings of one thing do not
            count twice.
        refresh_every: evaluate each negative only every so many steps; in between its last n_k, scaled by |p| over the
            |p| of that step, is projected on each step's own p. 1 evaluates it at every step. A step without an
            evaluation costs what guidance alone costs.
        adaptive: make negative k inactive for the rest of the run once its fraction weight_k |perpendicular part of
            n_k| / |p| has fallen below half of the largest it has been; an image by itself, so that its batch mates do
            not matter. A negative that is inactive in every image is no longer evaluated. The host learns of it without
            waiting for the device, if need be a step later.

    Raises:
        ValueError: without any negative, or for a `refresh_every` below 1.
        TypeError: for anything that is neither a `Negative` nor a string.
    """

    key: ClassVar[str] = "perp-neg"
    label: ClassVar[str] = "Perp-Neg"
    summary: ClassVar[str] = (
        "subtracts only what of a negative is perpendicular to the prompt; any number of negatives, each with weight, "
        "window and mask"
    )
    source: ClassVar[str] = "arXiv 2304.04968"
    default_stop: ClassVar[Edge] = 0.5

    negatives: tuple[Negative, ...]
    joint: bool = False
    refresh_every: int = 1
    adaptive: bool = False

    def __init__(
        self,
        *prompts: Negative | str,
        joint: bool = False,
        refresh_every: int = 1,
        adaptive: bool = False,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        object.__setattr__(self, "joint", boolean("joint", joint))
        object.__setattr__(self, "refresh_every", at_least_one("refresh_every", refresh_every))
        object.__setattr__(self, "adaptive", boolean("adaptive", adaptive))

    def guide(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Tensor,
        weights: Tensor,
        guidance_scale: float,
        masks: Tensor | None = None,
    ) -> Tensor:
        return perp_neg(uncond, cond, negatives, weights, guidance_scale, joint=self.joint, masks=masks)
