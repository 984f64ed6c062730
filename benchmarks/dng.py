"""Dynamic Negative Guidance, as published, to compare with (arXiv 2410.14398; its code: compute_posterior_DNG).

The negative n is taken away by as much as the sample is likely to belong to it,

    guided = u + g (c - u) - lambda p / (1 - p) (n - u),

beside the classifier-free guidance of the prompt c, with p an estimate of p(negative | x_t) for every image. It starts
from a prior and follows the reverse chain. After the step from x_t to x_s it is multiplied by

    exp( (-tau (|x_s - mu_n|^2 - |x_s - mu_u|^2) + offset) / (2 sigma^2) )

and clamped, where mu_n, mu_u and sigma^2 are the means and the variance of DDPM's step for the predictions n and u.

Of x_s the sampler's noise is left out: DDIM adds none, and its share of the difference has mean 0. Then x_s is the mean
for the guided prediction; all three means are the same function of x_t, linear in a prediction, so x_t drops out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from negguide import Negative
from negguide.methods import ScoreMethod


@dataclass(frozen=True)
class ReverseStep:
    """One step of the chain.

    Attributes:
        kernel: what squared distances of predictions are multiplied by to be |mu - mu'|^2 / (2 sigma^2).
        variance: sigma^2.
    """

    kernel: float
    variance: float


def reverse_steps(scheduler: Any, num_inference_steps: int) -> list[ReverseStep]:
    """The steps that a scheduler with `alphas_cumprod` will take, without the last, which no other follows.

    With a = alphas_cumprod of x_t and b of x_s, sigma^2 = (1 - b) / (1 - a) (1 - a / b), and |mu - mu'|^2 / (2 sigma^2)
    = (b / (1 - b) - a / (1 - a)) / 2 |x0 - x0'|^2 in the predicted images, where |x0 - x0'|^2 is (1 - a) |v - v'|^2
    for velocities and (1 - a) / a |e - e'|^2 for noise.

    Raises:
        ValueError: another type of prediction.
    """
    kind = scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        raise ValueError(f"scheduler.config.prediction_type={kind!r}; use v_prediction or epsilon")
    # the pipeline's own is left as it is
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    kept = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]
    steps = []
    for a, b in pairwise(kept):
        images = 0.5 * (b / (1 - b) - a / (1 - a))
        per_prediction = 1 - a if kind == "v_prediction" else (1 - a) / a
        steps.append(ReverseStep(images * per_prediction, (1 - b) / (1 - a) * (1 - a / b)))
    return steps


@dataclass
class Posterior:
    """The estimates of one call of a pipeline; a call needs one of its own.

    Attributes:
        steps: of the chain.
        prior: p before the first step.
        temperature: tau.
        offset: added to the difference of the squared distances.
        lowest, highest: p is clamped to these.
    """

    steps: Sequence[ReverseStep]
    prior: float = 0.01
    temperature: float = 0.2
    offset: float = 0.003
    lowest: float = 1e-6
    highest: float = 0.8
    log: Tensor | None = field(default=None, init=False)
    taken: int = field(default=0, init=False)

    def odds(self, negatives: Tensor) -> Tensor:
        """p / (1 - p) before the step, [K, B] for negatives [K, B, ...]."""
        if self.log is None:
            self.log = negatives.new_full(negatives.shape[:2], math.log(self.prior))
        p = self.log.exp()
        return p / (1 - p)

    def update(self, guided: Tensor, uncond: Tensor, negatives: Tensor) -> None:
        """Take the step to the guided prediction into account.

        Raises:
            ValueError: more steps than the chain has: the object was used for a second call.
        """
        assert self.log is not None
        if self.taken > len(self.steps):
            raise ValueError(
                f"a Posterior is for one call of {len(self.steps) + 1} steps; make another for the next"
            )
        self.taken += 1
        if self.taken > len(self.steps):
            return
        step = self.steps[self.taken - 1]
        from_negatives = (guided - negatives).flatten(2).square().sum(dim=2)
        from_uncond = (guided - uncond).flatten(1).square().sum(dim=1)
        difference = from_negatives - from_uncond
        log = self.log - self.temperature * step.kernel * difference + self.offset / (2 * step.variance)
        self.log = log.clamp(math.log(self.lowest), math.log(self.highest))


@dataclass(frozen=True, eq=False, init=False, repr=False)
class DynamicNegativeGuidance(ScoreMethod):
    """The method for one call: a negative's weight is lambda, and it must act in all steps (start=0, stop=1).

    Args:
        negatives: one or more; each has its own posterior.
        posterior: of this call.
    """

    key: ClassVar[str] = "dng"
    label: ClassVar[str] = "Dynamic Negative Guidance"
    summary: ClassVar[str] = "takes a negative away by as much as the sample is likely to belong to it"
    source: ClassVar[str] = "arXiv 2410.14398"

    negatives: tuple[Negative, ...]
    posterior: Posterior

    def __init__(
        self,
        *prompts: Negative | str,
        posterior: Posterior,
        negatives: Sequence[Negative | str] | None = None,
    ) -> None:
        self._hold(prompts, negatives)
        object.__setattr__(self, "posterior", posterior)

    def guide(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Tensor,
        weights: Tensor,
        guidance_scale: float,
        masks: Tensor | None = None,
    ) -> Tensor:
        if masks is not None:
            raise ValueError(
                "a Negative with a mask: Dynamic Negative Guidance acts on whole images; leave mask out"
            )
        scales = weights.reshape(len(weights), -1) * self.posterior.odds(negatives)
        scales = scales.reshape(*scales.shape, *[1] * (uncond.ndim - 1)).to(uncond.dtype)
        taken = (scales * (negatives - uncond)).sum(dim=0)
        guided = uncond + guidance_scale * (cond - uncond) - taken
        self.posterior.update(guided, uncond, negatives)
        return guided
