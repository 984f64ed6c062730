"""Negatives as rows where each row's text has its own length and the image stands right behind it, all filled up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from negguide.integration.families.base import Family, nested_input, with_inputs
from negguide.integration.runtime.attention_patch import _as_tokens, _scale_of, _Texts


def image_places(lengths: list[int], tokens: int, device: torch.device) -> Tensor:
    """[rows, tokens] where in its row each of the image's tokens is, behind a text of the row's own length."""
    starts = torch.tensor(lengths, device=device)
    return starts[:, None] + torch.arange(tokens, device=device)


def filled_up(
    family: Family, inputs: Mapping[str, Any], texts: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """A call's inputs and further texts, all with as many tokens as the longest has: zeros behind, masked ones."""
    paths = [path for path, axis in family.text.items() if axis == "tokens"]
    own = {path: nested_input(inputs, path) for path in paths}
    longest = max(text[paths[0]].shape[1] for text in (own, *texts))

    def filled(text: Mapping[str, Any]) -> dict[str, Any]:
        # from the last axis: channels, tokens
        return {
            path: pad(value, (0, 0) * (value.ndim - 2) + (0, longest - value.shape[1]))
            for path, value in text.items()
        }

    return with_inputs(inputs, filled(own)), [filled(text) for text in texts]


class RaggedRowTexts(_Texts):
    """Each negative is rows of its own, [text | image | filling], beside a copy of the image that must stay a copy."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        run = self.run
        assert run.state is not None
        tokens = run.state.image_tokens[0]
        # as a method counts them; where they lie is another matter in each row
        self.image = slice(0, tokens)
        self.places = image_places(run.row_lengths, tokens, self.q.device)
        batch = self.rows.stop - self.rows.start
        self.negative_rows = [
            slice(run.total + i * batch, run.total + (i + 1) * batch) for i in range(len(run.slots))
        ]
        self.seen = [slice(0, self.k.shape[2])]
        self.plain = scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=self.mask, **self.options)
        self.wanted = self._image_of(self.plain, self.rows)

    def _image_of(self, heads: Tensor, rows: slice) -> Tensor:
        """The image's tokens of these rows of [B, H, N, D]."""
        return heads[rows].gather(2, self._index(heads, rows))

    def _index(self, heads: Tensor, rows: slice) -> Tensor:
        return self.places[rows, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3])

    @property
    def query(self) -> Tensor:
        """Queries of the image, scaled."""
        return self._image_of(self.q, self.rows) * _scale_of(self.options, self.q)

    def negatives(self) -> list[Tensor]:
        """The image's tokens in the row of each negative."""
        return [_as_tokens(self._image_of(self.plain, rows)) for rows in self.negative_rows]

    def negative_keys(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and their mask of the text in the row of each negative, without what fills it up."""
        # texts of one length share a slot
        texts = [slice(0, self.run.row_lengths[rows.start]) for rows in self.negative_rows]
        return self._keys(texts, self.negative_rows)

    def output(self, guided: Tensor) -> Tensor:
        """The whole call's output, with the guided tokens in the prompt's rows and in every copy."""
        result = self.plain.clone()
        for rows in (self.rows, *self.negative_rows):
            result[rows] = result[rows].scatter(2, self._index(result, rows), guided)
        return result
