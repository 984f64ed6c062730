"""When a node acts: windows over the steps of a run, or over the noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .guidance.window import active

STEPS = "steps"
NOISE = "noise"
UNITS = [STEPS, NOISE]
# of 1: schedules and dtypes round
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Window:
    """From `start` to `stop`, both from 0, where sampling begins, to 1, where it ends.

    Args:
        start, stop: 0 <= start < stop <= 1.
        unit: "steps": fractions of the run's steps. "noise": how much of the noise is gone, 1 - t / 1000, t being the
            model's timestep of 1000, which is 1000 sigma for flow models; the same whatever the scheduler and the
            steps. Its ends belong to it.
        owner: whose it is, for messages.

    Raises:
        ValueError: it ends before it begins, or is not inside the run.
    """

    start: float
    stop: float
    unit: str = STEPS
    owner: str = "this node"

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"{self.owner}: start and stop must satisfy 0 <= start < stop <= 1, got start={self.start:g}, "
                f"stop={self.stop:g}"
            )
        if self.unit not in UNITS:
            raise ValueError(f"{self.owner}: unit must be one of {', '.join(UNITS)}, got {self.unit!r}")

    def holds(self, step: int, count: int, gone: float | None) -> bool:
        """Whether it holds a step.

        Args:
            step, count: the step, from 0, and how many there are.
            gone: how much of the noise is gone; None where that is not known.

        Raises:
            ValueError: it is over the noise, and that is not known.
        """
        if self.unit == STEPS:
            return active(self.start, self.stop, step, count)
        if gone is None:
            raise ValueError(
                f"{self.owner}: unit={NOISE!r} needs a model with timesteps or a flow, and this one has neither; "
                f"choose unit={STEPS!r}"
            )
        return self.start - _ROUNDING <= gone <= self.stop + _ROUNDING


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        index, count: which of how many.
        gone: how much of the noise is gone at each step of the run, where that is known.
        from_noise: whether the run begins with noise alone.
    """

    index: int
    count: int
    gone: tuple[float | None, ...]
    from_noise: bool

    def inside(self, window: Window) -> bool:
        return window.holds(self.index, self.count, self.gone[self.index])


class Steps:
    """The steps of a run, by their sigmas.

    Args:
        sigmas: [steps + 1], as samplers go through them: falling, or rising where an image is turned into noise.
        model: ComfyUI's, whose `model_sampling` knows timesteps.
        from_noise: whether the run begins with noise alone.
    """

    def __init__(self, sigmas: Any, model: Any, from_noise: bool) -> None:
        self.sigmas: list[float] = sigmas.detach().float().cpu().tolist()
        self.count = len(self.sigmas) - 1
        if self.count < 1:
            raise ValueError(f"sigmas must be those of at least one step, got {self.sigmas}")
        self._rises = self.sigmas[0] < self.sigmas[-1]
        if self.sigmas != sorted(self.sigmas, reverse=not self._rises):
            raise ValueError(
                "sigmas must fall or rise from the first step to the last one, or a step cannot be told by its noise; "
                f"got {', '.join(f'{sigma:.4g}' for sigma in self.sigmas)}"
            )
        self.gone = tuple(noise_gone(model, sigma) for sigma in self.sigmas[:-1])
        self.from_noise = from_noise

    def at(self, sigma: Any) -> Step:
        """The step that a noise level belongs to: samplers of higher order also ask between two steps."""
        value = float(sigma.flatten()[0])
        if self._rises:
            begun = sum(value >= known * (1 - 1e-4) for known in self.sigmas[:-1])
        else:
            begun = sum(value <= known * (1 + 1e-4) for known in self.sigmas[:-1])
        return Step(max(0, begun - 1), self.count, self.gone, self.from_noise)

    def check(self, windows: Sequence[Window]) -> None:
        """Refuse a window that holds no step of the run.

        Raises:
            ValueError: naming it.
        """
        for window in windows:
            if not any(Step(i, self.count, self.gone, False).inside(window) for i in range(self.count)):
                raise ValueError(
                    f"{window.owner}: no step lies from start={window.start:g} to stop={window.stop:g} (in "
                    f"{window.unit}) of the {self.count} steps of this run; give a wider window or more steps"
                )


def noise_gone(model: Any, sigma: float) -> float | None:
    """How much of the noise is gone at a noise level: 1 - t with the model's timestep t as a fraction of all.

    None for models of EDM's kind, whose timestep is a logarithm and has no end.
    """
    import comfy.model_sampling as kinds
    import torch

    sampling = model.model_sampling
    at = torch.tensor([sigma], device=sampling.sigmas.device)
    # these have timesteps from 0 to 1, though they are built on those below
    fractions = (kinds.StableCascadeSampling, kinds.ModelSamplingContinuousV, kinds.ModelSamplingCosmosRFlow)
    if isinstance(sampling, fractions):
        return 1 - float(sampling.timestep(at))
    if isinstance(sampling, kinds.ModelSamplingDiscreteEDM):
        return None
    if isinstance(sampling, kinds.ModelSamplingDiscrete):
        # from 0 on; those of LCM are 50 of 1000, so that the number of its sigmas tells nothing
        last = float(sampling.timestep(sampling.sigma_max.reshape(1)))
        return 1 - float(sampling.timestep(at)) / (last + 1)
    return 1 - sigma if isinstance(sampling, kinds.CONST) else None
