"""What negguide relies on in diffusers and torch beyond their documented interfaces: all of it, in one place.

Each fact names the versions in which it was seen; `tests/integration/test_compat.py` checks each of them. Where a new
version breaks one, this file is what changes.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator
from types import FrameType, MethodType
from typing import Any

import diffusers
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.attention_processor import Attention
from diffusers.modular_pipelines import PipelineState
from diffusers.utils.torch_utils import is_compiled_module, unwrap_module
from packaging.version import Version
from torch import nn
from torch._guards import TracingContext

OLDEST, NEWEST = Version("0.40"), Version("0.42")
"""The diffusers versions that the tests were run on, the newest in whichever patch."""

DENOISER_CONTEXT = "cache_context"
"""With this pipelines say of each call of a denoiser which one it is, for caches (diffusers 0.40 to 0.42)."""

PER_MODULE_CACHES = {
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "faster_cache_block": "FasterCache",
    "faster_cache_denoiser": "FasterCache",
}
"""{name of a hook: the cache} of those that keep one state a module whatever the branch (diffusers 0.40 to 0.42)."""

DEPRECATED_ARGUMENTS = frozenset({"callback", "callback_steps", "mask_feature"})
"""What pipelines still take out of their **kwargs (diffusers 0.40 to 0.42)."""


@functools.cache
def warn_if_untested() -> None:
    """Say once in a process that this version of diffusers was not tested."""
    version = Version(diffusers.__version__)
    if version.release[:2] < OLDEST.release or version.release[:2] > NEWEST.release:
        warnings.warn(
            f"negguide was tested on diffusers {OLDEST} to {NEWEST}, and this is {version}; if a picture looks wrong, "
            f"install one of those",
            stacklevel=3,
        )


def input_names(model: nn.Module, needed: str) -> list[str]:
    """The names of a denoiser's inputs that may be given by their place, in that order, by its class.

    The instance's own `forward` may be a `(*args, **kwargs)` wrapper of somebody else's, as may be that of a subclass;
    the first class counts that names `needed`, an input that every call has, and takes no `*args` beside.
    """
    for kind in type(unwrap_module(model)).__mro__:
        forward = vars(kind).get("forward")
        if forward is not None:
            parameters = list(inspect.signature(forward).parameters.values())[1:]
            by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            if needed in by_place and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
                return by_place
    raise TypeError(f"{type(model).__name__} has no forward that takes {needed!r}")


def call_signature(pipeline: type) -> inspect.Signature:
    """The signature of a pipeline class's call, self included.

    A derived class may pass most on as `*args, **kwargs`: what it names itself is added to what the first class along
    its bases names that says what a run is.
    """
    extra: list[inspect.Parameter] = []
    for kind in pipeline.__mro__:
        call = vars(kind).get("__call__")
        if call is None:
            continue
        parameters = list(inspect.signature(call).parameters.values())
        if any(parameter.name == "num_inference_steps" for parameter in parameters):
            known = {parameter.name for parameter in parameters}
            new = [p.replace(kind=p.KEYWORD_ONLY) for p in extra if p.name not in known]
            position = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
            return inspect.Signature([*parameters[:position], *new, *parameters[position:]])
        extra += [p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own: Any = pipeline.__call__
    return inspect.signature(own)


def is_cached(model: nn.Module) -> bool:
    """Whether a cache of diffusers (FirstBlockCache and its kin) skips parts of this model."""
    return any(hook._is_stateful for hook in _hooks(model))


def per_module_cache(model: nn.Module) -> str | None:
    """The name of a cache on this model that cannot tell branches apart; None without one."""
    for registry in _registries(model):
        for name in registry.hooks:
            if name in PER_MODULE_CACHES:
                return PER_MODULE_CACHES[name]
    return None


def _registries(model: nn.Module) -> Iterator[Any]:
    for module in unwrap_module(model).modules():
        # seen in 0.40 to 0.42: hooks hang in this attribute of the module
        registry = vars(module).get("_diffusers_hook")
        if registry is not None:
            yield registry


def _hooks(model: nn.Module) -> Iterator[Any]:
    for registry in _registries(model):
        yield from registry.hooks.values()


def processor_slot(module: nn.Module) -> tuple[Any, bool]:
    """The attention processor of a module, and whether it lies in the module's `__dict__`.

    One that is itself a module (an IP-Adapter's) is registered as a submodule and lies in `_modules`; an entry in
    `__dict__` goes before it (torch 2.6 to 2.13).
    """
    own = vars(module).get("processor")
    return (own, True) if own is not None else (module.processor, False)


def is_tracing() -> bool:
    """Whether torch.compile looks at what the present thread runs (torch 2.13)."""
    return TracingContext.try_get() is not None


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The attention modules of a model whose processors perturbed-attention guidance may set."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def perturbed_branches(modules: Iterable[nn.Module]) -> int | None:
    """How many guidance branches perturbed-attention guidance puts into a batch; None where it is not on the model.

    While a call lasts, its pipelines set processors that take the batch apart: `PAGCFG..` into (uncond, cond,
    perturbed), the others `PAG..` into (cond, perturbed) (diffusers 0.40 to 0.42).
    """
    for module in modules:
        name = type(vars(module).get("processor")).__name__
        if name.startswith("PAG"):
            return 3 if name.startswith("PAGCFG") else 2
    return None


def caller_run() -> tuple[Any, int | None] | None:
    """(scheduler, its timesteps that are used) of the pipeline call that the present call of a denoiser belongs to.

    A denoiser is not told which run it is called in, and nothing that it is given tells two runs apart; the frames that
    called it lead to the pipeline, in every pipeline. None where the caller is a loop of one's own. The second value is
    None where the pipeline does not say it: all are used (PixArt).
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            # `self` in classic pipelines; `components` in the blocks of modular ones, whose `self` is the block
            for name in ("components", "self"):
                owner = frame.f_locals.get(name)
                scheduler = getattr(owner, "scheduler", None)
                if scheduler is not None and getattr(scheduler, "timesteps", None) is not None:
                    return scheduler, getattr(owner, "_num_timesteps", None)
        frame = frame.f_back
    return None


def caller_is_unguided() -> bool:
    """Whether the pipeline call that the present call of a denoiser belongs to says that it has no guidance now.

    Not every pipeline says it (diffusers 0.40 to 0.42: FLUX.1's do not), and a loop of one's own does not.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            owner = frame.f_locals.get("self")
            if getattr(owner, "scheduler", None) is not None:
                return getattr(owner, "do_classifier_free_guidance", None) is False
        frame = frame.f_back
    return False


def calling_states() -> list[Any]:
    """The states of the modular pipelines that are running around the present call, innermost first.

    Every block of a modular pipeline, and the pipeline itself, holds its run's state by this name (diffusers 0.40 to
    0.42).
    """
    found: list[Any] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        state = frame.f_locals.get("state") if frame.f_code.co_name == "__call__" else None
        if isinstance(state, PipelineState) and not any(state is other for other in found):
            found.append(state)
        frame = frame.f_back
    return found


def hook_registry(module: nn.Module) -> HookRegistry:
    """The hook registry of a module; a module wrapped by torch.compile gets one of its own, outside what is traced."""
    if not is_compiled_module(module):
        return HookRegistry.check_if_exists_or_initialize(module)
    # kept beside the wrapper's own attributes: others it hands on to the module inside
    registry: HookRegistry = vars(module).setdefault("_diffusers_hook", HookRegistry(module))
    return registry


def add_hook(module: nn.Module, hook: Any, name: str) -> None:
    """Put a hook on a module; `remove_hook` takes it away."""
    hook_registry(module).register_hook(hook, name)
    hook.own_forward = module.forward


def remove_hook(module: nn.Module, name: str) -> None:
    """Take away what `add_hook` put there; a module without any other is as if it had had none.

    A wrapper that somebody has laid around the module's forward since then stays: it goes on calling the hook.
    """
    registry = vars(module).get("_diffusers_hook")
    if registry is None or name not in registry.hooks:
        return
    hook = registry.hooks[name]
    # seen in 0.40 to 0.42: the last hook's forward is the module's, and removing it sets that back
    wrapper = module.forward if registry._hook_order[-1] == name else hook.own_forward
    registry.remove_hook(name, recurse=False)
    if wrapper is not hook.own_forward:
        module.forward = wrapper
    if registry.hooks:
        return
    del vars(module)["_diffusers_hook"]
    # the registry puts the class's own forward back as an attribute
    if vars(module).get("forward") == MethodType(type(module).forward, module):
        del module.forward
