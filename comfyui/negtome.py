"""NegToMe during a run: the image's tokens away from their best match, behind the self-attentions of a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guidance.grid import resize_mask, token_grid
from .guidance.tokens import negtome, negtome_others
from .negatives import as_mask
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
        mask: [1, H, W] where tokens are pushed, and how much.
        reference_mask: [1, H, W] which reference tokens may be matched.
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
            mask = as_mask(getattr(self, label))
            if mask is not None and len(mask) != 1:
                raise ValueError(f"{label} must be one mask, got a batch of {len(mask)}")
            object.__setattr__(self, label, mask)


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
        # {place in the model: [1, references' tokens, channels]}
        self.tokens: dict[Any, Tensor] = {}

    def prepare(self) -> None:
        options = self.options
        self.steps.check([options.window])
        self.push_mask = self.mask(options.mask, "NegToMe")
        self.reference_mask = self.mask(options.reference_mask, "NegToMe's references")
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
        text = conds.get("negative") or conds["positive"]
        captures = Captures()
        options = {**model_options.get("transformer_options", {}), _CAPTURES: captures}
        predict(
            self,
            text,
            noisy,
            level.expand(len(latents)),
            {**model_options, "transformer_options": options},
        )
        self.tokens = {key: value.reshape(1, -1, value.shape[2]) for key, value in captures.tokens.items()}


class Captures:
    """The references' tokens of one forward, by place; no dict, of which ComfyUI would hand on a copy."""

    def __init__(self) -> None:
        self.tokens: dict[Any, Tensor] = {}


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
            self.captures.tokens[place] = tokens.detach().clone()
            return tokens
        options = self.run.options
        mask = reference_mask = None
        grid = (0, 0)
        if self.run.push_mask is not None or self.run.reference_mask is not None:
            grid = token_grid(tokens.shape[1] // self.frames, self.size)
        if self.run.push_mask is not None:
            mask = resize_mask(self.run.push_mask, grid).flatten(1).repeat(1, self.frames).to(tokens)
        if self.run.reference_mask is not None:
            reference_mask = resize_mask(self.run.reference_mask, grid).reshape(1, -1) >= 0.5
            reference_mask = reference_mask.repeat(1, self.frames).to(tokens.device)
        bound = options.max_push or None

        def push(source: Tensor, reference: Tensor) -> Tensor:
            allowed = reference_mask
            if allowed is not None:
                allowed = allowed.repeat(1, reference.shape[1] // allowed.shape[1])
            return negtome(
                source,
                reference,
                options.alpha,
                options.threshold,
                source_mask=mask,
                reference_mask=allowed,
                max_push=bound,
                perpendicular=options.perpendicular,
            )

        if options.latents is not None:
            return push(tokens, self.run.tokens[place].to(tokens))
        if self.images < 2:
            # a part of the model that sees one image at a time
            raise ValueError(
                f"NegToMe: reference={options.reference!r} needs the images of a batch together, and this model sees "
                f"{self.images} at a time"
            )
        groups = tokens.unflatten(0, (-1, self.images))
        if options.reference == FIRST:
            first, others = groups[:, :1], groups[:, 1:]
            pushed = push(others.flatten(0, 1), first.expand_as(others).flatten(0, 1))
            return torch.cat([first, pushed.unflatten(0, (-1, self.images - 1))], dim=1).flatten(0, 1)
        if reference_mask is None:
            pushed, _ = negtome_others(
                groups,
                options.alpha,
                options.threshold,
                source_mask=mask,
                max_push=bound,
                perpendicular=options.perpendicular,
            )
            return pushed.flatten(0, 1)
        results = []
        for image in range(self.images):
            rest = torch.cat([groups[:, :image], groups[:, image + 1 :]], dim=1)
            results.append(push(groups[:, image], rest.flatten(1, 2)))
        return torch.stack(results, dim=1).flatten(0, 1)

    def check(self) -> None:
        """Refuse a call in which nothing was pushed.

        Raises:
            ValueError: every feature map was too small, or the model's attentions were never called.
        """
        if not self.met:
            raise ValueError(
                f"NegToMe: no self-attention of this model could be used at latents of {self.size[1]}x{self.size[0]} "
                f"(the largest feature map is {self.largest} wide, and {self.least_side} are needed); generate larger "
                "images"
            )


Adapter = Callable[[Pushes], Any]
