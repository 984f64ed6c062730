"""The noise level of each step of a distillation, and the random numbers that it draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from negguide.methods.validation import at_least_one, at_least_zero, number

Kind = Literal["linear", "random"]


@dataclass(frozen=True)
class Schedule:
    """The noise level of each step: 1 is pure noise and 0 the image.

    Of flow models it is sigma, after any shift; of others the fraction of the training timesteps. What is
    `Timestep(700)` in a window of a negative is 0.7 here.

    Args:
        steps: of the whole run, at least 1.
        start, stop: the noisiest and the least noisy level, 1 >= start >= stop > 0.
        kind: "linear": from start in the first step to stop in the last; HiFA (arXiv 2305.18766) and DreamTime (arXiv
            2306.12422) also anneal, along other curves. "random": uniform between them at every step, as in
            DreamFusion.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    steps: int
    start: float = 0.98
    stop: float = 0.02
    kind: Kind = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", at_least_one("steps", self.steps))
        object.__setattr__(self, "start", number("start", self.start))
        object.__setattr__(self, "stop", number("stop", self.stop))
        # NaN fails the comparisons
        if not 0 < self.stop <= self.start <= 1:
            raise ValueError(
                f"start and stop of a Schedule must satisfy 1 >= start >= stop > 0, got start={self.start}, "
                f"stop={self.stop}"
            )
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind of a Schedule must be 'linear' or 'random', got {self.kind!r}")

    def check_step(self, step: Any) -> int:
        """The step, from 0 to steps - 1.

        Raises:
            TypeError, ValueError: it is none.
        """
        checked: int = at_least_zero("step", step)
        if checked >= self.steps:
            raise ValueError(f"step must be from 0 to {self.steps - 1}, one of the schedule's, got {checked}")
        return checked

    def noise_level(self, step: int, seed: int = 0) -> float:
        """That of a step; of a random schedule by the seed, the same whenever it is asked for."""
        step = self.check_step(step)
        if self.kind == "random":
            drawn = float(
                torch.rand((), generator=generator_of(seed, step, "noise level"), dtype=torch.float64)
            )
            return self.stop + (self.start - self.stop) * drawn
        if self.steps == 1:
            return self.start
        return self.start + (self.stop - self.start) * step / (self.steps - 1)


_STREAMS = ("noise level", "noise", "lora", "solid")


def generator_of(
    seed: int, step: int, stream: Literal["noise level", "noise", "lora", "solid"]
) -> torch.Generator:
    """The random numbers of one step, which need no state from the steps before: a run is resumed at any of them.

    Args:
        seed: of the run, >= 0.
        step: >= 0.
        stream: what is drawn; those of different streams are independent.
    """
    state = np.random.SeedSequence([seed, step, _STREAMS.index(stream)]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
