"""Attention processors: how NegToMe, NAG, ONG and VSF get into a model, with `from_pipe` and without it."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from negguide.integration.attending import Attending, AttentionRun, text_attention
from negguide.integration.families.denoisers import Denoiser, denoiser_of
from negguide.integration.family import Family
from negguide.integration.hooks import registry_of, remove
from negguide.integration.negtome import NegToMeRun, TokenPush, choose_blocks, self_attention, suited
from negguide.integration.step_hook import StepHook
from negguide.integration.steps import check_windows
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


def attention_processors(
    model: Any,
    method: NegToMe | AttentionMethod,
    *,
    negative_embeds: torch.Tensor | Mapping[str, torch.Tensor | None] | None = None,
    num_inference_steps: int | None = None,
    guidance_branches: int | None = None,
    num_images_per_prompt: int | None = None,
) -> dict[str, Any]:
    """Attention processors that apply NegToMe, NAG, ONG or VSF, for `model.set_attn_processor(...)`.

    Every processor of the model is in the dict: those of the chosen attention modules wrapped, all others as they are.
    Called again, it replaces what it made before. A small hook on the model follows the steps and, for NAG, ONG and
    VSF, appends the negatives' text; it is there until `negguide.remove_attention_processors(model)`. The result
    equals that of `from_pipe` with the same method where num_inference_steps is given or the windows are the whole run.

    To compile with fullgraph=True, wrap the model by torch.compile before calling this: the hook is not traced, and
    in a model compiled afterwards it breaks the graph.

    Args:
        model: a UNet2DConditionModel of diffusers, or the transformer of SD3, FLUX.1, FLUX.2, Qwen-Image, PixArt-Sigma,
            Sana or Wan, compiled or not. Z-Image's takes no attention processors: use `from_pipe`.
        method: NegToMe with reference="others" or "first", or NAG, ONG or VSF.
        negative_embeds: the encoded negatives of NAG, ONG or VSF, one row each in their order: what
            `pipe.encode_prompt` gives for their prompts. For UNets, SD3 and Wan [K, tokens, channels]; for the others a
            dict by the names of the model's inputs: encoder_hidden_states [K, tokens, channels] and, for PixArt-Sigma
            and Sana, encoder_attention_mask [K, tokens]; for Qwen-Image encoder_hidden_states_mask [K, tokens] or None;
            for FLUX.1 txt_ids [tokens, 3]; for FLUX.2 txt_ids [K, tokens, 4].
        num_inference_steps: steps of a run, the number of distinct timesteps in `scheduler.timesteps`: a window holds
            steps int(start * num_inference_steps) up to int(stop * num_inference_steps) - 1. None = the window is
            placed by the timestep, on the 1000 on which the model was trained and whatever the scheduler: it holds
            timesteps 1000 (1 - start) down to, and without, 1000 (1 - stop). NegToMe's published t 1000->800 is start
            0, stop 0.2. For image to image, and for a model that draws a part of the steps only (Wan 2.2 has two), this
            is a window of the noise. It warns when a run leaves a window out. Schedulers that do not count in training
            timesteps (EDM) need num_inference_steps.
        guidance_branches: 2 with the usual classifier-free guidance, 1 without; None = 2. NAG, ONG and VSF act on the
            conditional branch: the last one of a batch. FLUX, Qwen-Image and Wan are called once for each branch, the
            conditional first; for NAG, ONG and VSF there it must be given.
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
    denoiser = denoiser_of(inner)
    family = denoiser.family
    run: NegToMeRun | AttentionRun
    arounds: dict[str, Around]
    if isinstance(method, NegToMe):
        if negative_embeds is not None:
            raise ValueError("negative_embeds are of NAG, ONG and VSF; NegToMe takes no text")
        method = suited(method, family)
        run, arounds = _negtome_parts(inner, family, method, num_images_per_prompt)
    else:
        if family.sequential and guidance_branches is None:
            raise ValueError(
                f"guidance_branches must be given: {type(inner).__name__} is called once for each guidance branch, and "
                f"{type(method).__name__} acts on the first call at a timestep of 2 with classifier-free guidance, and "
                "on each call of 1 without"
            )
        run, arounds = _attention_parts(
            inner, family, method, _texts(inner, denoiser, method, negative_embeds)
        )
    if num_inference_steps is not None:
        check_windows([method], num_inference_steps)
    processors = {name: _unwrapped(processor) for name, processor in inner.attn_processors.items()}
    for name, around in arounds.items():
        key = f"{name}.processor"
        processors[key] = _OF_METHOD[type(method)](processors[key], around)
    remove(model, _STEPS_HOOK)
    hook = StepHook(
        inspect.signature(inner.forward),
        run,
        denoiser,
        denoiser.noise(inner.config),
        num_inference_steps,
        2 if guidance_branches is None else guidance_branches,
    )
    registry_of(model).register_hook(hook, _STEPS_HOOK)
    return processors


def counts_steps(model: nn.Module) -> bool:
    """Whether `attention_processors` left a hook on the model that counts its calls."""
    registry = vars(model).get("_diffusers_hook")
    return registry is not None and registry.get_hook(_STEPS_HOOK) is not None


def remove_attention_processors(model: Any) -> None:
    """Take away what `attention_processors` made: the processors are those from before, the hook is gone."""
    inner = unwrap_module(model)
    inner.set_attn_processor({name: _unwrapped(p) for name, p in inner.attn_processors.items()})
    remove(model, _STEPS_HOOK)


def _negtome_parts(
    model: nn.Module, family: Family, method: NegToMe, num_images_per_prompt: int | None
) -> tuple[NegToMeRun, dict[str, Around]]:
    if method.images:
        raise ValueError(
            "reference holds images, which attention processors cannot encode (a denoiser has no VAE); use from_pipe"
        )
    places = text_attention(model, family)
    chosen = choose_blocks(
        self_attention(model), family.negtome_blocks if method.blocks is None else method.blocks
    )
    run = NegToMeRun(method, num_images_per_prompt, family.negtome_min_side if method.blocks is None else 0)
    return run, {name: TokenPush(run, places.get(name)) for name in chosen}


def _attention_parts(
    model: nn.Module, family: Family, method: AttentionMethod, text: list[dict[str, Any]]
) -> tuple[AttentionRun, dict[str, Around]]:
    run = AttentionRun(method, family, text)
    return run, {
        module: Attending(run, module, place) for module, place in text_attention(model, family).items()
    }


def _texts(model: Any, denoiser: Denoiser, method: AttentionMethod, embeds: Any) -> list[dict[str, Any]]:
    """For each negative {text input: [1, tokens, ..], or [tokens, ..] of positions}.

    Raises:
        ValueError: names or shapes that are not those of the model's inputs.
    """
    kinds = {path: kind for path, kind in denoiser.family.text.items() if kind != "pooled"}
    first, *others = kinds
    count, channels = len(method.negatives), denoiser.text_channels(model.config)
    given = embeds if isinstance(embeds, Mapping) else {first: embeds}
    shapes = {path: None if value is None else list(value.shape) for path, value in given.items()}
    shape = shapes.get(first) or []
    right = set(given) == set(kinds) and shape == [count, *shape[1:2], channels]
    for path in others if right else ():
        beginning, other = shape[1:2] if kinds[path] == "positions" else shape[:2], shapes[path]
        # without a mask there is no padding
        fits = path.endswith("_mask") if other is None else other[: len(beginning)] == beginning
        right = right and fits
    if not right:
        rows = f"[{count}, tokens, {channels}]"
        if others:
            more = (
                f"{path!r}: [{'' if kinds[path] == 'positions' else f'{count}, '}tokens, ..]"
                for path in others
            )
            rows = f"{{{first!r}: {rows}, {', '.join(more)}}}"
        raise ValueError(
            f"negative_embeds must be {rows} for {type(model).__name__}, one row for each negative of "
            f"{type(method).__name__}, got {shapes if isinstance(embeds, Mapping) else shapes[first]}"
        )
    return [
        {
            path: value if value is None or kinds[path] == "positions" else value[k : k + 1]
            for path, value in given.items()
        }
        for k in range(count)
    ]


def _unwrapped(processor: Any) -> Any:
    return processor.processor if isinstance(processor, WrappedAttnProcessor) else processor
