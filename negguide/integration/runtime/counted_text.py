"""Attention whose processor counts the text's tokens: the last so many of its input, behind an image prompt's.

With the negatives behind the prompt it would take the prompt for the image prompt. So it is called as without them, and
what each negative's keys and values are is found by a call of its own, for one query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from negguide.integration.runtime.attention_patch import AttentionPatch


class CountedTextPatch(AttentionPatch):
    """`AttentionPatch` of such a module, in which the text is keys and values only."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # of the negatives in the present call
        self.further: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, processor: Callable[..., Any], module: Any, hidden_states: Tensor, text: Tensor, *args: Any
    ) -> Any:
        """Take the negatives off the end of the text, and keep their keys and values for `attention`."""
        lengths = (self.run.prompt_tokens, *self.run.negative_tokens)
        image, prompt, *negatives = text.split([text.shape[1] - sum(lengths), *lengths], dim=1)
        self.further = []
        for negative in negatives:
            seen = _SeenKeys(negative.shape[1])
            with seen:
                processor(module, hidden_states[:, :1], torch.cat([image, negative], dim=1), *args)
            if seen.keys is None:
                raise ValueError(
                    f"{type(self.run.method).__name__}: a negative of {negative.shape[1]} tokens in {self.name}, which "
                    "takes another number of tokens for the text; give max_sequence_length=512, and embeds of 512 "
                    "tokens"
                )
            self.further.append(seen.keys)
        try:
            return super().__call__(
                processor, module, hidden_states, torch.cat([image, prompt], dim=1), *args
            )
        finally:
            self.further = []

    def holds_text(self, key: Tensor) -> bool:
        """Whether these keys are of the prompt."""
        return key.shape[2] == self.run.prompt_tokens

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Attention over the prompt with the negatives behind it."""
        keys, values = zip((key, value), *self.further, strict=True)
        return super().attention(query, torch.cat(keys, dim=2), torch.cat(values, dim=2), mask, options)


class _SeenKeys(TorchFunctionMode):
    """Keeps keys and values of the attention that has so many of them."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.keys: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.unflatten:
            # the same function; the method is the one that torch.compile cannot trace from here
            return torch.unflatten(*args, **kwargs)
        if func is scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            if given["key"].shape[2] == self.tokens:
                self.keys = (given["key"], given["value"])
        return func(*args, **kwargs)
