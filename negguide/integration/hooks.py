"""A hook on a model for the length of one call, never traced by torch.compile: what counts steps must not be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

from diffusers.hooks.hooks import HookFunctionReference, HookRegistry, ModelHook
from diffusers.utils.torch_utils import is_compiled_module
from torch import nn


@contextmanager
def attached(module: nn.Module, name: str, hook: ModelHook) -> Iterator[None]:
    """Keep a hook with a `new_forward` attached while the block runs; afterwards the module is as before.

    Raises:
        ValueError: when the module already holds a hook of that name, i.e. a guided call runs inside another.
    """
    compiled_call = vars(module).get("_compiled_call_impl")
    if compiled_call is not None:
        with _around(compiled_call, module, hook):
            yield
        return
    had_registry = "_diffusers_hook" in vars(module)
    had_forward = "forward" in vars(module)
    registry = registry_of(module)
    registry.register_hook(hook, name)
    ours = module.forward
    try:
        yield
    finally:
        # Model offloading puts a forward of its own in the place of ours when the pipeline's call ends: keep that one.
        last = registry._hook_order[-1] == name
        replaced = module.forward if last and module.forward is not ours else None
        registry.remove_hook(name, recurse=False)
        if replaced is not None:
            module.forward = replaced
        elif not had_forward and not registry.hooks:
            del module.forward
        if not had_registry and not registry.hooks:
            del vars(module)["_diffusers_hook"]


@contextmanager
def _around(compiled_call: Callable[..., Any], module: Any, hook: Any) -> Iterator[None]:
    """The same for a module compiled in place by `module.compile()`, whose `forward` is traced with all its hooks."""
    if isinstance(compiled_call, partial):
        raise ValueError("the model is in a guided call already; guided calls cannot run inside one another")
    hook.fn_ref = HookFunctionReference()
    hook.fn_ref.original_forward = compiled_call
    module._compiled_call_impl = partial(hook.new_forward, module)
    try:
        yield
    finally:
        module._compiled_call_impl = compiled_call


def registry_of(module: nn.Module) -> HookRegistry:
    """The hook registry of a module; a module wrapped by torch.compile gets one of its own, outside what is traced."""
    if not is_compiled_module(module):
        return HookRegistry.check_if_exists_or_initialize(module)
    # kept beside the wrapper's own attributes: others it hands on to the module inside
    registry: HookRegistry = vars(module).setdefault("_diffusers_hook", HookRegistry(module))
    return registry


def remove(module: nn.Module, name: str) -> None:
    """Take a hook away that was there for longer than a call; a module without any other is as if it had had none."""
    registry = vars(module).get("_diffusers_hook")
    if registry is None:
        return
    registry.remove_hook(name, recurse=False)
    if registry.hooks:
        return
    del vars(module)["_diffusers_hook"]
    # the registry puts the class's own forward back as an attribute
    if vars(module).get("forward") == MethodType(type(module).forward, module):
        del module.forward
