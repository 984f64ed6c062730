"""Which step of a run a denoiser call belongs to."""

from collections.abc import Sequence
from itertools import pairwise

from negguide.guidance import active
from negguide.methods import NegToMe, PerpNeg


def step_numbers(timesteps: Sequence[float]) -> list[int]:
    """The step of each denoiser call of a run, counted from 0; the calls' timesteps given.

    Calls at one timestep are one step: second-order schedulers (Heun) and PNDM's start evaluate a timestep twice, and
    windows are fractions of the steps that the user asked for.
    """
    numbers = [0]
    for previous, current in pairwise(timesteps):
        numbers.append(numbers[-1] + (current != previous))
    return numbers


def check_windows(methods: Sequence[PerpNeg | NegToMe], num_steps: int) -> None:
    """Refuse windows that hold none of the `num_steps` steps.

    Raises:
        ValueError: naming the window.
    """
    for method in methods:
        for windowed in method.negatives if isinstance(method, PerpNeg) else [method]:
            if not any(active(windowed.start, windowed.stop, step, num_steps) for step in range(num_steps)):
                raise ValueError(
                    f"start={windowed.start}, stop={windowed.stop} of {type(windowed).__name__} holds none of the "
                    f"{num_steps} steps; steps int(start * {num_steps}) up to int(stop * {num_steps}) - 1 are inside"
                )
