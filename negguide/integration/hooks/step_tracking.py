"""Which step of its run a denoiser call belongs to: the one place where steps are counted.

Steps are those of the scheduler. A step of a second-order scheduler is two calls of the model (Heun, KDPM2), and the
first steps of PNDM are several; windows and `refresh_every` count steps, whatever the number of calls.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from negguide.methods import Method, Timestep, Window


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        index, count: step `index` of the `count` steps.
        timestep: the scheduler's; None where there is no scheduler.
        schedule: the timestep of every step from 1000, noise, to 0, the image; None where they are not known.
        also_open: windows that count as open here although they are not.
        from_noise: whether the run begins where its schedule does, with noise alone, however early that is (schedules
            with few steps may begin at t = 914); image to image begins later.
    """

    index: int
    count: int
    timestep: Tensor | None = None
    schedule: tuple[float, ...] | None = field(default=None, repr=False)
    also_open: frozenset[Window] = frozenset()
    from_noise: bool = True

    def inside(self, window: Window) -> bool:
        """Whether the window is open."""
        return self.index in self.steps_of(window) or window in self.also_open

    def steps_of(self, window: Window) -> frozenset[int]:
        """The steps of the run in which the window is open."""
        return _steps_of(window, self.schedule, self.count)


@functools.lru_cache(maxsize=256)
def _steps_of(window: Window, schedule: tuple[float, ...] | None, count: int) -> frozenset[int]:
    return window.steps([None] * count if schedule is None else schedule)


def timesteps_of(scheduler: Any) -> list[float]:
    """`scheduler.timesteps` from 1000, noise, to 0, the image, whatever they count.

    For flow models 1000 sigma, also where the model is told another timestep. Schedulers whose timesteps are functions
    of the noise are asked for the noise's share: TrigFlow's angle t has sin t / (sin t + cos t), EDM's 0.25 log sigma
    has sigma / (1 + sigma).
    """
    config = scheduler.config
    times = [float(t) for t in scheduler.timesteps]
    if "FlowMatch" in type(scheduler).__name__ and not config.get("invert_sigmas"):
        # CogView4 gives timesteps beside the sigmas, which alone are shifted then
        return [1000 * float(sigma) for sigma in scheduler.sigmas[: len(times)]]
    if config.get("prediction_type") == "trigflow":
        return [1000 * math.sin(t) / (math.sin(t) + math.cos(t)) for t in times]
    if "EDM" in type(scheduler).__name__ or config.get("timestep_type") == "continuous":
        return [1000 / (1 + math.exp(-4 * t)) for t in times]
    return [1000 * t / config.get("num_train_timesteps", 1000) for t in times]


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
        schedule = _schedule(scheduler, steps, begin, len(steps) - begin)
        return Step(steps[begin + call] - steps[begin], count, timestep, schedule, from_noise=begin == 0)
    return Step(call, count, timestep)


def _schedule(scheduler: Any, steps: list[int], begin: int, calls: int) -> tuple[float, ...]:
    """The timestep, 1000 to 0, at which each step of a run begins."""
    first: dict[int, float] = {}
    for step, timestep in list(zip(steps, timesteps_of(scheduler), strict=True))[begin : begin + calls]:
        first.setdefault(step, timestep)
    return tuple(first.values())


class StepTracker:
    """Follows one run by its scheduler.

    Args:
        scheduler: of the run, its timesteps set.
        calls: how many of its timesteps the run goes through; None = all. Image to image leaves out the first ones,
            `denoising_end` the last.
        first: the timestep of the run's first denoiser call in the scheduler's own units, where it is known; schedulers
            that do not say themselves where they begin are asked by it.
        end: the timestep below which the run leaves out what is left, as `denoising_end` does; None = nothing.
    """

    def __init__(
        self,
        scheduler: Any,
        calls: int | None = None,
        first: float | None = None,
        end: float | None = None,
    ) -> None:
        self.scheduler = scheduler
        timesteps = scheduler.timesteps
        self.calls = len(timesteps) if calls is None else calls
        self.begin = _begin(scheduler, self.calls, first)
        if end is not None:
            self.calls = min(self.calls, int((torch.as_tensor(timesteps[self.begin :]) >= end).sum()))
        steps = step_of_each_call(scheduler)
        self._first_step = steps[self.begin]
        self._steps = [steps[call] - self._first_step for call in range(self.begin, self.begin + self.calls)]
        self._timesteps = timesteps[self.begin : self.begin + self.calls]
        self._schedule = _schedule(scheduler, steps, self.begin, self.calls)
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

    def step(self, index: int) -> Step:
        """Step `index` of the run."""
        return self.at(self._steps.index(index))

    def at(self, call: int) -> Step:
        """The step of evaluation `call` of the run, from 0."""
        begins = self.begin == 0
        return Step(self._steps[call], self.count, self._timesteps[call], self._schedule, from_noise=begins)


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


def check_windows(methods: Iterable[Method], step: Step) -> None:
    """Refuse windows that hold none of the steps of a run, as far as it is known.

    Args:
        step: any of the run.

    Raises:
        ValueError: naming the window, and what to give.
    """
    for method in methods:
        for window in method.windows:
            if window.by_timestep and step.schedule is None:
                # the run will know
                continue
            if not step.steps_of(window):
                raise ValueError(
                    f"start={window.start}, stop={window.stop} of {window.owner} holds none of the {step.count} steps; "
                    f"{_what_to_give(window, step)}"
                )


def _what_to_give(window: Window, step: Step) -> str:
    if isinstance(window.start, Timestep) or isinstance(window.stop, Timestep):
        places = ", ".join(f"{t:.0f}" for t in (step.schedule or ())[:6])
        more = ", ..." if step.count > 6 else ""
        return f"they are at the timesteps {places}{more}"
    first = int(window.start * step.count)
    least = math.ceil(1000 * (first + 1) / step.count) / 1000
    return (
        f"each is 1/{step.count} of the run, and int(start * {step.count}) up to int(stop * {step.count}) - 1 are "
        f"inside: give stop={least:g} or more"
    )
