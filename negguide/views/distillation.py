"""Score distillation from any pipeline with classifier-free guidance: gradients, or targets, for rendered images.

There is no renderer here: images come in, from whatever draws them, and a loss whose backward is the published gradient
goes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from negguide.guidance.score_distillation import (
    Weighting,
    distillation_gradient,
    distillation_weight,
    half_square,
    image_loss,
    noised,
    prediction_target,
    with_gradient,
)
from negguide.integration.diagnostics.trace import Trace
from negguide.integration.prediction import Predictions, Predictor
from negguide.methods import Negative, PerpNeg
from negguide.methods.validation import at_least_one, at_least_zero, boolean, number
from negguide.views.inputs import (
    ViewPrompts,
    Views,
    acting_method,
    angles,
    check_images,
    shared_method,
    view_prompts_of,
)
from negguide.views.lora import RenderLora, RenderModel
from negguide.views.schedule import Schedule, generator_of

Loss = Literal["sds", "image", "denoise", "vsd"]


class _Defaults(NamedTuple):
    """What a loss uses where nothing is said."""

    guidance_scale: float
    weighting: Weighting


LOSSES: Mapping[str, _Defaults] = MappingProxyType(
    {
        "sds": _Defaults(100.0, "variance"),
        "image": _Defaults(7.5, "uniform"),
        "denoise": _Defaults(7.5, "uniform"),
        "vsd": _Defaults(7.5, "variance"),
    }
)
"""The losses and their defaults: 100 as in DreamFusion, 7.5 as in ProlificDreamer."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """What one call gives.

    Attributes:
        loss: a scalar; `loss.backward()` puts the gradient on the images that were given.
        noise_level: of the step, 1 = noise; see `Schedule`.
        weight: w(t) of the loss; 1 for "denoise".
        target: [B, 3, H, W] in [0, 1], detached: what the images should become, of "image" and "denoise"; else None.
        lora_loss: of "vsd", the loss with which the LoRA was trained in this call; else None.
        trace: how the negatives acted, with trace=True and where any did.
    """

    loss: Tensor
    noise_level: float
    weight: float
    target: Tensor | None = None
    lora_loss: float | None = None
    trace: Trace | None = None


class ScoreDistillation:
    r"""Tells a renderer's images what a text-to-image pipeline thinks of them, with negatives that follow the view.

    With z = encode(images), x_t = alpha z + sigma eps, eps_hat and z_hat the noise and the clean estimate of the guided
    prediction (Perp-Neg included), B images and w(t) = sigma^2 ("variance") or 1 ("uniform"):

    | loss | value | gradient by the images |
    |---|---|---|
    | sds | 1/2 \|w (eps_hat - eps)\|^2 / B | w (eps_hat - eps) / B through the encoder |
    | vsd | 1/2 \|w (eps_hat - eps_phi)\|^2 / B | w (eps_hat - eps_phi) / B through the encoder |
    | image | w/2 \|images - decode(z_hat)\|^2 / B | w (images - decode(z_hat)) / B |
    | denoise | mean \|images - target\| | sign(images - target) / (3 B H W) |

    The denoiser runs without gradients, as published. `image` is the pixel term of HiFA's loss. `denoise` goes in
    `denoise_steps` DDIM steps (Euler's, for flow models) from x_t to an image without noise, as SDEdit does, and takes
    that as target; it is meant to be fitted for several steps of the renderer. For `vsd` a copy of the denoiser with a
    LoRA learns the renders as they are: eps_phi is its prediction for the image's prompt without guidance, and each
    call trains it once, on mean \|m - m_target\|^2 at a noise level of its own, uniform in (0.001, 1], where m is
    what the model predicts. ProlificDreamer tells that model the camera by an embedding; here the view words of the
    prompt say it, for the model's inputs stay those of its family.

    All images of a call share one noise level. Noise and its level follow from (seed, step) alone: a run
    is resumed at any step by asking for that step, with `load_state_dict` for `vsd`.

    Windows of negatives are of noise levels: a fraction f of `start` and `stop` is
    `Timestep(1000 (1 - f))`. A negative that says nothing thus acts while t >= 500; give `stop=1` for all of it.

    Args:
        pipe: a text-to-image pipeline with classifier-free guidance and an autoencoder; epsilon, v and flow. It is left
            as it is: its scheduler, models and hooks.
        prompt: what every image shows, where `views` does not say it.
        schedule: the noise level of each step.
        views: `views(azimuths, elevations)`, see `Views`; None = `prompt` for all.
        negatives: for every image, beside those of `views`: `Negative` objects or strings, or a `PerpNeg` with its
            options; None = none.
        loss: see above.
        guidance_scale: as the pipeline's own call has it (`true_cfg_scale` where it has one), > 1; None = 100 for sds,
            7.5 for the others.
        weighting: w(t); None = "variance" for sds and vsd, "uniform" for image.
        denoise_steps: of `denoise`, at least 1; None = 4.
        lora: how `vsd` fine-tunes; None = `RenderLora()`.
        seed: >= 0.
        arguments: further arguments of the pipeline's call, e.g. {"max_sequence_length": 128}.
        trace: also return how the negatives acted.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right, before any model runs.

    Source: sds: DreamFusion, arXiv 2209.14988; image: HiFA, arXiv 2305.18766; denoise: SDEdit, arXiv 2108.01073; vsd:
    ProlificDreamer, arXiv 2305.16213; negatives by view: Perp-Neg, arXiv 2304.04968.

    Example:
        >>> distill = ScoreDistillation(pipe, "a bear", schedule=Schedule(1000), negatives=["snow"])
        >>> for step in range(1000):
        ...     images = render(azimuth=[90.0, 210.0])  # [2, 3, 512, 512], with gradients
        ...     distill(images, azimuth=[90.0, 210.0], step=step).loss.backward()
        ...     optimizer.step(), optimizer.zero_grad()
    """

    def __init__(
        self,
        pipe: Any,
        prompt: str,
        *,
        schedule: Schedule,
        views: Views | None = None,
        negatives: PerpNeg | Sequence[Negative | str] | None = None,
        loss: Loss = "sds",
        guidance_scale: float | None = None,
        weighting: Weighting | None = None,
        denoise_steps: int | None = None,
        lora: RenderLora | None = None,
        seed: int = 0,
        arguments: Mapping[str, Any] | None = None,
        trace: bool = False,
    ) -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, got {loss!r}")
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a string, got {prompt!r}")
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, e.g. Schedule(1000), got {schedule!r}")
        if views is not None and not callable(views):
            raise TypeError(f"views must be a function of azimuths and elevations, or None, got {views!r}")
        if lora is not None and loss != "vsd":
            raise ValueError(f"lora is for loss='vsd', got it with loss={loss!r}; leave it out")
        if weighting is not None and loss == "denoise":
            raise ValueError(
                "weighting is for losses at one noise level, not for loss='denoise'; leave it out"
            )
        self.loss, self.prompt, self.schedule, self.views = loss, prompt, schedule, views
        self.guidance_scale = _scale(
            LOSSES[loss].guidance_scale if guidance_scale is None else guidance_scale
        )
        self.weighting: Weighting = LOSSES[loss].weighting if weighting is None else weighting
        distillation_weight(1.0, self.weighting)
        if denoise_steps is not None and loss != "denoise":
            raise ValueError(f"denoise_steps is for loss='denoise', got it with loss={loss!r}; leave it out")
        self.denoise_steps = at_least_one("denoise_steps", 4 if denoise_steps is None else denoise_steps)
        self.seed = at_least_zero("seed", seed)
        self.trace = boolean("trace", trace)
        self._method = shared_method(negatives)
        self._predictor = Predictor(pipe, self.guidance_scale, arguments or {})
        self._renders: RenderModel | None = None
        if loss == "vsd":
            self._renders = RenderModel(self._predictor.denoiser(), lora or RenderLora(), self.seed)

    def __call__(
        self,
        images: Tensor,
        azimuth: float | Sequence[float] | Tensor,
        elevation: float | Sequence[float] | Tensor = 0.0,
        *,
        step: int,
    ) -> Distilled:
        """The loss of rendered images.

        Args:
            images: [B, 3, H, W] in [0, 1], floats, at a size that the pipeline draws.
            azimuth: degrees, 0 = the front; one for all, or B.
            elevation: degrees, 0 = level; one for all, or B.
            step: of the schedule, from 0.

        Raises:
            TypeError, ValueError: naming the argument, its value and what would be right, before any model runs.
        """
        step = self.schedule.check_step(step)
        check_images(images)
        batch = len(images)
        azimuths, elevations = angles("azimuth", azimuth, batch), angles("elevation", elevation, batch)
        self._predictor.check_size(images)
        own = () if self._method is None else self._method.negatives
        shown = view_prompts_of(self.views, self.prompt, own, azimuths, elevations)
        noise_level = self.schedule.noise_level(step, self.seed)
        if self.loss == "denoise":
            return self._denoised(images, shown, noise_level, step)
        if self.loss == "image":
            return self._reconstructed(images, shown, noise_level, step)
        return self._distilled(images, shown, noise_level, step)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside its step: the LoRA of `vsd`, and nothing for the other losses."""
        return {} if self._renders is None else {"lora": self._renders.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: it is the state of another loss, model or rank.
        """
        if ("lora" in state) != (self._renders is not None):
            raise ValueError(
                f"state holds {', '.join(state) or 'nothing'}, which is not of loss={self.loss!r}"
            )
        if self._renders is not None:
            self._renders.load_state_dict(state["lora"])

    # ---- The losses -------------------------------------------------------------------------------------------------

    def _distilled(self, images: Tensor, shown: ViewPrompts, noise_level: float, step: int) -> Distilled:
        """sds and vsd: the gradient by the latents, carried on through the encoder."""
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            encoded = self._predictor.encode(pixels)
        latents, timesteps = encoded.detach(), self._predictor.timesteps([noise_level])
        sample, noise, sigma = self._noised(latents, timesteps, self._noise(latents, step))
        predicted = self._predict(images, sample, timesteps, shown)
        baseline, lora_loss = noise, None
        if self._renders is not None:
            own = self._predictor.predict(
                images, sample, timesteps, shown.prompts, guided=False, denoiser=self._renders.model
            )
            baseline = own.evaluations[0].noise
            lora_loss = self._train(self._renders, images, latents, shown.prompts, step)
        weight = distillation_weight(sigma, self.weighting)
        gradient = distillation_gradient(predicted.evaluations[0].noise, baseline, weight)
        # worked out here, so that the autoencoder's own weights get none when the loss is differentiated
        (by_pixels,) = torch.autograd.grad(encoded, pixels, gradient.to(encoded.dtype) / len(images))
        if not bool(torch.isfinite(by_pixels).all()):
            raise ValueError(
                f"pipe.vae in {encoded.dtype} gives gradients that are not finite; use pipe.vae.to(torch.float32)"
            )
        loss = with_gradient(images, by_pixels, half_square(gradient))
        return Distilled(
            loss, self._noise_level(timesteps), weight, lora_loss=lora_loss, trace=predicted.trace
        )

    def _reconstructed(self, images: Tensor, shown: ViewPrompts, noise_level: float, step: int) -> Distilled:
        with torch.no_grad():
            latents = self._predictor.encode(images)
        timesteps = self._predictor.timesteps([noise_level])
        sample, _, sigma = self._noised(latents, timesteps, self._noise(latents, step))
        predicted = self._predict(images, sample, timesteps, shown, decode=True)
        target = _target(predicted.images, images)
        weight = distillation_weight(sigma, self.weighting)
        loss = image_loss(images, target, weight)
        return Distilled(loss, self._noise_level(timesteps), weight, target=target, trace=predicted.trace)

    def _denoised(self, images: Tensor, shown: ViewPrompts, noise_level: float, step: int) -> Distilled:
        with torch.no_grad():
            latents = self._predictor.encode(images)
        count = self.denoise_steps
        timesteps = self._predictor.timesteps([noise_level * (1 - i / count) for i in range(count)])
        sample, _, _ = self._noised(latents, timesteps, self._noise(latents, step))
        predicted = self._predict(images, sample, timesteps, shown, decode=True)
        target = _target(predicted.images, images)
        loss = (images - target).abs().mean()
        return Distilled(loss, self._noise_level(timesteps), 1.0, target=target, trace=predicted.trace)

    def _train(
        self, renders: RenderModel, images: Tensor, latents: Tensor, prompts: Sequence[str], step: int
    ) -> float:
        """One step of the LoRA on the renders as they are."""
        generator = generator_of(self.seed, step, "lora")
        # not 0, where there is no noise
        noise_level = 1.0 - float(torch.rand((), generator=generator, dtype=torch.float64)) * (1 - 1e-3)
        timesteps = self._predictor.timesteps([noise_level])
        drawn = torch.randn(latents.shape, generator=generator).to(latents)
        sample, noise, _ = self._noised(latents, timesteps, drawn)
        own = self._predictor.predict(
            images, sample, timesteps, prompts, guided=False, denoiser=renders.model, differentiable=True
        )
        schedule = self._predictor.schedule
        wanted = prediction_target(latents, noise, *schedule.levels(float(timesteps[0])), schedule.kind)
        loss = (own.evaluations[0].prediction.to(wanted.dtype) - wanted).square().mean()
        renders.learn(loss)
        return float(loss.detach())

    # ---- What they share --------------------------------------------------------------------------------------------

    def _predict(
        self, images: Tensor, sample: Tensor, timesteps: Tensor, shown: ViewPrompts, decode: bool = False
    ) -> Predictions:
        noise_level = self._predictor.schedule.noise_level
        return self._predictor.predict(
            images,
            sample,
            timesteps,
            shown.prompts,
            negatives=acting_method(
                self._method, shown.negatives, [1000 * noise_level(float(t)) for t in timesteps]
            ),
            negative_prompts=shown.negative_prompts,
            decode=decode,
            trace=self.trace,
        )

    def _noise(self, latents: Tensor, step: int) -> Tensor:
        # on the CPU, so that it is the same on every device
        return torch.randn(latents.shape, generator=generator_of(self.seed, step, "noise")).to(latents)

    def _noised(self, latents: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, float]:
        """(x_t, eps, sigma) at the first of the timesteps."""
        alpha, sigma = self._predictor.schedule.levels(float(timesteps[0]))
        return noised(latents, noise, alpha, sigma), noise, sigma

    def _noise_level(self, timesteps: Tensor) -> float:
        return self._predictor.schedule.noise_level(float(timesteps[0]))


def _scale(value: Any) -> float:
    scale = number("guidance_scale", value)
    if not (math.isfinite(scale) and scale > 1):
        raise ValueError(f"guidance_scale must be a finite number > 1, got {scale}")
    return scale


def _target(decoded: Tensor | None, images: Tensor) -> Tensor:
    assert decoded is not None
    # a fourth channel is how opaque the image is (Qwen-Image 2.1)
    return decoded[:, :3].detach().to(images.device)
