"""Attention processors: how NegToMe, NAG, ONG and VSF get into a model, with `from_pipe` and without it."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.integration.attending import Attending, AttentionRun, text_attention
from negguide.integration.families import STABLE_DIFFUSION
from negguide.integration.hooks import registry_of, remove
from negguide.integration.images import check_aspect, mask_tensor, negative_masks, resize_mask
from negguide.integration.negtome import NegToMeRun, TokenPush, choose_blocks, self_attention
from negguide.integration.steps import check_windows, windows_of
from negguide.methods import NAG, ONG, VSF, AttentionMethod, Method, NegToMe

_STEPS_HOOK = "negguide_steps"


Around = Callable[..., Any]
"""Called with a processor and its arguments, in its place: `around(processor, *args, **kwargs)`."""


class WrappedAttnProcessor(nn.Module):
    """The processor that was there, with something done around its call.

    Args:
        processor: an attention processor.
        around: a `TokenPush` or an `Attending`.

    `__call__` has the signature of the wrapped processor's, by which diffusers filters keyword arguments.
    """

    def __init__(self, processor: Any, around: Around) -> None:
        super().__init__()
        self.processor = processor
        self.around = around
        self.__class__ = _with_signature_of(type(self), type(processor))  # type: ignore[arg-type]

    # read and set by diffusers' attention backends and context parallelism, on the processor that attends
    @property
    def _attention_backend(self) -> Any:
        return self.processor._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.processor._attention_backend = backend

    @property
    def _parallel_config(self) -> Any:
        return self.processor._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        self.processor._parallel_config = config


class NegToMeAttnProcessor(WrappedAttnProcessor):
    """Pushes the image tokens that a self-attention gives; made by `attention_processors`."""


class NAGAttnProcessor(WrappedAttnProcessor):
    """Normalized attention guidance in one attention that meets the text; made by `attention_processors`."""


class ONGAttnProcessor(WrappedAttnProcessor):
    """Orthogonal negative guidance in one attention that meets the text; made by `attention_processors`."""


class VSFAttnProcessor(WrappedAttnProcessor):
    """Value sign flip in one attention that meets the text; made by `attention_processors`."""


_OF_METHOD: dict[type, type[WrappedAttnProcessor]] = {
    NegToMe: NegToMeAttnProcessor,
    NAG: NAGAttnProcessor,
    ONG: ONGAttnProcessor,
    VSF: VSFAttnProcessor,
}


@functools.cache
def _with_signature_of(ours: type[WrappedAttnProcessor], wrapped: type) -> type[WrappedAttnProcessor]:
    """`ours` with a `__call__` that shows the signature of `wrapped.__call__`."""

    @functools.wraps(wrapped.__call__)
    def __call__(self: WrappedAttnProcessor, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.processor, *args, **kwargs)

    return type(ours.__name__, (ours,), {"__call__": __call__})


@contextmanager
def wrapped(modules: Mapping[str, Any], method: Method, arounds: Mapping[str, Around]) -> Iterator[None]:
    """Wrap the processors of these attention modules while the block runs; afterwards they are as before.

    Processors and not hooks: torch.compile guards a hooked `forward` by its identity, so hooks attached for each call
    would mean compiling for each call.
    """
    before = {name: module.processor for name, module in modules.items()}
    ours = {name: _OF_METHOD[type(method)](processor, arounds[name]) for name, processor in before.items()}
    try:
        for name, module in modules.items():
            module.set_processor(ours[name])
        yield
    finally:
        for name, module in modules.items():
            # a processor that a callback has put there stays
            if module.processor is ours[name]:
                module.set_processor(before[name])


class StepHook(ModelHook):
    """Tells a `NegToMeRun` or an `AttentionRun` the step and the latent size of each call of the model.

    A timestep above the last one begins a new run, wherever the last run ended.
    """

    def __init__(
        self,
        signature: inspect.Signature,
        run: NegToMeRun | AttentionRun,
        num_inference_steps: int | None,
        guidance_branches: int,
    ) -> None:
        super().__init__()
        self.signature = signature
        self.run = run
        self.num_inference_steps = num_inference_steps
        self.guidance_branches = guidance_branches
        self.step = 0
        self.last_timestep: float | None = None

    # not traced: a compiled model would be compiled anew at each step
    @torch.compiler.disable
    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs = self.signature.bind(*args, **kwargs).arguments
        sample = inputs[STABLE_DIFFUSION.sample]
        latent_size = (sample.shape[-2], sample.shape[-1])
        if latent_size != self.run.latent_size:
            self._resize_masks(latent_size)
        step, num_steps = 0, 1
        if self.num_inference_steps is not None:
            timestep = torch.as_tensor(inputs[STABLE_DIFFUSION.timestep]).flatten()[0]
            step, num_steps = self._step(float(timestep), self.num_inference_steps), self.num_inference_steps
        if isinstance(self.run, NegToMeRun):
            self.run.begin_step(step, num_steps, latent_size, sample)
            return args, kwargs
        self.run.begin_step(step, num_steps, latent_size)
        batch = sample.shape[0] // self.guidance_branches
        return (), self.run.begin_forward(inputs, (sample.shape[0] - batch, sample.shape[0]))

    def _resize_masks(self, latent_size: tuple[int, int]) -> None:
        run = self.run
        if isinstance(run, NegToMeRun):
            run.mask = _mask("mask of NegToMe", run.method.mask, latent_size)
            run.reference_mask = _mask("reference_mask of NegToMe", run.method.reference_mask, latent_size)
        else:
            run.masks = negative_masks(run.method.negatives, latent_size, latent_size, "the latents")

    def _step(self, timestep: float, num_inference_steps: int) -> int:
        if self.last_timestep is None or timestep > self.last_timestep:
            self.step = 0
        elif timestep < self.last_timestep:
            self.step += 1
        self.last_timestep = timestep
        if self.step >= num_inference_steps:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}, but this run has more distinct timesteps; give "
                "attention_processors the number of distinct timesteps in scheduler.timesteps"
            )
        return self.step

    @torch.compiler.disable
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if isinstance(self.run, AttentionRun):
            if self.run.on:
                self.run.check_reached()
        elif self.run.pushing:
            self.run.check_reached()
        return output


def attention_processors(
    model: Any,
    method: NegToMe | AttentionMethod,
    *,
    negative_embeds: torch.Tensor | None = None,
    num_inference_steps: int | None = None,
    guidance_branches: int = 2,
    num_images_per_prompt: int | None = None,
) -> dict[str, Any]:
    """Attention processors that apply NegToMe, NAG, ONG or VSF, for `model.set_attn_processor(...)`.

    Every processor of the model is in the dict: those of the chosen attention modules wrapped, all others as they are.
    Called again, it replaces what it made before. A small hook on the model follows the steps and, for NAG, ONG and
    VSF, appends the negatives' text; it is there until `negguide.remove_attention_processors(model)`. The result
    equals that of `from_pipe` with the same method.

    To compile with fullgraph=True, wrap the model by torch.compile before calling this: the hook is not traced, and
    in a model compiled afterwards it breaks the graph.

    Args:
        model: a UNet of diffusers, compiled or not.
        method: NegToMe with reference="others" or "first", or NAG, ONG or VSF.
        negative_embeds: [K, tokens, channels], the encoded negatives of NAG, ONG or VSF, one row each in their order:
            what `pipe.encode_prompt` gives for their prompts.
        num_inference_steps: steps of a run: the number of distinct timesteps in `scheduler.timesteps`. Needed unless
            the method's windows are the whole run.
        guidance_branches: how many guidance branches share a batch: 2 with the usual classifier-free guidance, 1
            without guidance. NAG, ONG and VSF act on the last one, the conditional.
        num_images_per_prompt: as given to the pipeline; None = all images of a call belong to one prompt.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.

    Source: NegToMe, arXiv 2412.01339; NAG, arXiv 2505.21179; ONG, arXiv 2605.29390; VSF, arXiv 2508.10931.
    """
    if not isinstance(method, NegToMe | AttentionMethod):
        raise TypeError(
            f"method must be a NegToMe, NAG, ONG or VSF, got {method!r}; PerpNeg works through from_pipe"
        )
    for name, value, least in (
        ("num_inference_steps", num_inference_steps, 1),
        ("guidance_branches", guidance_branches, 1),
        ("num_images_per_prompt", num_images_per_prompt, 2),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    inner = unwrap_module(model)
    signature = inspect.signature(inner.forward)
    if not hasattr(inner, "attn_processors") or not {"sample", "timestep"} <= set(signature.parameters):
        raise TypeError(f"model must be a diffusers UNet, got {type(inner).__name__}")
    run: NegToMeRun | AttentionRun
    arounds: dict[str, Around]
    if isinstance(method, NegToMe):
        run, arounds = _negtome_parts(
            inner, method, negative_embeds, guidance_branches, num_images_per_prompt
        )
    else:
        run, arounds = _attention_parts(inner, method, negative_embeds)
    num_inference_steps = _steps_needed(method, num_inference_steps)
    processors = {name: _unwrapped(processor) for name, processor in inner.attn_processors.items()}
    for name, around in arounds.items():
        key = f"{name}.processor"
        processors[key] = _OF_METHOD[type(method)](processors[key], around)
    remove(model, _STEPS_HOOK)
    hook = StepHook(signature, run, num_inference_steps, guidance_branches)
    registry_of(model).register_hook(hook, _STEPS_HOOK)
    return processors


def remove_attention_processors(model: Any) -> None:
    """Take away what `attention_processors` made: the processors are those from before, the hook is gone."""
    inner = unwrap_module(model)
    inner.set_attn_processor({name: _unwrapped(p) for name, p in inner.attn_processors.items()})
    remove(model, _STEPS_HOOK)


def _steps_needed(method: NegToMe | AttentionMethod, num_inference_steps: int | None) -> int | None:
    windows = windows_of(method)
    if set(windows) == {(0, 1)}:
        return None
    if num_inference_steps is None:
        start, stop = next(window for window in windows if window != (0, 1))
        raise ValueError(
            f"num_inference_steps is needed to place the window start={start}, stop={stop}; give it, or use start=0, "
            "stop=1"
        )
    check_windows([method], num_inference_steps)
    return num_inference_steps


def _negtome_parts(
    model: nn.Module,
    method: NegToMe,
    negative_embeds: torch.Tensor | None,
    guidance_branches: int,
    num_images_per_prompt: int | None,
) -> tuple[NegToMeRun, dict[str, Around]]:
    if negative_embeds is not None:
        raise ValueError("negative_embeds are of NAG, ONG and VSF; NegToMe takes no text")
    if method.images:
        raise ValueError(
            "reference holds images, which attention processors cannot encode (a denoiser has no VAE); use from_pipe"
        )
    blocks = STABLE_DIFFUSION.negtome_blocks if method.blocks is None else method.blocks
    chosen = choose_blocks(self_attention(model), blocks)
    min_side = STABLE_DIFFUSION.negtome_min_side if method.blocks is None else 0
    run = NegToMeRun(method, num_images_per_prompt, min_side)
    run.branches = guidance_branches
    return run, {name: TokenPush(run) for name in chosen}


def _attention_parts(
    model: Any, method: AttentionMethod, negative_embeds: torch.Tensor | None
) -> tuple[AttentionRun, dict[str, Around]]:
    name, count = type(method).__name__, len(method.negatives)
    places = text_attention(model, STABLE_DIFFUSION)
    channels = model.get_submodule(next(iter(places))).to_k.in_features
    if model.config.encoder_hid_dim_type == "text_proj":
        channels = model.config.encoder_hid_dim
    shape = None if negative_embeds is None else list(negative_embeds.shape)
    if negative_embeds is None or shape != [count, *negative_embeds.shape[1:2], channels]:
        raise ValueError(
            f"negative_embeds must be [{count}, tokens, {channels}], one row for each negative of {name}, got {shape}"
        )
    text = [{"encoder_hidden_states": negative_embeds[k : k + 1]} for k in range(count)]
    run = AttentionRun(method, STABLE_DIFFUSION, text)
    return run, {module: Attending(run, module, place) for module, place in places.items()}


def _unwrapped(processor: Any) -> Any:
    return processor.processor if isinstance(processor, WrappedAttnProcessor) else processor


def _mask(name: str, mask: Any, latent_size: tuple[int, int]) -> torch.Tensor | None:
    if mask is None:
        return None
    check_aspect(name, mask, latent_size, "the latents")
    return resize_mask(mask_tensor(mask)[None, None], latent_size)
