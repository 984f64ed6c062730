"""NegToMe during a run: the image's tokens away from their best match, behind the self-attentions of a denoiser."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guidance.grid import resize_mask, token_grid
from .guidance.tokens import negtome, negtome_others
from .negatives import as_mask
from .references import Captures, given_apart, given_to
from .runs import Call, Run, around_denoiser, around_run, predict
from .windows import Window

KEY = "NegToMe"
OTHERS, FIRST = "others", "first"
REFERENCES = [OTHERS, FIRST]
_CAPTURES = "negguide captures"
# of the noise on reference latents: the same at every step, and in every run
_NOISE_SEED = 0


@dataclass(frozen=True)
class Options:
    """Of the node.

    Args:
        reference: "others": each image from every other of the batch; "first": images 2.. from image 1.
        latents: [R, C, h, w] references in their place; None = those of the batch.
        alpha: strength, >= 0.
        threshold: cosine above which a token is pushed.
        window: when.
        mask: [1 or images, H, W] where tokens are pushed, and how much.
        reference_mask: [1 or images, H, W] which reference tokens may be matched; with `latents` one for each of them.
        max_push: bound on |push| / |token|; 0 = none.
        perpendicular: push without the component along the token itself.
    """

    reference: str
    latents: Tensor | None
    alpha: float
    threshold: float
    window: Window
    mask: Tensor | None = None
    reference_mask: Tensor | None = None
    max_push: float = 0.0
    perpendicular: bool = False

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, got {self.reference!r}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be >= 0, got {self.alpha}")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine and must be from -1 to 1, got {self.threshold}")
        if not self.max_push >= 0:
            raise ValueError(f"max_push must be >= 0 (0 = no bound), got {self.max_push}")
        for label in ("mask", "reference_mask"):
            object.__setattr__(self, label, as_mask(getattr(self, label)))


def patch(model: Any, options: Options) -> Any:
    """The model with NegToMe behind its self-attentions.

    Raises:
        ValueError: it has none that are known.
    """
    from comfy.patcher_extension import WrappersMP

    from .token_models import adapter_for

    adapter = adapter_for(model.model.diffusion_model)
    patched = model.clone()
    around_run(
        patched,
        KEY,
        lambda guider, sigmas, latent: NegToMeRun(guider, sigmas, latent, options),
        unused="NegToMe never acted: the model made no prediction while its window was open",
        inside=True,
    )

    def act(run: NegToMeRun, call: Call) -> Any:
        if not run.acts(call):
            return call()
        pushes = Pushes(run, call)
        result = adapter(pushes)
        pushes.check()
        return result

    around_denoiser(patched, KEY, act)
    if options.latents is not None:
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _with_references)
    return patched


def _with_references(
    executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
) -> Any:
    """A step, and before it the references at its noise, of which every attention keeps its tokens."""
    model_options = {} if model_options is None else model_options
    place = model_options.get("transformer_options", {}).get(KEY)
    if place is not None:
        place.run.capture(timestep, model_options)
    return executor(x, timestep, model_options, seed)


class NegToMeRun(Run):
    """One run: masks, the references' latents, and their tokens at this step."""

    def __init__(self, guider: Any, sigmas: Tensor, latent: Tensor, options: Options) -> None:
        super().__init__(guider, sigmas, latent)
        self.options = options
        self.push_mask: Tensor | None = None
        self.reference_mask: Tensor | None = None
        self.latents: Tensor | None = None
        self.references: list[Captures] = []
        # by which of them each image is pushed
        self.references_of: list[int] = []

    def prepare(self) -> None:
        options = self.options
        self.steps.check([options.window])
        self.push_mask = self.mask(options.mask, "NegToMe")
        references = self.batch if options.latents is None else len(options.latents)
        self.reference_mask = self.mask(options.reference_mask, "NegToMe's references", references)
        if options.latents is None:
            if self.batch < 2:
                raise ValueError(
                    f"NegToMe: reference={options.reference!r} needs at least 2 images in the batch, got "
                    f"{self.batch}; set batch_size of the empty latent, or connect reference latents"
                )
            return
        latents = self.model.process_latent_in(options.latents)
        if tuple(latents.shape[-2:]) != self.latent_size or latents.ndim != self.axes:
            height, width = self.latent_size
            raise ValueError(
                f"reference_latent of NegToMe is {latents.shape[-1]}x{latents.shape[-2]} (width x height, of "
                f"{latents.ndim} axes), and the latents are {width}x{height} (of {self.axes}); scale the reference "
                "image to the size of the generated one before VAE Encode"
            )
        self.latents = latents

    def acts(self, call: Call) -> bool:
        return self.steps.at(call.options["sigmas"]).inside(self.options.window)

    def capture(self, sigma: Tensor, model_options: dict[str, Any]) -> None:
        """Run the references at a step's noise."""
        if self.latents is None or not self.steps.at(sigma).inside(self.options.window):
            return
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        latents = self.latents.to(sigma.device, torch.float32)
        # drawn on the CPU, so that it is the same on every device
        noise = torch.randn((1, *latents.shape[1:]), generator=generator).to(latents).expand_as(latents)
        level = sigma[:1].to(latents)
        noisy = self.model.model_sampling.noise_scaling(
            level.reshape(1, *[1] * (latents.ndim - 1)), noise, latents
        )
        conds = self.guider.conds
        text, *_ = conds.get("negative") or conds["positive"]
        # Nothing but the text and what else the model is given, and of several the first: a ControlNet is for the
        # generated images, keeps a hint for each of them, and would keep as many as there are references; areas, masks
        # and times are the prompt's. And known to no cache, which would take the references for the image.
        conds = {key: text[key] for key in ("model_conds", "hooks") if key in text}
        first, self.references_of = given_apart(conds, self.batch)
        self.references = [Captures() for _ in first]
        for image, captures in zip(first, self.references, strict=True):
            options = {**model_options.get("transformer_options", {}), _CAPTURES: captures}
            predict(
                self,
                [given_to(conds, image) | {"uuid": uuid.uuid4()}],
                noisy,
                level.expand(len(latents)),
                {**model_options, "transformer_options": options},
            )


class Pushes:
    """One call of the denoiser while the window is open.

    Attributes:
        met: at how many attentions tokens were pushed or kept.
    """

    def __init__(self, run: NegToMeRun, call: Call) -> None:
        self.run = run
        self.call = call
        self.captures: Captures | None = call.options.get(_CAPTURES)
        sample: Tensor = next(iter(call.arguments.values()))
        self.size = (int(sample.shape[-2]), int(sample.shape[-1]))
        self.frames = sample.shape[2] if sample.ndim == 5 else 1
        self.images = sample.shape[0] // len(call.chunks)
        self.met = 0
        # of the feature maps that were too small
        self.largest = 0
        if (run.push_mask is not None or run.reference_mask is not None or run.latents is not None) and (
            self.size != run.latent_size
        ):
            raise ValueError(
                "NegToMe: masks and reference latents cannot be used where the prompt has an area, which is a part of "
                "the image; use masks in place of areas"
            )
        masks = (run.push_mask, run.reference_mask if run.latents is None else None)
        if self.captures is None and any(
            mask is not None and len(mask) not in (1, self.images) for mask in masks
        ):
            raise ValueError(
                f"NegToMe: a mask for each image needs them together, and the model sees {self.images} at a time; "
                "give one mask for all"
            )

    @property
    def least_side(self) -> int:
        """The least shorter side of a feature map that is pushed, where not all are."""
        return min(32, min(self.size) // 2)

    def __call__(self, place: Any, tokens: Tensor) -> Tensor:
        """The image's tokens [rows, N, C] of one attention, pushed.

        Args:
            place: of the attention in the model.
        """
        self.run.used = True
        self.met += 1
        if self.captures is not None:
            assert self.run.latents is not None
            self.captures.keep(place, tokens, self._allowed(tokens, len(self.run.latents)))
            return tokens
        if self.run.options.latents is not None:
            return self._from_latents(place, tokens)
        if self.images < 2:
            # a part of the model that sees one image at a time
            raise ValueError(
                f"NegToMe: reference={self.run.options.reference!r} needs the images of a batch together, and this "
                f"model sees {self.images} at a time"
            )
        groups = tokens.unflatten(0, (-1, self.images))
        return (self._from_first if self.run.options.reference == FIRST else self._from_others)(groups)

    def _from_latents(self, place: Any, tokens: Tensor) -> Tensor:
        found = [captures.at(place) for captures in self.run.references]
        reference, allowed = torch.cat([tokens for tokens, _ in found]), found[0][1]
        if len(found) > 1:
            if self.images != self.run.batch:
                raise ValueError(
                    f"NegToMe: images that are each given something else need to run together, and this model sees "
                    f"{self.images} at a time; give all the same, or generate one at a time"
                )
            reference = reference[self.run.references_of].repeat(len(tokens) // self.images, 1, 1)
        mask = self._mask(self.run.push_mask, tokens)
        if mask is not None and len(mask) > 1:
            mask = mask.repeat(len(tokens) // len(mask), 1)
        return self._pushed(tokens, reference.to(tokens), mask, allowed)

    def _from_first(self, groups: Tensor) -> Tensor:
        first, others = groups[:, :1], groups[:, 1:]
        mask, allowed = self._mask(self.run.push_mask, first[:, 0]), self._allowed(first[:, 0], 1)
        if mask is not None and len(mask) > 1:
            mask = mask[1:].repeat(len(groups), 1)
        pushed = self._pushed(others.flatten(0, 1), first.expand_as(others).flatten(0, 1), mask, allowed)
        return torch.cat([first, pushed.unflatten(0, (-1, self.images - 1))], dim=1).flatten(0, 1)

    def _from_others(self, groups: Tensor) -> Tensor:
        options = self.run.options
        mask = self._mask(self.run.push_mask, groups[:, 0])
        allowed = self._allowed(groups[:, 0], self.images)
        if allowed is None and (mask is None or len(mask) == 1):
            pushed, _ = negtome_others(
                groups,
                options.alpha,
                options.threshold,
                source_mask=mask,
                max_push=options.max_push or None,
                perpendicular=options.perpendicular,
            )
            return pushed.flatten(0, 1)
        each = None if allowed is None else allowed.unflatten(1, (self.images, -1))
        results = []
        for image in range(self.images):
            others = [other for other in range(self.images) if other != image]
            own = mask if mask is None or len(mask) == 1 else mask[image : image + 1]
            may = None if each is None else each[:, others].flatten(1)
            results.append(self._pushed(groups[:, image], groups[:, others].flatten(1, 2), own, may))
        return torch.stack(results, dim=1).flatten(0, 1)

    def _pushed(
        self, source: Tensor, reference: Tensor, mask: Tensor | None, allowed: Tensor | None
    ) -> Tensor:
        options = self.run.options
        return negtome(
            source,
            reference,
            options.alpha,
            options.threshold,
            source_mask=mask,
            reference_mask=allowed,
            max_push=options.max_push or None,
            perpendicular=options.perpendicular,
        )

    def _mask(self, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
        """[1 or images, N] for tokens [rows, N, C]."""
        if mask is None:
            return None
        grid = token_grid(tokens.shape[1] // self.frames, self.size)
        return resize_mask(mask, grid).flatten(1).repeat(1, self.frames).to(tokens)

    def _allowed(self, tokens: Tensor, references: int) -> Tensor | None:
        """[1, references x N], which tokens of the first so many references may be matched."""
        mask = self._mask(self.run.reference_mask, tokens)
        if mask is None:
            return None
        mask = mask[:references] if len(mask) > 1 else mask.expand(references, -1)
        return mask.reshape(1, -1) >= 0.5

    def check(self) -> None:
        """Refuse a call in which nothing was pushed.

        Raises:
            ValueError: every feature map was too small, or the model's attentions were never called.
        """
        if not self.met and not self.largest:
            raise ValueError(
                "NegToMe: none of the model's self-attentions ran: another node left the model out at this step (a "
                "cache such as EasyCache), or computes by other means than ComfyUI's; put it nearer to the checkpoint "
                "than NegToMe, or take it out"
            )
        if not self.met:
            raise ValueError(
                f"NegToMe: no self-attention of this model could be used at latents of {self.size[1]}x{self.size[0]} "
                f"(the largest feature map is {self.largest} wide, and {self.least_side} are needed); generate larger "
                "images"
            )


Adapter = Callable[[Pushes], Any]
