"""The hook that tells attention processors which step and which guidance branch a call of their model is."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from negguide.guidance import active
from negguide.integration.attending import AttentionRun
from negguide.integration.families.denoisers import Denoiser
from negguide.integration.images import check_aspect, mask_tensor, negative_masks, resize_mask
from negguide.integration.negtome import NegToMeRun
from negguide.integration.steps import windows_of

_PARTS = 1000
"""Of the way from noise to image, by which windows are placed: as many as the models were trained on."""


class StepHook(ModelHook):
    """Tells a `NegToMeRun` or an `AttentionRun` the step, the branch and the latent size of each call of the model.

    A timestep above the last one begins a new run, wherever the last run ended. Where the model is called once for
    each guidance branch, the first call at a timestep is the conditional one, as in diffusers' pipelines.

    Args:
        signature: of the model's forward.
        denoiser: what is known of the model.
        noise: the timestep of pure noise, as the model gets it.
        num_inference_steps: distinct timesteps of a run, and windows are fractions of their number; None = windows are
            fractions of the way that the timestep goes, from `noise` to 0.
    """

    def __init__(
        self,
        signature: inspect.Signature,
        run: NegToMeRun | AttentionRun,
        denoiser: Denoiser,
        noise: float,
        num_inference_steps: int | None,
        guidance_branches: int,
    ) -> None:
        super().__init__()
        self.signature = signature
        self.run = run
        self.denoiser = denoiser
        self.noise = noise
        self.num_inference_steps = num_inference_steps
        # of the run, and of each call
        self.branches = guidance_branches
        self.branches_of_call = 1 if denoiser.family.sequential else guidance_branches
        self.windows = sorted(set(windows_of(run.method)))
        self.step = 0
        self.branch = 0
        self.last_timestep: float | None = None
        self.inside = False
        # of the present run: the windows that had no step so far
        self.unseen: list[tuple[float, float]] = []

    # not traced: a compiled model would be compiled anew at each step
    @torch.compiler.disable
    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        run, family = self.run, self.denoiser.family
        inputs = self.signature.bind(*args, **kwargs).arguments
        if family.aside(inputs):
            if isinstance(run, NegToMeRun):
                run.pushing = False
            else:
                run.on = False
            return args, kwargs
        # still inside the last call: an error has ended it
        broken_off, self.inside = self.inside, True
        sample = inputs[family.sample]
        latent_size = self._latents(inputs, sample)
        step, num_steps = self._follow(inputs, broken_off)
        if isinstance(run, NegToMeRun):
            run.branches = self.branches_of_call
            run.begin_step(step, num_steps, latent_size, sample)
            return args, kwargs
        if self.windows != [(0, 1)] and getattr(module, "is_cache_enabled", False):
            raise ValueError(
                f"{type(run.method).__name__} has a window, and what the model's cache keeps of one side of it would "
                "be used on the other; use from_pipe, which keeps them apart, or model.disable_cache()"
            )
        for attending in run.modules:
            attending.called = False
        run.begin_step(step, num_steps, latent_size)
        return (), run.begin_forward(inputs, self._guided_rows(len(sample)))

    @torch.compiler.disable
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.inside, run = False, self.run
        if isinstance(run, NegToMeRun):
            if run.pushing:
                run.check_reached()
        elif run.on:
            if not any(attending.called for attending in run.modules):
                raise ValueError(
                    f"{type(run.method).__name__}'s text was put behind the prompt's, but its attention processors are "
                    "not in the model: give model.set_attn_processor what attention_processors returned, or call "
                    "negguide.remove_attention_processors(model)"
                )
            run.check_reached()
        return output

    def _latents(self, inputs: Mapping[str, Any], sample: Tensor) -> tuple[int, int]:
        """Note where the generated image's tokens are; its latents' size."""
        run, image_tokens = self.run, self.denoiser.family.image_tokens
        latent_size = self.denoiser.latent_size(inputs)
        if latent_size != run.latent_size:
            if isinstance(run, NegToMeRun):
                run.mask = _mask("mask of NegToMe", run.method.mask, latent_size)
                run.reference_mask = _mask(
                    "reference_mask of NegToMe", run.method.reference_mask, latent_size
                )
            else:
                run.masks = negative_masks(run.method.negatives, latent_size, latent_size, "the latents")
        run.frames = sample.shape[2] if sample.ndim == 5 else 1
        if image_tokens is not None:
            run.image_tokens = image_tokens(sample, latent_size)
        return latent_size

    def _follow(self, inputs: Mapping[str, Any], broken_off: bool) -> tuple[int, int]:
        """The step of this call and how many there are; notes its branch too."""
        whole_run = self.windows == [(0, 1)]
        if whole_run and self.branches == self.branches_of_call:
            # without waiting for the device
            return 0, 1
        # the most of several: a video's given frames are at 0
        timestep = float(torch.as_tensor(inputs[self.denoiser.family.timestep]).max())
        last, self.last_timestep = self.last_timestep, timestep
        self.branch = (self.branch + 1) % self.branches if timestep == last and not broken_off else 0
        if last is None or timestep > last:
            self.step, self.unseen = 0, list(self.windows)
        elif timestep < last:
            self.step += 1
        if whole_run:
            return 0, 1
        if self.num_inference_steps is None:
            return self._part_of_the_way(timestep), _PARTS
        if self.step >= self.num_inference_steps:
            raise ValueError(
                f"num_inference_steps is {self.num_inference_steps}, but this run has more distinct timesteps; give "
                "attention_processors the number of distinct timesteps in scheduler.timesteps"
            )
        return self.step, self.num_inference_steps

    def _part_of_the_way(self, timestep: float) -> int:
        """int(_PARTS (1 - timestep / noise)), the last part where nothing is left of the way."""
        way = 1 - timestep / self.noise
        # as far outside as rounding does not lead
        if not -0.01 <= way <= 1:
            raise ValueError(
                f"the model was called at timestep {timestep:g}, which is not between {self.noise:g} and 0, so that "
                "the windows cannot be placed by it; give attention_processors num_inference_steps"
            )
        # 1 - 0.7 is below 0.3
        part = min(max(int(_PARTS * way + 1e-6), 0), _PARTS - 1)
        for window in list(self.unseen):
            start, stop = window
            if active(start, stop, part, _PARTS):
                self.unseen.remove(window)
            elif part >= int(stop * _PARTS):
                self.unseen.remove(window)
                first, end = (self.noise * (1 - fraction) for fraction in window)
                warnings.warn(
                    f"no step of this run is in the window start={start}, stop={stop}, which is timestep {first:g} to "
                    f"{end:g}; give attention_processors num_inference_steps to place windows by the steps",
                    stacklevel=2,
                )
        return part

    def _guided_rows(self, rows: int) -> tuple[int, int] | None:
        if self.branches_of_call < self.branches:
            return (0, rows) if self.branch == 0 else None
        if rows % self.branches_of_call:
            raise ValueError(
                f"guidance_branches is {self.branches_of_call}, but the model was called with {rows} rows; give the "
                "number of guidance branches that share its batch, 1 without guidance"
            )
        return rows - rows // self.branches_of_call, rows


def _mask(name: str, mask: Any, latent_size: tuple[int, int]) -> Tensor | None:
    if mask is None:
        return None
    check_aspect(name, mask, latent_size, "the latents")
    return resize_mask(mask_tensor(mask)[None, None], latent_size)
