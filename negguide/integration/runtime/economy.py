"""`economy=True`: what is evaluated at which step of a run, so that it costs about what guidance alone costs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from negguide.integration.hooks.step_tracking import Step

NOISE = 950.0
"""Timestep down to which an image is noise: what a prediction says of it comes from the text alone."""
DECIDED = 0.4
"""Fraction of the steps after which the guidance direction changes slowly."""


def is_noise(step: Step) -> bool:
    """Whether the image is still noise at a step: by its timestep, and at the first step of a run from noise."""
    return step.index < _noisy_steps(step)


def evaluates_negative(turn: int, negatives: int, step: Step) -> bool:
    """Whether a negative is evaluated at a step: all at the first, and at the first two that show how present they are.

    Beside these its turn comes every max(n, count / 6) steps, n being the number of `negatives`.

    Args:
        turn: its place among the `negatives` whose window is open for the same images.
    """
    shown = _noisy_steps(step)
    if step.index in (0, shown, shown + 1):
        return True
    return (step.index - shown - 1 + turn) % max(negatives, round(step.count / 6)) == 0


def _noisy_steps(step: Step) -> int:
    """How many steps of the run begin with an image that is noise."""
    noisy = 0 if step.schedule is None else sum(timestep > NOISE for timestep in step.schedule)
    return max(noisy, int(step.from_noise))


def evaluates_uncond(step: int, count: int) -> bool:
    """Whether the unconditional prediction is evaluated: at every step of the first two fifths, then once a quarter."""
    decided = math.ceil(DECIDED * count)
    return step < decided or (step - decided + 1) % max(1, round(count / 4)) == 0


class Unconditional:
    """The unconditional prediction of a run in which not every step evaluates it.

    Args:
        economy: whether it is left out where `evaluates_uncond` says so.
        guided: whether guidance is on at a step.
    """

    def __init__(self, economy: bool, guided: Callable[[Step], bool]) -> None:
        self.economy = economy
        self.guided = guided
        self.direction: Tensor | None = None

    def left_out(self, step: Step) -> bool:
        """Whether the step needs none that is evaluated."""
        if not self.guided(step):
            return True
        return self.economy and self.direction is not None and not evaluates_uncond(step.index, step.count)

    def keep(self, uncond: Tensor, cond: Tensor) -> None:
        """Remember p = cond - uncond of a step that evaluated both."""
        if self.economy:
            wide = torch.promote_types(cond.dtype, torch.float32)
            self.direction = cond.to(wide) - uncond.to(wide)

    def instead(self, cond: Tensor, step: Step) -> Tensor:
        """What stands for it at a step that leaves it out.

        It is cond where guidance is off, else cond - p with the last direction p, in float32 for 16-bit predictions.
        """
        if not self.guided(step):
            return cond
        assert self.direction is not None
        return cond.to(self.direction.dtype) - self.direction
