"""What happens around the attention processors of a model during one forward, seen by the calling thread alone.

For the length of a forward that wants it, each attention module concerned holds an `InterceptedProcessor`, which looks
up in a variable of its thread what is to be done around the processor. A forward of the same model in another thread
finds nothing there and runs the processor as it is. Between forwards the model is untouched: whatever loads, unloads or
scales adapters, sets processors or asks for their class meets the model's own.

Processors and not hooks: torch.compile guards a hooked `forward` by its identity, so that hooks that come and go would
mean compiling anew. A variable of the thread and not a context variable: torch.compile traces it.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from negguide.integration.hooks.compat import is_tracing, processor_slot

Interceptor = Callable[..., Any]
"""Called in a processor's place, with it and its arguments: `interceptor(processor, module, *args, **kwargs)`."""

_thread = threading.local()
_lock = threading.Lock()
_installed: weakref.WeakKeyDictionary[nn.Module, _Entry] = weakref.WeakKeyDictionary()


class _Entry:
    """The intercepted processor that a module holds, and for how many forwards."""

    def __init__(self, processor: InterceptedProcessor, restore: bool) -> None:
        self.processor = processor
        self.restore = restore
        self.users = 1


class InterceptedProcessor:
    """An attention processor with what the present thread's forward wants done around it.

    `__call__` has the signature of the processor's own, by which diffusers filters keyword arguments. Whatever else is
    asked of it is answered by the processor, before `isinstance` too, and what is set is set there: another thread may
    scale or unload an adapter while a forward runs.
    """

    def __init__(self, processor: Any, name: str) -> None:
        vars(self).update(processor=processor, name=name)
        kind: Any = type(processor)
        object.__setattr__(self, "__class__", _with_signature_of(kind))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.processor, name, value)


@functools.cache
def _with_signature_of(processor: type) -> type[InterceptedProcessor]:
    @functools.wraps(processor.__call__)
    def __call__(self: InterceptedProcessor, *args: Any, **kwargs: Any) -> Any:
        interceptors = getattr(_thread, "interceptors", None)
        if interceptors is None or self.name not in interceptors:
            return self.processor(*args, **kwargs)
        return interceptors[self.name](self.processor, *args, **kwargs)

    def __class__(self: InterceptedProcessor) -> type:
        # torch.compile would else trace the call of the processor's class instead of this one's
        return type(self) if is_tracing() else processor

    content = {"__call__": __call__, "__class__": property(__class__)}
    return type("InterceptedProcessor", (InterceptedProcessor,), content)


class Nested:
    """Two interceptors of one module, one inside the other."""

    def __init__(self, outer: Interceptor, inner: Interceptor) -> None:
        self.outer = outer
        self.inner = inner

    def __call__(self, processor: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the outer interceptor; what it takes for the processor is the inner one."""
        return self.outer(_Inner(self.inner, processor), *args, **kwargs)


class _Inner:
    def __init__(self, interceptor: Interceptor, processor: Any) -> None:
        self.interceptor = interceptor
        self.processor = processor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.interceptor(self.processor, *args, **kwargs)


@contextmanager
def intercepted(modules: Mapping[str, nn.Module], interceptors: Mapping[str, Interceptor]) -> Iterator[None]:
    """Intercept the processors of these attention modules in the calling thread while the block runs.

    Args:
        modules: by name; those without an interceptor are left alone.
        interceptors: by the same names.
    """
    if not interceptors:
        yield
        return
    before = getattr(_thread, "interceptors", None)
    held: list[nn.Module] = []
    try:
        with _lock:
            for name in interceptors:
                held.append(modules[name])
                _install(modules[name], name)
        _thread.interceptors = dict(interceptors)
        yield
    finally:
        _thread.interceptors = before
        with _lock:
            for module in held:
                _release(module)


def _install(module: nn.Module, name: str) -> None:
    present = _installed.get(module)
    own, in_dict = processor_slot(module)
    if present is not None and own is present.processor:
        present.users += 1
        return
    entry = _Entry(InterceptedProcessor(own, name), restore=in_dict)
    if present is not None:
        # somebody has set another processor while a forward ran in another thread: that one is wrapped now
        entry.users += present.users
    _installed[module] = entry
    vars(module)["processor"] = entry.processor


def _release(module: nn.Module) -> None:
    entry = _installed.get(module)
    if entry is None:
        return
    entry.users -= 1
    if entry.users:
        return
    del _installed[module]
    # a processor that was set in the meantime stays
    if vars(module).get("processor") is entry.processor:
        if entry.restore:
            vars(module)["processor"] = entry.processor.processor
        else:
            del vars(module)["processor"]
