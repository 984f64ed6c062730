"""A pipeline's guided prediction at any noise level, by the pipeline's own call: what distillation is made of.

The pipeline prepares text, tokens and sizes as it always does, and its own guidance, negguide's and its decoding run;
only the scheduler is another one, on a private copy of the pipeline object. The pipeline itself, its models, scheduler
and hooks stay as they are, also when a call fails.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from negguide.integration.diagnostics.trace import Trace
from negguide.integration.families import Family
from negguide.integration.hooks.compat import call_signature
from negguide.integration.hooks.views import original
from negguide.integration.noise_schedule import (
    Evaluation,
    NoiseSchedule,
    StoppingScheduler,
    Stops,
    noise_schedule,
    same_layout,
)
from negguide.integration.pipelines import from_pipe
from negguide.integration.runtime.prepare import denoisers_of, pixel_size
from negguide.integration.text_memory import TextMemory
from negguide.methods import PerpNeg

_OWN_ARGUMENTS = (
    *("prompt", "latents", "height", "width", "output_type", "return_dict", "num_inference_steps"),
    *("timesteps", "sigmas", "num_images_per_prompt", "generator", "guidance_scale", "true_cfg_scale"),
    *("negative_prompt", "negative_guidance", "trace"),
)


@dataclass(frozen=True)
class Predictions:
    """What a run gives.

    Attributes:
        evaluations: one for each of its timesteps.
        images: [B, 3, H, W] in [0, 1], the clean estimate after the last of them, decoded; None where not asked for.
        trace: how the negatives acted; None where not asked for, or where no negative acts.
    """

    evaluations: tuple[Evaluation, ...]
    images: Tensor | None
    trace: Trace | None


class Predictor:
    """Asks a pipeline for predictions.

    Args:
        pipe: a text-to-image pipeline with classifier-free guidance and an autoencoder.
        guidance_scale: as the pipeline's own call has it (`true_cfg_scale` where it has one).
        arguments: further arguments of the pipeline's call.

    Raises:
        ValueError, TypeError: a pipeline that cannot be used, or an argument that it does not have.
    """

    def __init__(self, pipe: Any, guidance_scale: float, arguments: Mapping[str, Any]) -> None:
        self._source = original(pipe)
        self.family: Family = self.pipe.family
        kind = type(self.pipe).__name__
        signature = call_signature(type(self.pipe))
        self._names = set(signature.parameters)
        self._defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.default is not parameter.empty
        }
        self._scale_name = "true_cfg_scale" if "true_cfg_scale" in self._names else "guidance_scale"
        self.guidance_scale = guidance_scale
        self.arguments = self._checked(arguments)
        if "strength" in self._names or not hasattr(self.pipe, "prepare_latents"):
            raise ValueError(
                f"pipe is a {kind}, which begins with an image, and distillation puts the noise on itself; give the "
                "text-to-image pipeline of the same models, e.g. AutoPipelineForText2Image.from_pipe(pipe)"
            )
        if getattr(self.pipe, "vae", None) is None:
            raise ValueError(f"pipe ({kind}) has no vae, which encodes the images; give a pipeline with one")
        if self.family.encode_image is None:
            raise ValueError(
                f"pipe ({kind}) has an autoencoder that is not for single images; give a text-to-image pipeline"
            )
        self._guided, self._unguided = self._guidance(kind)
        self.schedule: NoiseSchedule = noise_schedule(self.pipe.scheduler)
        self._texts = TextMemory()

    @property
    def pipe(self) -> Any:
        """The pipeline as it is now, with `negative_guidance=`."""
        return from_pipe(self._source)

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if name in _OWN_ARGUMENTS or name not in self._names:
                why = (
                    "is set by distillation itself"
                    if name in _OWN_ARGUMENTS
                    else "is unknown to the pipeline"
                )
                raise TypeError(f"arguments holds {name!r}, which {why}; leave it out")
        return dict(arguments)

    def _guidance(self, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments with which a call has classifier-free guidance, and those with which it has none.

        Raises:
            ValueError: it never has.
        """
        name, reason = self._scale_name, None
        empty = [{}, {"negative_prompt": ""}] if "negative_prompt" in self._names else [{}]
        if self.family.guided and name in self._names:
            for more in empty:
                guided = {name: self.guidance_scale, **more}
                reason = self._without_guidance(guided)
                if reason is None:
                    # some count the scale from 0
                    off = next(s for s in (1.0, 0.0) if self._without_guidance({name: s}) is not None)
                    return guided, {name: off}
        raise ValueError(
            f"pipe ({kind}) has no classifier-free guidance{f': {reason}' if reason else ''}; distillation needs a "
            "model with it"
        )

    def _without_guidance(self, guidance: Mapping[str, Any]) -> str | None:
        return self.family.cfg_disabled_reason(self.pipe, {**self._defaults, **self.arguments, **guidance})

    def check_size(self, images: Tensor) -> None:
        """Refuse images of a size that the pipeline does not draw.

        Raises:
            ValueError: naming the size, and the nearest smaller one that would be right.
        """
        height, width = images.shape[-2:]
        call = {**self._defaults, **self.arguments, **self._size(images)}
        right = pixel_size(self.pipe, self.family.latent_size(self.pipe, call))
        if right != (height, width):
            raise ValueError(
                f"images are {height}x{width} pixels, and {type(self.pipe).__name__} draws in whole patches; give "
                f"e.g. {right[0]}x{right[1]}"
            )

    def _size(self, images: Tensor) -> dict[str, Any]:
        height, width = images.shape[-2:]
        # otherwise some draw at the nearest size that they were trained on
        exact = {"use_resolution_binning": False} if "use_resolution_binning" in self._names else {}
        return {"height": height, "width": width, **exact}

    def encode(self, images: Tensor) -> Tensor:
        """The latents of images [B, 3, H, W] in [0, 1] as the denoiser has them, in float32; differentiable.

        Raises:
            ValueError: the autoencoder overflows.
        """
        assert self.family.encode_image is not None
        latents = self.family.encode_image(self.pipe, images * 2 - 1)
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(
                f"pipe.vae in {self.pipe.vae.dtype} gives latents that are not finite; use pipe.vae.to(torch.float32)"
            )
        return latents.to(torch.promote_types(latents.dtype, torch.float32))

    def timesteps(self, noise_levels: Sequence[float]) -> Tensor:
        """See `NoiseSchedule.timesteps`; on the pipeline's device."""
        return self.schedule.timesteps(noise_levels).to(self.pipe._execution_device)

    def predict(
        self,
        images: Tensor,
        latents: Tensor,
        timesteps: Tensor,
        prompts: Sequence[str],
        *,
        negatives: PerpNeg | None = None,
        negative_prompts: Sequence[str] | None = None,
        guided: bool = True,
        decode: bool = False,
        trace: bool = False,
        denoiser: nn.Module | None = None,
        differentiable: bool = False,
    ) -> Predictions:
        """Run the pipeline from noisy latents through these timesteps.

        Args:
            images: whose size the call has.
            latents: x_t at the first timestep, as the denoiser has them.
            timesteps: [N] from noise to image, as `timesteps` gives them.
            prompts: B texts.
            negatives: with `prompt_index` for those of an image's own.
            negative_prompts: B classic negative prompts; None = the pipeline's own default.
            guided: False = the prediction for the prompt alone.
            decode: also decode the clean estimate.
            trace: also tell how the negatives acted.
            denoiser: in place of the pipeline's own.
            differentiable: keep the graph from the denoiser's parameters to the prediction.

        Raises:
            ValueError: as the pipeline's own call.
        """
        pipe = self._private(denoiser)
        stops = Stops(self.schedule, timesteps)
        vars(pipe)["scheduler"] = StoppingScheduler(copy.copy(pipe.scheduler), stops)
        vars(pipe)["prepare_latents"] = _giving(pipe.prepare_latents, latents)
        arguments = {
            **self.arguments,
            **self._size(images),
            **(self._guided if guided else self._unguided),
            "prompt": list(prompts),
            # of the noise that the pipeline would begin with; nobody else's random numbers
            "generator": torch.Generator().manual_seed(0),
            "num_inference_steps": len(timesteps),
            "output_type": "pt" if decode else "latent",
        }
        if guided and negative_prompts is not None:
            if "negative_prompt" not in inspect.signature(type(pipe).__call__).parameters:
                raise ValueError(
                    f"negative_prompts: {type(pipe).__name__} takes no negative prompt; give negatives"
                )
            arguments["negative_prompt"] = list(negative_prompts)
        elif guided and "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompts)
        if differentiable:
            # the pipeline's call without torch.no_grad around it
            call: Any = inspect.unwrap(type(pipe).__call__)
            with torch.enable_grad():
                output = call(pipe, **arguments)
        else:
            further = {} if negatives is None else {"negative_guidance": negatives, "trace": trace}
            output = pipe(**arguments, **further)
        evaluations = tuple(one.shaped_as(latents) for one in stops.evaluations)
        if not all(bool(torch.isfinite(one.prediction).all()) for one in evaluations):
            raise ValueError("the denoiser's predictions are not finite; use it in float32 or bfloat16")
        return Predictions(
            evaluations,
            output.images.float() if decode else None,
            getattr(output, "trace", None),
        )

    def denoiser(self) -> nn.Module:
        """The pipeline's denoiser.

        Raises:
            ValueError: it has several that take turns.
        """
        models = denoisers_of(self.pipe, self.family)
        if len(models) != 1:
            raise ValueError(
                f"pipe has {len(models)} denoisers, and loss='vsd' fine-tunes one; use another loss"
            )
        return models[0]

    def _private(self, denoiser: nn.Module | None) -> Any:
        """A pipeline object that shares everything with the pipeline as it is now, and is nobody else's."""
        pipe = self.pipe
        private: Any = object.__new__(type(pipe))
        private.__dict__.update(vars(pipe))
        private.set_progress_bar_config(disable=True)
        if denoiser is not None:
            (name,) = (name for name in self.family.denoisers if getattr(private, name, None) is not None)
            vars(private)[name] = denoiser
        vars(private)["encode_prompt"] = self._texts.remembering(private, self.family)
        return private


def _giving(prepare: Callable[..., Any], latents: Tensor) -> Callable[..., Any]:
    """`prepare_latents` of a pipeline that gives these; what it gives beside them stays.

    As `latents=` of a call some pipelines want them in another layout than the one in which they go to the denoiser.
    """

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare(*args, **kwargs)
        first = prepared[0] if isinstance(prepared, tuple) else prepared
        own = same_layout(latents, first).to(first)
        return (own, *prepared[1:]) if isinstance(prepared, tuple) else own

    return prepare_latents
