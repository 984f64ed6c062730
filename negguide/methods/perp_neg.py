"""Perp-Neg: negatives in score space, one prediction a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from negguide.guidance import Joint, perp_neg, perpendicular
from negguide.methods.base import ScoreMethod
from negguide.methods.negative import Negative
from negguide.methods.registry import register_method
from negguide.methods.validation import at_least_one, boolean, number, positive
from negguide.methods.window import Edge, Timestep


@register_method
@dataclass(frozen=True, eq=False, init=False, repr=False)
class PerpNeg(ScoreMethod):
    """Perp-Neg (arXiv 2304.04968): subtract only what of each negative is perpendicular to the prompt.

    With p = cond - uncond and n_k = negative_k - uncond the prediction is
    uncond + g (p - sum_k weight_k (n_k - <n_k, p> / |p|^2 p)).

    Args:
        negatives: one or more `Negative` or plain strings.
        joint: True: also make each negative perpendicular to the ones before it, so that two wordings of one thing do
            not count twice. "overlap": what a negative shares with those before it counts once, as strongly as the
            stronger of them takes it away. None: "overlap" where a negative's weight is "auto", else False.
        auto_weight: what a negative of weight "auto" weighs where it is present and repeats the prompt; see
            `negguide.guidance.automatic_weight`.
        refresh_every: evaluate each negative only every so many steps; in between the perpendicular part of its last
            n_k, scaled by |p| over the |p| of that step, is projected on each step's own p. 1 evaluates it at every
            step. A step without an evaluation costs what guidance alone costs.
        economy: make the whole run cost about what guidance alone costs. Negatives are evaluated at the first step, in
            turn in those after it, and then rarely, automatic ones that are not present in any image not at all; after
            the first two fifths of the run the unconditional prediction is evaluated once in a quarter of it, and in
            between the last direction p counts. With `refresh_every=1` alone.
        guidance_stop: where guidance ends, a fraction of the steps or a `Timestep`: behind it the conditional
            prediction alone counts, and nothing else is evaluated (arXiv 2404.07724). 1 = never.
        adaptive: make negative k inactive for the rest of the run once its fraction weight_k |perpendicular part of
            n_k| / |p| has fallen below half of the largest it has been; an image by itself, so that its batch mates do
            not matter. A negative that is inactive in every image is no longer evaluated. The host learns of it without
            waiting for the device, if need be a step later.

    Raises:
        ValueError: without any negative, for a `refresh_every` below 1 or beside `economy`, an `auto_weight` that is
            not > 0, a `joint` or a `guidance_stop` out of range, or a negative that begins behind it.
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
    weighs_automatically: ClassVar[bool] = True

    negatives: tuple[Negative, ...]
    joint: Joint | None = None
    refresh_every: int = 1
    adaptive: bool = False
    auto_weight: float = 4.5
    economy: bool = False
    guidance_stop: Edge = 1.0

    def __init__(
        self,
        *prompts: Negative | str,
        joint: Joint | None = None,
        refresh_every: int = 1,
        adaptive: bool = False,
        auto_weight: float = 4.5,
        economy: bool = False,
        guidance_stop: Edge = 1.0,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        if joint is not None and joint != "overlap" and not isinstance(joint, bool):
            error = ValueError if isinstance(joint, str) else TypeError
            raise error(f"joint must be True, False, 'overlap' or None, got {joint!r}")
        object.__setattr__(self, "joint", joint)
        object.__setattr__(self, "refresh_every", at_least_one("refresh_every", refresh_every))
        object.__setattr__(self, "adaptive", boolean("adaptive", adaptive))
        object.__setattr__(self, "auto_weight", positive("auto_weight", auto_weight))
        object.__setattr__(self, "economy", boolean("economy", economy))
        if self.economy and self.refresh_every != 1:
            raise ValueError(
                f"refresh_every={refresh_every} cannot be given beside economy=True, which chooses the steps itself"
            )
        object.__setattr__(self, "guidance_stop", _end_of_guidance(guidance_stop))
        for window in self.windows:
            if _begins_after(window.start, self.guidance_stop):
                raise ValueError(
                    f"{window.owner} acts from {window.start} to {window.stop}, and guidance_stop={guidance_stop} ends "
                    "guidance before that; the negative would never act"
                )

    def guide(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Tensor,
        weights: Tensor,
        guidance_scale: float,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Perp-Neg of the predictions; see `negguide.guidance.perp_neg`."""
        return perp_neg(uncond, cond, negatives, weights, guidance_scale, joint=self._joint, masks=masks)

    def remainder(self, negative: Tensor, positive: Tensor) -> Tensor:
        """What is kept of a negative until it is evaluated again: its part perpendicular to the prompt."""
        # the rest lies along a prompt that will have turned since, and would be taken away from that one
        return perpendicular(negative, positive)

    @property
    def _joint(self) -> Joint:
        if self.joint is not None:
            return self.joint
        return "overlap" if any(negative.automatic for negative in self.negatives) else False


def _end_of_guidance(value: Any) -> Edge:
    if isinstance(value, Timestep):
        return value
    fraction = number("guidance_stop", value)
    if not 0 < fraction <= 1:
        raise ValueError(
            f"guidance_stop must be a fraction of the steps, 0 < guidance_stop <= 1, or a Timestep, got {value}"
        )
    return fraction


def _begins_after(start: Edge, end: Edge) -> bool:
    """Whether a window begins behind an end, as far as that is known before the run."""
    if isinstance(start, Timestep) and isinstance(end, Timestep):
        return start.value < end.value
    return not isinstance(start, Timestep) and not isinstance(end, Timestep) and start >= end
