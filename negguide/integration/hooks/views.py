"""A pipeline and its parts as one guided call sees them; everybody else sees them as they are.

During a guided call the pipeline's own code runs on a *view* of the pipeline: an object of a derived class that shares
all attributes with it, except that the denoisers, and where predictions are widened the scheduler, are proxies. A proxy
answers as the object itself in everything but its call. Nothing is attached to a model, so that other calls on the same
models, in other threads or in a callback, know nothing of this one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from negguide.integration.hooks.compat import DENOISER_CONTEXT


class Proxy:
    """Stands for an object, also before `isinstance`; a subclass says what is different."""

    __slots__ = ("_run", "_target")
    _target: Any
    _run: Any

    def __init__(self, target: Any, run: Any) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_run", run)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(object.__getattribute__(self, "_target"))

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_target"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_target"), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(object.__getattribute__(self, "_target"), name)

    def __repr__(self) -> str:
        return repr(self._target)

    def __copy__(self) -> Any:
        return copy.copy(self._target)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._target, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._target.__reduce_ex__(protocol)


class DenoiserProxy(Proxy):
    """A denoiser whose calls go through a guided run while that lasts."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the denoiser with the branches of the methods; their combined predictions come back."""
        if self._run.finished:
            return self._target(*args, **kwargs)
        return self._run.denoise(self._target, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == DENOISER_CONTEXT:
            # what the pipeline says of this call, for those that the run adds
            return self._run.noting_context(getattr(self._target, name))
        return super().__getattr__(name)


class SchedulerProxy(Proxy):
    """A scheduler that is given predictions in the dtype in which the plain pipeline would give them."""

    __slots__ = ()

    @property
    def step(self) -> Callable[..., Any]:
        """The scheduler's own `step`, given the prediction of the pipeline's own rows."""
        step, run = self._target.step, self._run

        @functools.wraps(step)
        def narrowed(model_output: Any, *args: Any, **kwargs: Any) -> Any:
            return step(run.narrowed(model_output), *args, **kwargs)

        return narrowed


def view_of(
    pipe: Any, run: Any, denoisers: tuple[str, ...], others: tuple[tuple[str, type[Proxy]], ...] = ()
) -> Any:
    """The pipeline as the guided call `run` sees it.

    Args:
        pipe: shares all its attributes with the view.
        run: the guided call: `denoise`, `noting_context`, `narrowed`, `widens`, `finished` and `pipe`.
        denoisers: the attributes that hold denoisers.
        others: further attributes, and as which proxies they are seen.
    """
    kind: Any = type(pipe)
    view: Any = object.__new__(_view_class(kind, denoisers, others))
    object.__setattr__(view, "__dict__", vars(pipe))
    object.__setattr__(view, "_guided_run", run)
    return view


def original(pipe: Any) -> Any:
    """The pipeline that a view is of; any other is returned itself."""
    run = getattr(pipe, "_guided_run", None)
    return pipe if run is None else run.pipe


@functools.cache
def _view_class(
    pipeline: type, denoisers: tuple[str, ...], others: tuple[tuple[str, type[Proxy]], ...]
) -> type:
    def maybe_free_model_hooks(self: Any) -> None:
        # offloading puts its hooks on the models anew, and must get the models themselves
        self._guided_run.pipe.maybe_free_model_hooks()

    content: dict[str, Any] = {
        "__slots__": ("_guided_run",),
        "__module__": pipeline.__module__,
        "__qualname__": pipeline.__qualname__,
        "maybe_free_model_hooks": maybe_free_model_hooks,
        **{name: _proxied(name, DenoiserProxy, lambda run: True) for name in denoisers},
        **{name: _proxied(name, proxy, lambda run: True) for name, proxy in others},
        "scheduler": _proxied("scheduler", SchedulerProxy, lambda run: run.widens),
    }
    return type(pipeline.__name__, (pipeline,), content)


def _proxied(name: str, kind: type[Proxy], wanted: Callable[[Any], bool]) -> property:
    def get(self: Any) -> Any:
        # a pipeline without this part has it as None, or not at all
        if name not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        part, run = vars(self)[name], self._guided_run
        return part if part is None or run.finished or not wanted(run) else kind(part, run)

    def put(self: Any, value: Any) -> None:
        vars(self)[name] = value._target if type(value) is kind else value

    return property(get, put)
