"""NegToMe as attention processors, the door for any diffusers model without `from_pipe`."""

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.integration.families import STABLE_DIFFUSION
from negguide.integration.hooks import registry_of
from negguide.integration.images import check_aspect, mask_tensor, resize_mask
from negguide.integration.negtome import NegToMeRun, TokenPush, choose_blocks, self_attention
from negguide.integration.steps import check_windows
from negguide.methods import NegToMe

_STEPS_HOOK = "negguide_steps"


class NegToMeAttnProcessor(nn.Module):
    """The processor that was there, with its output pushed.

    Args:
        processor: an attention processor of a self-attention module.
        push: what is done to its output, made by `attention_processors`.

    `__call__` has the signature of the wrapped processor's, by which diffusers filters keyword arguments.
    """

    def __init__(self, processor: Any, push: TokenPush) -> None:
        super().__init__()
        self.processor = processor
        self.push = push
        self.__class__ = _wrapper_class(type(processor))  # type: ignore[arg-type]

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


@functools.cache
def _wrapper_class(wrapped: type) -> type[NegToMeAttnProcessor]:
    """A NegToMeAttnProcessor whose `__call__` shows the signature of `wrapped.__call__`."""

    @functools.wraps(wrapped.__call__)
    def __call__(self: NegToMeAttnProcessor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.push(self.processor(*args, **kwargs))

    return type("NegToMeAttnProcessor", (NegToMeAttnProcessor,), {"__call__": __call__})


@contextmanager
def pushed(modules: Iterable[Any], run: NegToMeRun) -> Iterator[None]:
    """Push the outputs of these self-attention modules while the block runs; afterwards they are as before.

    Processors and not hooks: torch.compile guards a hooked `forward` by its identity, so hooks attached for each call
    would mean compiling for each call.
    """
    modules = list(modules)
    before = [module.processor for module in modules]
    ours = [NegToMeAttnProcessor(processor, TokenPush(run)) for processor in before]
    try:
        for module, processor in zip(modules, ours, strict=True):
            module.set_processor(processor)
        yield
    finally:
        for module, processor, former in zip(modules, ours, before, strict=True):
            # a processor that a callback has put there stays
            if module.processor is processor:
                module.set_processor(former)


class StepHook(ModelHook):
    """Tells a `NegToMeRun` the step and the latent size of each call of the model.

    A timestep above the last one begins a new run, wherever the last run ended.
    """

    def __init__(
        self, signature: inspect.Signature, run: NegToMeRun, num_inference_steps: int | None
    ) -> None:
        super().__init__()
        self.signature = signature
        self.run = run
        self.num_inference_steps = num_inference_steps
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
            method = self.run.method
            self.run.mask = _mask("mask of NegToMe", method.mask, latent_size)
            self.run.reference_mask = _mask("reference_mask of NegToMe", method.reference_mask, latent_size)
        step, num_steps = 0, 1
        if self.num_inference_steps is not None:
            timestep = torch.as_tensor(inputs[STABLE_DIFFUSION.timestep]).flatten()[0]
            step, num_steps = self._step(float(timestep), self.num_inference_steps), self.num_inference_steps
        self.run.begin_step(step, num_steps, sample)
        return args, kwargs

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
        if self.run.pushing:
            self.run.check_reached()
        return output


def attention_processors(
    model: Any,
    method: NegToMe,
    *,
    num_inference_steps: int | None = None,
    guidance_branches: int = 2,
    num_images_per_prompt: int | None = None,
) -> dict[str, Any]:
    """Attention processors that apply NegToMe, for `model.set_attn_processor(...)`.

    Every processor of the model is in the dict: those of the chosen self-attention modules wrapped, all others as
    they are. Called again, it replaces what it made before. A small hook on the model follows the steps; it does
    nothing once the processors are gone (`model.set_default_attn_processor()`, or the former
    `model.attn_processors`). The result equals that of `from_pipe` with the same method.

    To compile with fullgraph=True, wrap the model by torch.compile before calling this: the hook is not traced, and
    in a model compiled afterwards it breaks the graph.

    Args:
        model: a UNet of diffusers, compiled or not.
        method: with reference="others" or "first".
        num_inference_steps: steps of a run: the number of distinct timesteps in `scheduler.timesteps`. Needed unless
            the method's window is the whole run.
        guidance_branches: how many guidance branches share a batch: 2 with the usual classifier-free guidance, 1
            without guidance.
        num_images_per_prompt: as given to the pipeline; None = all images of a call belong to one prompt.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.

    Source: NegToMe, arXiv 2412.01339.
    """
    if not isinstance(method, NegToMe):
        raise TypeError(f"method must be a NegToMe, got {method!r}; PerpNeg works through from_pipe")
    if method.images:
        raise ValueError(
            "reference holds images, which attention processors cannot encode (a denoiser has no VAE); use from_pipe"
        )
    for name, value, least in (
        ("num_inference_steps", num_inference_steps, 1),
        ("guidance_branches", guidance_branches, 1),
        ("num_images_per_prompt", num_images_per_prompt, 2),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if (method.start, method.stop) == (0, 1):
        num_inference_steps = None
    elif num_inference_steps is None:
        raise ValueError(
            f"num_inference_steps is needed to place the window start={method.start}, stop={method.stop}; give it, or "
            "use start=0, stop=1"
        )
    else:
        check_windows([method], num_inference_steps)

    inner = unwrap_module(model)
    signature = inspect.signature(inner.forward)
    if not hasattr(inner, "attn_processors") or not {"sample", "timestep"} <= set(signature.parameters):
        raise TypeError(f"model must be a diffusers UNet, got {type(inner).__name__}")
    blocks = STABLE_DIFFUSION.negtome_blocks if method.blocks is None else method.blocks
    chosen = choose_blocks(self_attention(inner), blocks)

    min_side = STABLE_DIFFUSION.negtome_min_side if method.blocks is None else 0
    run = NegToMeRun(method, num_images_per_prompt, min_side)
    run.branches = guidance_branches
    processors = {name: _unwrapped(processor) for name, processor in inner.attn_processors.items()}
    for name in chosen:
        key = f"{name}.processor"
        processors[key] = NegToMeAttnProcessor(processors[key], TokenPush(run))
    registry = registry_of(model)
    registry.remove_hook(_STEPS_HOOK, recurse=False)
    registry.register_hook(StepHook(signature, run, num_inference_steps), _STEPS_HOOK)
    return processors


def _unwrapped(processor: Any) -> Any:
    return processor.processor if isinstance(processor, NegToMeAttnProcessor) else processor


def _mask(name: str, mask: Any, latent_size: tuple[int, int]) -> torch.Tensor | None:
    if mask is None:
        return None
    check_aspect(name, mask, latent_size, "the latents")
    return resize_mask(mask_tensor(mask)[None, None], latent_size)
