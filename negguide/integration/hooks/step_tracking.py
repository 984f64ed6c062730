"""Which step of its run a denoiser call belongs to: the one place where steps are counted.

Steps are those of the scheduler. A step of a second-order scheduler is two calls of the model (Heun, KDPM2), and the
first steps of PNDM are several; windows and `refresh_every` count steps, whatever the number of calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negguide.guidance import active
from negguide.methods import Method


@dataclass(frozen=True)
class Step:
    """Step `index` of the `count` steps of a run; `timestep` is the scheduler's, None where there is no scheduler."""

    index: int
    count: int
    timestep: Tensor | None = None

    def inside(self, start: float, stop: float) -> bool:
        """Whether the window [start, stop), in fractions of the steps, is open."""
        return active(start, stop, self.index, self.count)


def step_of_each_call(scheduler: Any) -> list[int]:
    """For each of `scheduler.timesteps`, which are the calls of a whole run, the step that it belongs to."""
    calls = len(scheduler.timesteps)
    if hasattr(scheduler, "prk_timesteps"):
        # PNDM: with Runge-Kutta four calls for each of the first steps, else two for the first one
        several = len(scheduler.prk_timesteps)
        if several:
            return [call // 4 if call < several else several // 4 + call - several for call in range(calls)]
        return [max(0, call - 1) for call in range(calls)]
    order = int(getattr(scheduler, "order", 1))
    return [call // order for call in range(calls)]


def step_of_loop(scheduler: Any, call: int, count: int, timestep: Tensor | None) -> Step:
    """The step of evaluation `call` of a loop that counts them itself and says that it takes `count` steps.

    Args:
        scheduler: of the loop, its timesteps set; None where there is none to ask.
    """
    steps = [] if scheduler is None or scheduler.timesteps is None else step_of_each_call(scheduler)
    # image to image begins later in the scheduler's timesteps
    begin = steps.index(steps[-1] - count + 1) if steps and steps[-1] + 1 >= count else len(steps)
    if begin + call < len(steps):
        return Step(steps[begin + call] - steps[begin], count, timestep)
    return Step(call, count, timestep)


class StepTracker:
    """Follows one run by its scheduler.

    Args:
        scheduler: of the run, its timesteps set.
        calls: how many of its timesteps the run goes through; None = all. Image to image leaves out the first ones,
            `denoising_end` the last.
        first: the timestep of the run's first denoiser call in the scheduler's own units, where it is known; schedulers
            that do not say themselves where they begin are asked by it.
    """

    def __init__(self, scheduler: Any, calls: int | None = None, first: float | None = None) -> None:
        self.scheduler = scheduler
        timesteps = scheduler.timesteps
        self.calls = len(timesteps) if calls is None else calls
        self.begin = _begin(scheduler, self.calls, first)
        steps = step_of_each_call(scheduler)
        self._first_step = steps[self.begin]
        self._steps = [steps[call] - self._first_step for call in range(self.begin, self.begin + self.calls)]
        self._timesteps = timesteps[self.begin : self.begin + self.calls]
        self._next = 0

    @property
    def count(self) -> int:
        """The steps of the run."""
        return self._steps[-1] + 1

    def advance(self) -> Step:
        """The step of the next evaluation: the model's calls for all branches at one of the scheduler's timesteps.

        Raises:
            ValueError: there are more evaluations than the scheduler has timesteps, or a second one at the same.
        """
        index = getattr(self.scheduler, "step_index", None)
        # a scheduler sets it at its first step
        call = self._next if index is None else int(index) - self.begin
        if call >= self.calls or call < self._next:
            raise ValueError(
                f"the denoiser was called more often than the {self.calls} timesteps of the run; a callback must not "
                "call it during a guided call"
            )
        self._next = call + 1
        return self.at(call)

    def at(self, call: int) -> Step:
        """The step of evaluation `call` of the run, from 0."""
        return Step(self._steps[call], self.count, self._timesteps[call])


def _begin(scheduler: Any, calls: int, first: float | None) -> int:
    """Where in the scheduler's timesteps a run begins that goes through `calls` of them."""
    for name in ("step_index", "begin_index"):
        begin = getattr(scheduler, name, None)
        if begin is not None:
            return int(begin)
    timesteps = scheduler.timesteps
    late = len(timesteps) - calls
    if late == 0 or first is None:
        return late
    # by the nearest: schedulers round, and pipelines hand timesteps on in other dtypes
    distance = (torch.as_tensor(timesteps).float() - first).abs().cpu()
    return late if distance[late] <= distance.min() else int(distance.argmin())


def check_windows(methods: Iterable[Method], count: int) -> None:
    """Refuse windows that hold none of the `count` steps.

    Raises:
        ValueError: naming the window.
    """
    for method in methods:
        for owner, start, stop in method.windows:
            if not any(active(start, stop, step, count) for step in range(count)):
                raise ValueError(
                    f"start={start}, stop={stop} of {owner} holds none of the {count} steps; steps "
                    f"int(start * {count}) up to int(stop * {count}) - 1 are inside"
                )
