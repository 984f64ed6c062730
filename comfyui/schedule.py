"""When Perp-Neg has negatives predicted, what they weigh, and what stands for a prediction that is left out."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guidance.automatic import automatic_weight, presence
from .guidance.projection import perpendicular
from .guidance.score import relative_shift
from .negatives import AUTO, Negatives
from .runs import norm
from .windows import STEPS, Step, Window

JOINT = {"automatic": None, "off": False, "on": True, "overlap": "overlap"}
_NOISE_GONE = 0.05
"""Up to which the image is noise: what a prediction says of it comes from the text alone."""
_DECIDED = 0.4
"""Fraction of the steps after which the direction of guidance changes slowly."""
_LITTLE = 0.5
"""An adaptive negative rests when its fraction of the guidance is below so much of its largest."""
_NOT_PRESENT = 0.05
"""With `economy` an automatic negative rests where it has not counted more than this in an image."""


@dataclass(frozen=True)
class Options:
    """Of the node Perp-Neg, besides the negatives; its tooltips say what they do."""

    joint: str = "automatic"
    auto_weight: float = 4.5
    refresh_every: int = 1
    adaptive: bool = False
    economy: bool = False
    guidance_stop: float = 1.0

    def __post_init__(self) -> None:
        if self.joint not in JOINT:
            raise ValueError(f"joint must be one of {', '.join(JOINT)}, got {self.joint!r}")
        if not self.auto_weight > 0:
            raise ValueError(f"auto_weight must be > 0, got {self.auto_weight}")
        if self.refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {self.refresh_every}")
        if self.economy and self.refresh_every != 1:
            raise ValueError(
                f"refresh_every={self.refresh_every} cannot be given beside economy, which chooses the steps itself; "
                "set it to 1"
            )
        if not 0 < self.guidance_stop <= 1:
            raise ValueError(
                f"guidance_stop must be a fraction of the steps above 0 and up to 1, got {self.guidance_stop}"
            )

    @property
    def leaves_out(self) -> bool:
        """Whether there are steps without a prediction of the negative prompt."""
        return self.economy or self.guidance_stop < 1

    def check(self, negatives: Negatives) -> None:
        """Refuse negatives that could never act.

        Raises:
            ValueError: naming one that begins when guidance has ended.
        """
        for negative in negatives:
            window = negative.window
            if window.unit == STEPS and window.start >= self.guidance_stop:
                raise ValueError(
                    f"{window.owner} acts from {window.start:g} on, and guidance_stop={self.guidance_stop:g} ends "
                    "guidance before that; the negative would never act"
                )


def noisy_steps(step: Step) -> int:
    """With how many steps the run begins in which the image is noise."""
    noisy = 0
    for gone in step.gone:
        if gone is None or gone >= _NOISE_GONE:
            break
        noisy += 1
    return max(noisy, int(step.from_noise))


def evaluates_negative(turn: int, negatives: int, step: Step) -> bool:
    """Whether `economy` has a negative predicted at a step.

    All are at the first step, and at the first two that show how present they are; beside these the turn of each comes
    every max(negatives, count / 6) steps.

    Args:
        turn: its place among the `negatives` whose window is open.
    """
    shown = noisy_steps(step)
    if step.index in (0, shown, shown + 1):
        return True
    return (step.index - shown - 1 + turn) % max(negatives, round(step.count / 6)) == 0


def evaluates_uncond(step: Step) -> bool:
    """Whether `economy` has the negative prompt predicted: in the first two fifths, then once in a quarter."""
    decided = math.ceil(_DECIDED * step.count)
    return step.index < decided or (step.index - decided + 1) % max(1, round(step.count / 4)) == 0


class Schedule:
    """What the negatives of one run were when they were last predicted, what they weigh, and which rest."""

    def __init__(self, negatives: Negatives, options: Options) -> None:
        self.negatives = negatives
        self.options = options
        self.guidance = Window(0.0, options.guidance_stop, STEPS, "guidance")
        # of each negative: the step of its last prediction, and perp(n - u, p) / |p| of that step
        self.evaluated: dict[int, int] = {}
        self.remainders: dict[int, Tensor] = {}
        # of those with weight "auto": [B] how present at most so far, and the last weights
        self.seen: dict[int, Tensor] = {}
        self.weights: dict[int, Tensor] = {}
        # of adaptive ones: [B] the largest fraction of the guidance; of all that may rest: [B] where they do not
        self.largest: dict[int, Tensor] = {}
        self.active: dict[int, Tensor] = {}

    def open(self, step: Step) -> list[int]:
        """The negatives of weight above 0 whose window is open."""
        if not step.inside(self.guidance):
            return []
        return [
            k
            for k, negative in enumerate(self.negatives)
            if negative.weight != 0 and step.inside(negative.window)
        ]

    def acting(self, step: Step) -> list[int]:
        """Those of the open ones that do not rest in every image."""
        return [k for k in self.open(step) if k not in self.active or bool(self.active[k].any())]

    def stale(self, k: int, step: Step) -> bool:
        """Whether negative k has to be predicted.

        A step of several calls (samplers of higher order) evaluates in all of them or in none.
        """
        if k not in self.evaluated or self.evaluated[k] == step.index:
            return True
        if not self.options.economy:
            return (step.index - self.evaluated[k]) % self.options.refresh_every == 0
        # resting ones count: what they are in other images of the batch must not matter
        mates = self.open(step)
        return evaluates_negative(mates.index(k), len(mates), step)

    def complete(self, k: int, u: Tensor, c: Tensor, prediction: Tensor | None, step: Step) -> Tensor:
        """The prediction, or what stands for it: u + |p| q' with the q' of the last one."""
        if self.options.refresh_every == 1 and not self.options.economy:
            assert prediction is not None
            return prediction
        length = norm(c - u)
        if prediction is None:
            return u + length * self.remainders[k]
        self.evaluated[k] = step.index
        # the rest lies along a prompt that will have turned since
        self.remainders[k] = perpendicular(prediction - u, c - u) / length
        return prediction

    def weight(self, k: int, u: Tensor, c: Tensor, negative: Tensor, evaluated: bool, step: Step) -> Tensor:
        """[B] weight of negative k, whose prediction is `negative`, evaluated at this step or not."""
        # what a step finds out holds from the next one on
        before = self.active.get(k)
        fixed = self.negatives[k].weight
        if fixed != AUTO:
            weight = u.new_full((len(u),), float(fixed))
        elif evaluated:
            weight = self._automatic(k, u, c, negative, step)
        else:
            weight = self.weights[k]
        if self.options.adaptive:
            fraction = relative_shift(u, c, negative[None], weight[None])[0]
            self.largest[k] = torch.maximum(self.largest.get(k, fraction), fraction)
            self._goes_on(k, fraction >= _LITTLE * self.largest[k])
        return weight if before is None else weight * before

    def _automatic(self, k: int, u: Tensor, c: Tensor, negative: Tensor, step: Step) -> Tensor:
        present, along = presence(u, c, negative[None])
        before = self.seen.get(k, torch.zeros_like(present[0]))
        noise = step.index < noisy_steps(step)
        weight, seen = automatic_weight(before, present[0], along[0], self.options.auto_weight, noise)
        self.weights[k], self.seen[k] = weight, seen
        if self.options.economy and not noise:
            self._goes_on(k, seen > _NOT_PRESENT)
        return weight

    def _goes_on(self, k: int, enough: Tensor) -> None:
        """Negative k acts on only in the images [B] in which it does enough."""
        self.active[k] = enough if k not in self.active else self.active[k] & enough


class Unconditional:
    """The negative prompt's prediction in a run in which not every step has one.

    Args:
        schedule: of the run.
        model: ComfyUI's.
    """

    def __init__(self, schedule: Schedule, model: Any) -> None:
        self._schedule = schedule
        self._sampling = model.model_sampling
        self._direction: Tensor | None = None

    def left_out(self, step: Step) -> bool:
        if not step.inside(self._schedule.guidance):
            return True
        return self._schedule.options.economy and self._direction is not None and not evaluates_uncond(step)

    def keep(self, u: Tensor, c: Tensor, sigma: Tensor) -> None:
        """Remember p = c - u as the model predicted it."""
        if self._schedule.options.economy:
            self._direction = (c - u) / self._slope(c, sigma)

    def instead(self, c: Tensor, sigma: Tensor, step: Step) -> Tensor:
        """What stands for it: c behind the end of guidance, else c - p with the last direction p."""
        if not step.inside(self._schedule.guidance):
            return c
        assert self._direction is not None
        return c - self._direction * self._slope(c, sigma)

    def _slope(self, like: Tensor, sigma: Tensor) -> Tensor:
        """How a denoised image, which is what ComfyUI hands out, changes with the model's own prediction."""
        found: Tensor = self._sampling.calculate_denoised(
            sigma.float(), torch.ones_like(like[:, :1]), torch.zeros_like(like[:, :1])
        )
        return found
