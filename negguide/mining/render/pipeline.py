"""Paint jobs with a diffusers pipeline, in batches that are as large as memory allows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import diffusers
import torch
from PIL import Image

from negguide.domain import USUAL_STEPS
from negguide.integration.families import Family, supported_pipelines
from negguide.integration.pipelines import from_pipe
from negguide.methods import Method, Negative, NegToMe, PerpNeg, Window
from negguide.mining.render.blend import Blend
from negguide.mining.render.job import Job, Mode, RenderMethod
from negguide.mining.render.paste import fitted, inside, paste
from negguide.models import call_arguments, guidance_arguments

MODES: tuple[str, ...] = get_args(Mode)
METHODS: tuple[str, ...] = get_args(RenderMethod)

_IMAGE_TO_IMAGE = {
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
}
"""By text-to-image pipeline: the one that changes an image with the same parts."""
_INPAINTING = "StableDiffusionXLInpaintPipeline"
"""The pipeline of models that are made for inpainting; all others paint inside a mask by blending."""


@dataclass
class PipelinePainter:
    """Paints with any pipeline that `negguide.from_pipe` supports.

    Each image has noise of its own and depends on no other of its batch, except by ``diversify``. When a GPU's memory
    is not enough, the batch is halved, now and for the rest.

    Args:
        pipe: a text-to-image pipeline, guided or not. For ``mode="edit"`` and ``"inpaint"`` it must be of Stable
            Diffusion or SDXL, whose image-to-image pipeline is made from its parts; SDXL's inpainting pipeline is
            used as it is.
        mode: paint from the prompt alone, from the job's image, or inside the job's mask.
        method: "perp-neg" (a job's ``avoid`` is the negative of Perp-Neg, arXiv 2304.04968), "negative-prompt" (it is
            the classic negative prompt, whose weight cannot be changed), or "plain" (it is not used).
        steps, guidance_scale: of the sampler.
        batch_size: how many images at once, at most.
        stop: Perp-Neg acts until this fraction of the steps.
        strength: when an image is changed: how much of the noise schedule is run, in (0, 1].
        diversify: push the images of one group away from each other by this method (``reference="others"``); what it
            leaves to the model's family is filled in.

    Raises:
        ValueError: a wrong argument, or a pipeline that cannot do what is asked for.
    """

    pipe: Any
    mode: Mode = "generate"
    method: RenderMethod = "perp-neg"
    steps: int = USUAL_STEPS
    guidance_scale: float = 7.5
    batch_size: int = 16
    stop: float = 0.5
    strength: float = 0.8
    diversify: NegToMe | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, MODES), ("method", self.method, METHODS)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("stop", "strength"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0 and at most 1")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale={self.guidance_scale} must be a finite number")
        if self.method != "plain" and self.guidance_scale <= 1:
            raise ValueError(
                f"guidance_scale={self.guidance_scale} must be above 1: method={self.method!r} needs classifier-free "
                "guidance; or use method='plain'"
            )
        if self.diversify is not None and self.diversify.reference != "others":
            raise ValueError("diversify must be NegToMe('others'): a set has no reference images")
        guided = from_pipe(self.pipe)
        self.family: Family = guided.family
        run = self.steps if self.mode == "generate" else min(int(self.steps * self.strength), self.steps)
        windows = [Window("Perp-Neg", 0.0, self.stop)] if self.method == "perp-neg" else []
        if self.diversify is not None:
            self.diversify = self.family.with_defaults(self.diversify)
            windows += self.diversify.windows
        for window in windows:
            if not window.by_timestep and not window.steps([None] * run):
                raise ValueError(
                    f"steps={self.steps} are too few: {window.owner} acts in {window.in_words()}, and {run} are run"
                )
        self.pipe = self._pipe_of_mode(guided)
        self.pipe.set_progress_bar_config(disable=True)
        self.accepted = inspect.signature(type(self.pipe).__call__).parameters
        if "num_videos_per_prompt" in self.accepted:
            raise ValueError(f"{type(self.pipe).__name__} makes videos, and a set is made of images")

    def _pipe_of_mode(self, guided: Any) -> Any:
        known_pipelines = supported_pipelines()
        name = next(c.__name__ for c in type(guided).__mro__ if c.__name__ in known_pipelines)
        own = {"generate": (), "edit": _IMAGE_TO_IMAGE.values(), "inpaint": (_INPAINTING,)}[self.mode]
        if self.mode == "generate" or name in own:
            if "image" in inspect.signature(type(guided).__call__).parameters and self.mode == "generate":
                raise ValueError(f"mode='generate' needs a text-to-image pipeline, got {name}")
            return guided
        if name not in _IMAGE_TO_IMAGE:
            raise ValueError(
                f"mode={self.mode!r} is known for {', '.join(_IMAGE_TO_IMAGE)}, not for {name}; use mode='generate'"
            )
        kind = getattr(diffusers, _IMAGE_TO_IMAGE[name])
        known = inspect.signature(kind.__init__).parameters
        parts = {part: value for part, value in guided.components.items() if part in known}
        if "requires_safety_checker" in known:
            parts["requires_safety_checker"] = guided.components.get("safety_checker") is not None
        return from_pipe(kind(**parts))

    def refusal(self, job: Job) -> str | None:
        """That a text is too long for the model; None = it can be painted."""
        for text, reason in (
            (job.prompt, "the prompt is too long for the model"),
            (job.avoid, "avoid is too long"),
        ):
            if text and (text == job.prompt or self.method != "plain"):
                budget = self.family.token_budget(self.pipe, text, self._arguments([job], checked=True))
                if budget.tokens > budget.limit:
                    return reason
        if self.mode != "generate" and job.image is None:
            return "there is no image to change"
        if self.mode == "inpaint" and job.mask is None:
            return "there is no mask to paint in"
        return None

    def __call__(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One image for each job, in their order."""
        images: list[Image.Image | None] = [None] * len(jobs)
        for places in self.batches(jobs):
            self._paint(jobs, places, images)
        return [image for image in images if image is not None]

    def batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Places of jobs that can be painted together: of one size, and with whole groups where they are pushed."""
        alike: dict[Any, list[list[int]]] = {}
        for unit in self._units(jobs):
            image = jobs[unit[0]].image
            size = None if image is None or self.mode == "generate" else self._size(image)
            alike.setdefault((len(unit), size), []).append(unit)
        found = []
        for (length, _), units in alike.items():
            at_once = max(1, self.batch_size // length)
            found += [
                [place for unit in units[start : start + at_once] for place in unit]
                for start in range(0, len(units), at_once)
            ]
        return found

    def _units(self, jobs: Sequence[Job]) -> list[list[int]]:
        if self.diversify is None:
            return [[place] for place in range(len(jobs))]
        groups: dict[Any, list[int]] = {}
        for place, job in enumerate(jobs):
            image = None if job.image is None or self.mode == "generate" else self._size(job.image)
            groups.setdefault((job.group or place, image), []).append(place)
        return list(groups.values())

    def _paint(self, jobs: Sequence[Job], places: list[int], images: list[Image.Image | None]) -> None:
        """Fill in ``images`` at ``places``, in halves when memory is not enough."""
        chosen = [jobs[place] for place in places]
        try:
            for place, image in zip(places, self._draw(chosen), strict=True):
                images[place] = image
            return
        except torch.OutOfMemoryError as error:
            # the traceback holds the tensors of the failed call
            error.__traceback__ = None
        unit = (
            1
            if self.diversify is None
            else len([j for j in chosen if j.group and j.group == chosen[0].group]) or 1
        )
        if len(places) <= unit:
            raise ValueError(
                f"the device has too little memory for {len(places)} image{'s' * (len(places) > 1)} at once; use a "
                "smaller model or another --dtype"
                + (", or fewer --per-item with --diversify" if unit > 1 else "")
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = max(unit, len(places) // unit // 2 * unit)
        self.batch_size = half
        for start in range(0, len(places), half):
            self._paint(jobs, places[start : start + half], images)

    def _draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        methods: list[Method] = []
        if self.method == "perp-neg" and any(job.avoid and job.weight > 0 for job in jobs):
            own = [
                [Negative(job.avoid, weight=job.weight, stop=self.stop)] if job.avoid else [] for job in jobs
            ]
            methods.append(PerpNeg.per_prompt(*own))
        if self.diversify is not None:
            size = len([job for job in jobs if job.group and job.group == jobs[0].group])
            if size > 1:
                methods.append(replace(self.diversify, group_size=size))
        output = self.pipe(**self._arguments(jobs), negative_guidance=methods or None)
        return self._finished(jobs, list(output.images))

    def _arguments(self, jobs: Sequence[Job], checked: bool = False) -> dict[str, Any]:
        """The call's arguments; ``checked`` fills in the defaults, for what reads them without a call."""
        arguments: dict[str, Any] = {
            "prompt": [job.prompt for job in jobs],
            "num_inference_steps": self.steps,
            # on the CPU, so that a seed is the same noise on every device
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        }
        arguments |= call_arguments(self.pipe)
        arguments |= guidance_arguments(self.pipe, self.guidance_scale, prompts=len(jobs))
        if self.method == "negative-prompt":
            arguments["negative_prompt"] = [job.avoid for job in jobs]
        if self.mode != "generate" and not checked:
            images = [fitted(job.image, self._size(job.image)) for job in jobs if job.image is not None]
            arguments |= {"image": images, "strength": self.strength}
            if self.mode == "inpaint":
                masks = [inside(job.mask, images[0].size) for job in jobs if job.mask is not None]
                if "mask_image" in self.accepted:
                    arguments |= {"mask_image": masks, "width": images[0].width, "height": images[0].height}
                else:
                    seeds = [job.seed for job in jobs]
                    arguments["callback_on_step_end"] = Blend(self.pipe, self.family, images, masks, seeds)
        if not checked:
            return arguments
        bound = inspect.signature(type(self.pipe).__call__).bind(self.pipe, **arguments)
        bound.apply_defaults()
        return dict(bound.arguments)

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) at which the model works on this image: about its own area, in whole latents."""
        own = self.pipe.unet.config.sample_size
        area = (own * own if isinstance(own, int) else own[0] * own[1]) * self.pipe.vae_scale_factor**2
        # a UNet halves the latents a few times
        grain = self.pipe.vae_scale_factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)
        scale = (area / (image.width * image.height)) ** 0.5
        width, height = (max(grain, round(side * scale / grain) * grain) for side in image.size)
        return width, height

    def _finished(self, jobs: Sequence[Job], images: Sequence[Image.Image]) -> list[Image.Image]:
        """At the size of the image that was changed; of an inpainted one, only what is inside the mask."""
        if self.mode == "generate":
            return list(images)
        done = []
        for job, image in zip(jobs, images, strict=True):
            assert job.image is not None
            image = fitted(image, job.image.size)
            done.append(
                image if self.mode == "edit" or job.mask is None else paste(job.image, image, job.mask)
            )
        return done
