"""Which step of a run a denoiser call belongs to."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch

from negguide.guidance import active
from negguide.methods import Method, NegToMe


def timesteps_of_run(every: torch.Tensor, count: int, first: float) -> torch.Tensor:
    """The `count` timesteps of a scheduler's that a run goes through, the one of its first denoiser call given.

    Image to image leaves out the scheduler's first ones, `denoising_end` its last.
    """
    late = len(every) - count
    begin = late if late == 0 or float(every[late]) == first else every.tolist().index(first)
    return every[begin : begin + count]


def step_numbers(timesteps: Sequence[float]) -> list[int]:
    """The step of each denoiser call of a run, counted from 0; the calls' timesteps given.

    Calls at one timestep are one step: second-order schedulers (Heun) and PNDM's start evaluate a timestep twice, and
    windows are fractions of the steps that the user asked for.
    """
    numbers = [0]
    for previous, current in pairwise(timesteps):
        numbers.append(numbers[-1] + (current != previous))
    return numbers


def windows_of(method: Method) -> list[tuple[float, float]]:
    """(start, stop) of the method, or of each of its negatives."""
    if isinstance(method, NegToMe):
        return [method.window]
    return [negative.window for negative in method.negatives]


def check_windows(methods: Iterable[Method], num_steps: int) -> None:
    """Refuse windows that hold none of the `num_steps` steps.

    Raises:
        ValueError: naming the window.
    """
    for method in methods:
        for start, stop in windows_of(method):
            if not any(active(start, stop, step, num_steps) for step in range(num_steps)):
                owner = "NegToMe" if isinstance(method, NegToMe) else "Negative"
                raise ValueError(
                    f"start={start}, stop={stop} of {owner} holds none of the {num_steps} steps; steps "
                    f"int(start * {num_steps}) up to int(stop * {num_steps}) - 1 are inside"
                )
