"""One attention module with negatives: its call of `scaled_dot_product_attention`, taken apart by text.

`AttentionPatch` intercepts that call; `AppendedTexts` and `RowTexts` are the two ways in which a call can hold the
negatives, and show a method the same things (`negguide.methods.NegativeAttention`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from negguide.guidance.attention import additive_mask
from negguide.guidance.grid import resize_mask, token_grid
from negguide.integration.families.base import TextPlace

if TYPE_CHECKING:
    from negguide.integration.runtime.attention import AttentionRuntime
    from negguide.integration.runtime.slots import Slot


class AttentionPatch:
    """Intercepts the attention of one module while its processor runs.

    Args:
        run: shared by all modules.
        name: of the module, for messages.
        place: where it meets the text.
    """

    def __init__(self, run: AttentionRuntime, name: str, place: TextPlace) -> None:
        self.run = run
        self.name = name
        self.image_first = None if place == "cross" else place == "image first"
        self.called = False
        self.intercepted = False
        self.change: Tensor | None = None
        self.moved: Tensor | None = None

    def __call__(self, processor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the processor gives, with the negatives taken apart from the prompt."""
        positions = self.run.family.text_positions
        if positions is not None:
            # each negative has the positions that it would have alone
            image, text = kwargs[positions]
            lengths = (self.run.prompt_tokens, *self.run.negative_tokens)
            kwargs[positions] = (image, torch.cat([text[:length] for length in lengths]))
        self.called, self.intercepted = True, False
        with _SDPAInterceptor(self):
            return processor(*args, **kwargs)

    def holds_text(self, key: Tensor) -> bool:
        """Whether an attention with these keys is the one that meets the texts."""
        run = self.run
        if run.family.negative_rows:
            assert run.state is not None
            return key.shape[2] > run.state.image_tokens[1]
        text = run.prompt_tokens + sum(run.negative_tokens)
        return key.shape[2] == text if self.image_first is None else key.shape[2] > text

    def beside(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """An attention of the module that is not the one that meets the texts."""
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        """Attention with the negatives; query [B, H, N, D], key and value [B, H, M, D], mask [B|1, H|1, N|1, M]."""
        texts = self.run.texts(self, query, key, value, mask, options)
        view: Any = texts
        guided = _as_heads(self.run.method.attend(view), texts.wanted)
        self._measure(guided, texts.wanted)
        output: Tensor = texts.output(guided)
        return output

    def _measure(self, guided: Tensor, wanted: Tensor) -> None:
        if self.run.measure:
            # over heads and features: one number a token
            change = torch.linalg.vector_norm((guided - wanted).float(), dim=(1, 3))
            length = torch.linalg.vector_norm(wanted.float(), dim=(1, 3))
            self.moved = change / length.clamp_min(1e-12)
            whole = torch.linalg.vector_norm(length, dim=1).clamp_min(1e-12)
            self.change = torch.linalg.vector_norm(change, dim=1) / whole


class _Texts:
    """What both ways share: strengths, masks, and the prompt's part of the call.

    Attributes:
        wanted: [rows, H, N, D] the guided image tokens' output for the prompt.
        image: where the guided image's tokens lie among the queries.
        seen: which keys they see with the prompt.
    """

    wanted: Tensor
    image: slice
    seen: list[slice]

    def __init__(
        self,
        patch: AttentionPatch,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: Mapping[str, Any],
    ) -> None:
        self.run = patch.run
        self.rows = slice(*self.run.rows)
        self.q, self.k, self.v, self.mask, self.options = query, key, value, mask, options

    @property
    def positive(self) -> Tensor:
        return _as_tokens(self.wanted)

    @property
    def strengths(self) -> Sequence[float | Tensor]:
        return [self._strength(slot) for slot in self.run.slots]

    @property
    def query(self) -> Tensor:
        return _take(self.q[self.rows], [self.image]) * _scale_of(self.options, self.q)

    @property
    def key_pos(self) -> Tensor:
        return _take(self.k[self.rows], self.seen)

    @property
    def value_pos(self) -> Tensor:
        return _take(self.v[self.rows], self.seen)

    @property
    def mask_pos(self) -> Tensor | None:
        return None if self.mask is None else _part_of_mask(self.mask, [self.image], self.seen, self.rows)

    def _keys(self, spans: Sequence[slice], rows: Sequence[slice]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The negatives' keys, weighted values and mask; slot i has the keys `spans[i]` of the rows `rows[i]`."""
        keys, values = [], []
        for slot, span, own in zip(self.run.slots, spans, rows, strict=True):
            key = self.k[own, :, span]
            keys.append(key if self.run.places is None else self.run.places.moved(key, own, self.rows))
            values.append(self._weight(slot) * self.v[own, :, span])
        return torch.cat(keys, dim=2), torch.cat(values, dim=2), self._closed(spans, rows)

    def _weight(self, slot: Slot) -> float | Tensor:
        """The negatives' weight: a number, or [rows, 1, 1, 1] of prompts' own; where none acts, any."""
        negatives = self.run.method.negatives
        first = negatives[slot[0]].fixed_weight
        if all(negatives[k].fixed_weight == first for k in slot):
            return first
        weight = self.wanted.new_full((len(self.wanted), 1, 1, 1), first)
        for k in slot:
            weight[self._rows_of(k)] = negatives[k].fixed_weight
        return weight

    def _closed(self, spans: Sequence[slice], rows: Sequence[slice]) -> Tensor | None:
        """The mask of the negatives' keys: the model's own, and closed where no negative of a slot acts."""
        acting = [self._acting(slot) for slot in self.run.slots]
        if self.mask is None and all(acts is None for acts in acting):
            return None
        parts = []
        for acts, span, of_rows in zip(acting, spans, rows, strict=True):
            part = self.q.new_zeros(1, 1, 1, span.stop - span.start)
            if self.mask is not None:
                own = _part_of_mask(self.mask, [self.image], [span], of_rows)
                part = part + additive_mask(own, self.q.dtype)
            if acts is not None:
                part = part.masked_fill(~acts[:, None, :, None], -torch.inf)
            parts.append(part)
        shape = torch.broadcast_shapes(*(part.shape[:3] for part in parts))
        return torch.cat([part.expand(*shape, part.shape[3]) for part in parts], dim=3)

    def _acting(self, slot: Slot) -> Tensor | None:
        """[rows or 1, N or 1] bool: where a negative of the slot acts; None = everywhere."""
        run, count = self.run, len(self.wanted)
        masked = any(run.method.negatives[k].mask is not None for k in slot)
        if not masked and sum(len(range(count)[self._rows_of(k)]) for k in slot) == count:
            return None
        acts = torch.zeros(count, 1, dtype=torch.bool, device=self.wanted.device)
        for k in slot:
            own = self._belongs(k)
            if run.method.negatives[k].mask is not None:
                own = own & (self._token_mask(k) >= 0.5).to(own.device)[None]
            acts = acts | own
        return acts

    def _strength(self, slot: Slot) -> float | Tensor:
        """Weight of a slot's negatives: a number, [1, N, 1] with a mask, [rows, 1 or N, 1] of prompts' own."""
        strength: float | Tensor = 0.0
        for k in slot:
            own: float | Tensor = self.run.method.negatives[k].fixed_weight
            if self.run.method.negatives[k].mask is not None:
                own = own * self._token_mask(k).to(self.wanted)[None, :, None]
            if self.run.own_rows(k) is not None:
                own = own * self._belongs(k)[:, :, None].to(self.wanted)
            strength = strength + own
        return strength

    def _token_mask(self, k: int) -> Tensor:
        """[N] of negative k's mask over the generated image's tokens."""
        run, tokens = self.run, self.image.stop - self.image.start
        assert run.masks is not None and run.state is not None
        grid = token_grid(tokens // run.state.frames, run.state.latent_size)
        return resize_mask(run.masks[k : k + 1], grid).flatten().repeat(run.state.frames)

    def _rows_of(self, k: int) -> slice:
        return self.run.own_rows(k) or slice(None)

    def _belongs(self, k: int) -> Tensor:
        """[rows, 1] bool: the guided rows that negative k belongs to."""
        own = torch.zeros(len(self.wanted), 1, dtype=torch.bool, device=self.wanted.device)
        own[self._rows_of(k)] = True
        return own


class AppendedTexts(_Texts):
    """The negatives' text behind the prompt's: each text sees, and is seen by, the image alone."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        patch: AttentionPatch = args[0]
        run, key = self.run, self.k
        self.image_first = patch.image_first
        self.lengths = (run.prompt_tokens, *run.negative_tokens)
        image_keys = key.shape[2] - sum(self.lengths)
        edges = [*itertools.accumulate(self.lengths, initial=image_keys if self.image_first else 0)]
        self.spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
        if self.image_first is None:
            image = slice(0, self.q.shape[2])
            self.contexts = [[span] for span in self.spans]
        else:
            image = slice(0, image_keys) if self.image_first else slice(sum(self.lengths), key.shape[2])
            self.contexts = [[image, span] if self.image_first else [span, image] for span in self.spans]
        self.seen = self.contexts[0]
        # what the model does by itself: the image's and the prompt's tokens, without the negatives
        if self.image_first is None:
            self.plain = self._attended([image], self.seen)
            self.streams: dict[int, Tensor] = {}
        else:
            both = self._attended(self.seen, self.seen)
            self.plain, prompt = _split(both, self.lengths[0], self.image_first)
            self.streams = {0: prompt}
        # guided are the generated image's tokens; those of reference images behind them are left alone
        assert run.state is not None
        own = run.state.image_tokens[0]
        self.image = slice(image.start, image.start + own) if own else image
        self.wanted = self.plain[self.rows, :, : self.image.stop - self.image.start]

    def _attended(self, queries: list[slice], keys: list[slice], rows: slice = slice(None)) -> Tensor:
        mask = None if self.mask is None else _part_of_mask(self.mask, queries, keys, rows)
        q, k, v = _take(self.q[rows], queries), _take(self.k[rows], keys), _take(self.v[rows], keys)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.options)

    def negatives(self) -> list[Tensor]:
        """The image's tokens as each negative alone would have them."""
        found = []
        count = self.image.stop - self.image.start
        for i, context in enumerate(self.contexts[1:], 1):
            if self.image_first is None:
                found.append(_as_tokens(self._attended([self.image], context, self.rows)))
            else:
                # the negative's stream needs every row; the image's is guided in some
                both = self._attended(context, context)
                output, self.streams[i] = _split(both, self.lengths[i], self.image_first)
                found.append(_as_tokens(output[self.rows, :, :count]))
        return found

    def negative_keys(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and their mask of the negative texts behind the prompt."""
        return self._keys(self.spans[1:], [self.rows] * len(self.spans[1:]))

    def output(self, guided: Tensor) -> Tensor:
        """The whole call's output, with the guided tokens in it and every text's stream."""
        image = guided
        # without guidance and without references that is all of it
        if guided.shape != self.plain.shape:
            image = torch.cat([guided, self.plain[self.rows, :, guided.shape[2] :]], dim=2)
            image = torch.cat([self.plain[: self.rows.start], image, self.plain[self.rows.stop :]])
        if self.image_first is None:
            return image
        streams = [
            self.streams[i] if i in self.streams else self._attended([span], context)
            for i, (span, context) in enumerate(zip(self.spans, self.contexts, strict=True))
        ]
        return torch.cat([image, *streams] if self.image_first else [*streams, image], dim=2)


class RowTexts(_Texts):
    """Each negative is rows of its own, beside a copy of the image that must stay a copy."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        run = self.run
        assert run.state is not None
        patch: AttentionPatch = args[0]
        # the generated image's tokens are guided; what fills them up behind is copied
        tokens, filled = run.state.image_tokens
        first, count = 0 if patch.image_first else self.k.shape[2] - filled, self.k.shape[2]
        self.image, self.copied = slice(first, first + tokens), slice(first, first + filled)
        self.text = slice(filled, count) if patch.image_first else slice(0, first)
        batch = self.rows.stop - self.rows.start
        self.negative_rows = [
            slice(run.total + i * batch, run.total + (i + 1) * batch) for i in range(len(run.slots))
        ]
        self.seen = [slice(0, self.k.shape[2])]
        self.plain = scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=self.mask, **self.options)
        self.wanted = self.plain[self.rows, :, self.image]

    def negatives(self) -> list[Tensor]:
        """The image's tokens in the row of each negative."""
        return [_as_tokens(self.plain[rows, :, self.image]) for rows in self.negative_rows]

    def negative_keys(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and their mask of the text in the row of each negative."""
        return self._keys([self.text] * len(self.negative_rows), self.negative_rows)

    def output(self, guided: Tensor) -> Tensor:
        """The whole call's output, with the guided tokens in the prompt's rows and in every copy."""
        guided = torch.cat([guided, self.plain[self.rows, :, self.image.stop : self.copied.stop]], dim=2)
        result = self.plain.clone()
        for target in (self.rows, *self.negative_rows):
            result[target, :, self.copied] = guided
        return result


class _SDPAInterceptor(TorchFunctionMode):
    """Answers the first attention whose keys hold the texts; others (of image prompts) are computed as they are."""

    def __init__(self, patch: AttentionPatch) -> None:
        super().__init__()
        self.patch = patch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.unflatten:
            # the same function; the method is the one that torch.compile cannot trace from here
            return torch.unflatten(*args, **kwargs)
        if func is not scaled_dot_product_attention or self.patch.intercepted:
            return func(*args, **kwargs)
        return self._attention(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *args: Any,
        **options: Any,
    ) -> Tensor:
        patch = self.patch
        options |= dict(zip(("dropout_p", "is_causal"), args, strict=False))
        if not patch.holds_text(key):
            return patch.beside(query, key, value, attn_mask, options)
        patch.intercepted = True
        return patch.attention(query, key, value, attn_mask, options)


def _take(tensor: Tensor, spans: list[slice]) -> Tensor:
    """These tokens of [B, H, N, D], in this order; neighbours are not copied."""
    if all(one.stop == other.start for one, other in itertools.pairwise(spans)):
        return tensor[:, :, spans[0].start : spans[-1].stop]
    return torch.cat([tensor[:, :, span] for span in spans], dim=2)


def _part_of_mask(mask: Tensor, queries: list[slice], keys: list[slice], rows: slice) -> Tensor:
    mask = mask[rows] if mask.shape[0] > 1 else mask
    mask = torch.cat([mask[..., span] for span in keys], dim=-1)
    return mask if mask.shape[-2] == 1 else torch.cat([mask[..., span, :] for span in queries], dim=-2)


def _split(output: Tensor, tokens: int, image_first: bool | None) -> tuple[Tensor, Tensor]:
    """(image, text) of a joint output whose text has so many tokens."""
    if image_first:
        return output[:, :, :-tokens], output[:, :, -tokens:]
    return output[:, :, tokens:], output[:, :, :tokens]


def _as_tokens(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _as_heads(tokens: Tensor, like: Tensor) -> Tensor:
    heads: Tensor = torch.unflatten(tokens, 2, (like.shape[1], like.shape[3])).transpose(1, 2)
    return heads


def _scale_of(options: Mapping[str, Any], query: Tensor) -> float:
    """What the queries are multiplied by, so that torch's own scale of the logits becomes the one asked for."""
    scale = options.get("scale")
    return 1.0 if scale is None else float(scale) * query.shape[3] ** 0.5
