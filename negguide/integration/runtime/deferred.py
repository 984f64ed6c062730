"""Inputs that another model makes of the denoiser's, and that are made when it is known which rows a forward has.

A ControlNet that reads the text token by token gives something for each of these tokens (Z-Image). What it gives for
the prompt is nothing to a negative, so that it is not called where the pipeline does, but once for each forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diffusers.utils.torch_utils import unwrap_module

from negguide.integration.hooks.views import Proxy


@dataclass(frozen=True)
class Deferred:
    """What `model` gives for its inputs, which is not computed yet.

    Attributes:
        model: to be called.
        inputs: of it by name; those that the denoiser has too are taken from there.
        change: what becomes of its output.
    """

    model: Callable[..., Any]
    inputs: Mapping[str, Any]
    change: Callable[[Any], Any] = field(default=lambda output: output)

    def joined(self, rows: Callable[[Any], Any]) -> Deferred:
        """The same of other rows: `rows(value)` takes them of one input."""
        return replace(self, inputs={name: rows(value) for name, value in self.inputs.items()})

    def evaluated(self, inputs: Mapping[str, Any]) -> Any:
        """What the model gives in a forward with these inputs of the denoiser."""
        return self.change(
            self.model(**{name: inputs.get(name, value) for name, value in self.inputs.items()})
        )


class DeferredProxy(Proxy):
    """A model that a pipeline calls for the denoiser, and that is called with it instead."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the inputs until the denoiser says for which rows they are; before and after a run, call the model."""
        if self._run.finished:
            return self._target(*args, **kwargs)
        names = inspect.signature(type(unwrap_module(self._target)).forward).parameters
        # without `self`
        return Deferred(self._target, {**dict(zip([*names][1:], args, strict=False)), **kwargs})


def evaluated(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A denoiser's inputs with what was deferred."""
    found = {name: value for name, value in inputs.items() if isinstance(value, Deferred)}
    if not found:
        return inputs
    return {**inputs, **{name: value.evaluated(inputs) for name, value in found.items()}}
