"""How much noise a pipeline's model knows at each timestep, and a scheduler that stops at timesteps of one's choice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from negguide.guidance.score_distillation import PredictionType, clean_and_noise, noised
from negguide.integration.hooks.views import Proxy


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels of a model.

    Attributes:
        kind: what the model predicts, as its pipeline hands it to the scheduler.
        steps: the training timesteps, of which the model is told one.
        alphas: of a discrete schedule, alpha = sqrt(cumulated product of 1 - beta) of each of them; None for flow
            models, whose alpha is 1 - sigma.
    """

    kind: PredictionType
    steps: int
    alphas: tuple[float, ...] | None

    def timesteps(self, noise_levels: Sequence[float]) -> Tensor:
        """What the model is told at noise levels.

        Args:
            noise_levels: 1 is pure noise and 0 the image; sigma for flow models, after any shift, and the fraction of
                the training timesteps for others, of which the nearest is taken.

        Returns:
            [len(noise_levels)] in the scheduler's units: whole numbers of a discrete schedule.
        """
        if self.alphas is None:
            return torch.tensor([level * self.steps for level in noise_levels])
        return torch.tensor([min(round(level * self.steps), self.steps - 1) for level in noise_levels])

    def noise_level(self, timestep: float) -> float:
        """The noise level of a timestep, from 1, noise, to 0, the image."""
        return timestep / self.steps

    def levels(self, timestep: float) -> tuple[float, float]:
        """(alpha, sigma) of x_t = alpha x_0 + sigma eps at a timestep."""
        if self.alphas is None:
            sigma = timestep / self.steps
            return 1 - sigma, sigma
        alpha = self.alphas[int(timestep)]
        return alpha, (1 - alpha * alpha) ** 0.5


def noise_schedule(scheduler: Any) -> NoiseSchedule:
    """The noise levels that a scheduler has.

    Raises:
        ValueError: they are neither those of a discrete schedule nor of a flow model.
    """
    config = scheduler.config
    kind = config.get("prediction_type")
    steps = int(config.get("num_train_timesteps", 1000))
    flow = "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas")
    if flow or kind == "flow_prediction":
        return NoiseSchedule("flow", steps, None)
    cumulated = getattr(scheduler, "alphas_cumprod", None)
    if cumulated is None or kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"pipe has a {type(scheduler).__name__} with prediction_type={kind!r}, whose noise levels are not known; "
            "give a pipeline whose scheduler has alphas_cumprod (e.g. DDIMScheduler), or one for flow matching"
        )
    return NoiseSchedule(kind, steps, tuple(float(a) ** 0.5 for a in cumulated.double()))


@dataclass(frozen=True)
class Evaluation:
    """One prediction of a run.

    Attributes:
        prediction: as the pipeline hands it to the scheduler, guided, in its own dtype.
        clean, noise: x_0 and eps that it says, in float32.
    """

    prediction: Tensor
    clean: Tensor
    noise: Tensor

    def shaped_as(self, latents: Tensor) -> Evaluation:
        """The same in the layout of `latents`."""
        return Evaluation(*(same_layout(one, latents) for one in (self.prediction, self.clean, self.noise)))


def same_layout(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` with the axes of size 1 that `like` has, e.g. that of the frames of a single image.

    Raises:
        ValueError: the other axes differ.
    """
    if [n for n in tensor.shape if n != 1] != [n for n in like.shape if n != 1]:
        raise ValueError(
            f"the pipeline has latents of shape {list(like.shape)}, and distillation has them as {list(tensor.shape)}; "
            "it does not know how this pipeline holds them"
        )
    return tensor.reshape(like.shape)


class Stops:
    """The timesteps at which a run evaluates the model, and what came of it.

    Args:
        schedule: of the model.
        timesteps: [N] from noise to image.
    """

    def __init__(self, schedule: NoiseSchedule, timesteps: Tensor) -> None:
        self.schedule = schedule
        self.timesteps = timesteps
        self.evaluations: list[Evaluation] = []

    def step(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """The next sample: DDIM's without noise, which for flow models is Euler's; after the last stop the clean one.

        Formula: alpha' x_0 + sigma' eps, with x_0 and eps of the prediction and the level of the next stop.

        Source: DDIM, arXiv 2010.02502, eq. 12 with sigma_t = 0.
        """
        index = len(self.evaluations)
        levels = self.schedule.levels(float(self.timesteps[index]))
        clean, noise = clean_and_noise(prediction, sample, *levels, self.schedule.kind)
        self.evaluations.append(Evaluation(prediction, clean, noise))
        if index + 1 == len(self.timesteps):
            return clean.to(sample.dtype)
        following = self.schedule.levels(float(self.timesteps[index + 1]))
        return noised(clean, noise, *following).to(sample.dtype)


class StoppingScheduler(Proxy):
    """A pipeline's scheduler as far as the pipeline can see, that goes through `Stops` and adds nothing of its own.

    Args:
        target: a copy of the scheduler, which pipelines may set attributes on.
        stops: the run.
    """

    __slots__ = ()
    _run: Stops

    order = 1
    begin_index = 0
    init_noise_sigma = 1.0

    def __getattr__(self, name: str) -> Any:
        # several calls of the model for one step (PNDM)
        if name == "prk_timesteps":
            raise AttributeError(name)
        return super().__getattr__(name)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of the run."""
        return self._run.timesteps

    @property
    def step_index(self) -> int:
        """How many predictions were made."""
        return len(self._run.evaluations)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The run begins at the first stop."""

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample as it is."""
        # the latents are those of alpha^2 + sigma^2 = 1 already
        return sample

    @property
    def set_timesteps(self) -> Callable[..., None]:
        """Keep the run's own timesteps, whatever number is asked for."""

        # pipelines look at the signature
        @functools.wraps(self._target.set_timesteps)
        def keep(*args: Any, device: Any = None, **kwargs: Any) -> None:
            self._run.timesteps = self._run.timesteps.to(device)

        return keep

    @property
    def step(self) -> Callable[..., Any]:
        """Take a prediction to the next stop."""

        @functools.wraps(self._target.step)
        def step(
            model_output: Tensor,
            timestep: Any,
            sample: Tensor,
            *args: Any,
            return_dict: bool = True,
            **kwargs: Any,
        ) -> Any:
            following = self._run.step(model_output, sample)
            if return_dict:
                return SchedulerOutput(prev_sample=following)
            # the second is the clean estimate, which PixArt-alpha takes where there is one step alone
            return following, self._run.evaluations[-1].clean.to(sample.dtype)

        return step
