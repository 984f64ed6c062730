"""Attention of a model whose texts stand before the image: they see what is before them, of their own text alone.

The negatives' texts stand behind the prompt's, before the image. The model attends to the texts in calls of their own,
which are kept apart here, and in one more call the image to all; that one is the method's. In steps whose texts the
model has kept from a step before, there is only the latter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import TextsBefore
from negguide.integration.runtime.attention_patch import AppendedTexts, AttentionPatch, _as_tokens, _Texts


class CausalTextPatch(AttentionPatch):
    """`AttentionPatch` of such a module."""

    @property
    def before(self) -> TextsBefore:
        """The texts of this run, which come before the image."""
        assert self.run.before is not None
        return self.run.before

    def __call__(self, processor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Attend with the positions of all texts."""
        # those of the image alone where the texts are kept
        kwargs["rotary_emb"] = self.before.positions[-len(kwargs["rotary_emb"]) :]
        return super().__call__(processor, *args, **kwargs)

    def holds_text(self, key: Tensor) -> bool:
        """Whether these keys are of the texts and the image, not of the texts alone."""
        return key.shape[2] == len(self.before.positions)

    def beside(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Attention in which each text looks at itself alone, and the image at the prompt and itself."""
        # the queries are the last of the tokens that are looked at
        lengths = torch.tensor(self.before.lengths)
        text = torch.arange(len(lengths)).repeat_interleave(lengths).to(key.device)[: key.shape[2]]
        same = (text[-query.shape[2] :, None] == text)[None, None]
        return super().beside(query, key, value, same if mask is None else same & mask, options)


class CausalTexts(AppendedTexts):
    """The negatives' text behind the prompt's as keys and values, beside the image's own."""

    def __init__(self, *args: Any) -> None:
        _Texts.__init__(self, *args)
        before: TextsBefore = args[0].before
        edges = [*itertools.accumulate(before.lengths, initial=0)]
        image = slice(edges[-1], self.k.shape[2])
        self.contexts = [[slice(a, b), image] for a, b in itertools.pairwise(edges)]
        # a negative's own words, without the images that it was encoded beside
        self.spans = [
            slice(a + words, b) for (a, b), words in zip(itertools.pairwise(edges), before.words, strict=True)
        ]
        self.seen = self.contexts[0]
        self.image_first = None
        self.image = slice(0, self.q.shape[2])
        self.plain = self._attended([self.image], self.seen)
        self.wanted = self.plain[self.rows]

    def negatives(self) -> list[Tensor]:
        """The image's tokens as each negative alone would have them."""
        return [_as_tokens(self._attended([self.image], context, self.rows)) for context in self.contexts[1:]]
