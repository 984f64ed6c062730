"""Calls of a pipeline's `encode_prompt` that are not made again while its text encoders stay as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.utils import is_peft_available
from torch import Tensor, nn

from negguide.integration.families import Family

_CALLS = 32
"""How many calls are remembered; with several prompts a call is one for all of them."""


class TextMemory:
    """The last calls of `encode_prompt`, forgotten when a text encoder changes."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Any, Any] = OrderedDict()
        self._encoders: Any = None

    def remembering(self, pipe: Any, family: Family) -> Callable[..., Any]:
        """The pipeline's `encode_prompt`, which does not encode again what it encoded lately."""
        encode = pipe.encode_prompt
        encoders = _state(pipe, family)
        if encoders != self._encoders:
            self._calls.clear()
            self._encoders = encoders

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            key = _key([args, sorted(kwargs.items())])
            if key is None:
                return encode(*args, **kwargs)
            if key not in self._calls:
                with torch.no_grad():
                    self._calls[key] = encode(*args, **kwargs)
            self._calls.move_to_end(key)
            if len(self._calls) > _CALLS:
                self._calls.popitem(last=False)
            return self._calls[key]

        return encode_prompt


def _state(pipe: Any, family: Family) -> tuple[Any, ...]:
    """What differs when a text could be encoded otherwise: other encoders, weights, or adapters."""
    others = {"vae", *family.denoisers}
    encoders = [
        one for name, one in pipe.components.items() if isinstance(one, nn.Module) and name not in others
    ]
    weights = [weight for encoder in encoders for weight in encoder.parameters()]
    return (
        [id(one) for one in (*encoders, *weights)],
        [weight._version for weight in weights],
        _samples(weights),
        [state for encoder in encoders for state in _adapters(encoder)],
    )


def _samples(weights: list[nn.Parameter]) -> list[float]:
    """One number of each matrix: to fuse a LoRA changes the data behind the back of the tensor's own count."""
    found = [
        weight.detach().reshape(-1)[weight.numel() // 2].float()
        for weight in weights
        # an encoder that is offloaded module by module has none of its weights here
        if weight.ndim > 1 and weight.is_floating_point() and not weight.is_meta
    ]
    by_device: dict[torch.device, list[Tensor]] = {}
    for value in found:
        by_device.setdefault(value.device, []).append(value)
    return [value for values in by_device.values() for value in torch.stack(values).tolist()]


def _adapters(encoder: nn.Module) -> Iterator[tuple[Any, ...]]:
    if not is_peft_available():
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in encoder.modules():
        if isinstance(module, BaseTunerLayer):
            scaling = dict(getattr(module, "scaling", {}))
            yield (
                module.disable_adapters,
                tuple(module.active_adapters),
                tuple(module.merged_adapters),
                scaling,
            )


def _key(value: Any) -> Any:
    """What tells calls of a text encoder apart; None where embeddings are among the arguments."""
    if isinstance(value, list | tuple):
        inner = [_key(one) for one in value]
        known = all(one is not None for one in inner)
        return (type(value).__name__, *inner) if known else None
    if isinstance(value, Tensor | dict):
        return None
    return type(value).__name__, value
