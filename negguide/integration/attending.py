"""Negatives inside attention: prompt and negatives attended side by side, and what becomes of the two.

The denoiser gets the negatives' text appended to the prompt's, [prompt | negative 1 | .. | negative K] along the token
axis; everything in a model between two attentions works token by token, so they do not meet. In attention they would:
there the call of `scaled_dot_product_attention` is taken over. Each text sees, and is seen by, the image alone, as if
it were the only one, and the outputs of the generated image's tokens are combined by NAG, ONG or VSF; tokens of
reference images and of padding stay as they are. In joint attention every text so keeps a stream of its own through
the blocks, while the image's stream, the large part, is computed once.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from negguide.guidance import active, nag, ong, vsf
from negguide.guidance.attention import additive_mask
from negguide.integration.batching import Branch, fold, repeated
from negguide.integration.family import Family, TextPlace, text_input, with_text
from negguide.integration.images import resize_mask, token_grid
from negguide.integration.maps import token_map
from negguide.methods import NAG, ONG, VSF, AttentionMethod


class AttentionRun:
    """What all attending modules of one denoiser share during a run.

    Args:
        method: what the user asked for.
        family: of the denoiser.
        text: for each negative {text input: [1, tokens, ..], or [tokens, ..] of positions}; other inputs are ignored.
        masks: [K, 1, h, w] float, or None when no negative has one.
        measure: also keep how much each module's image tokens are changed.
    """

    def __init__(
        self,
        method: AttentionMethod,
        family: Family,
        text: Sequence[Mapping[str, Tensor]],
        masks: Tensor | None = None,
        measure: bool = False,
    ) -> None:
        self.method = method
        self.family = family
        self.text = text
        self.masks = masks
        self.measure = measure
        self.modules: list[Attending] = []
        self.latent_size = (0, 0)
        # tokens of the generated image, and those with what follows it; (0, 0) where attention tells. Frames of a video
        self.image_tokens = (0, 0)
        self.frames = 1
        # of the present step: which negatives act
        self.acting: tuple[int, ...] = ()
        # of the present forward: whether it carries the negatives' text, the prompt's tokens, the guided rows, and
        # where negatives that are rows of their own begin
        self.on = False
        self.prompt_tokens = 0
        self.rows = (0, 0)
        self.total = 0

    def begin_step(self, step: int, num_steps: int, latent_size: tuple[int, int]) -> None:
        """Choose the negatives of step `step` of `num_steps`."""
        negatives = self.method.negatives
        self.acting = tuple(
            k for k, n in enumerate(negatives) if n.weight > 0 and active(*n.window, step, num_steps)
        )
        self.latent_size = latent_size
        self.on = False

    @property
    def negative_tokens(self) -> tuple[int, ...]:
        """How many tokens each acting negative has."""
        path = next(iter(self.family.text))
        return tuple(self.text[k][path].shape[1] for k in self.acting)

    def begin_forward(self, inputs: Mapping[str, Any], rows: tuple[int, int] | None) -> dict[str, Any]:
        """The inputs of a forward with the acting negatives' text.

        Args:
            inputs: of the denoiser, by name.
            rows: (first, behind the last) of the batch rows to guide; None = this forward holds none.
        """
        self.on = bool(self.acting) and rows is not None
        if not self.on or rows is None:
            return dict(inputs)
        self.rows, self.total = rows, len(inputs[self.family.sample])
        if self.family.negative_rows:
            batch = rows[1] - rows[0]
            negatives = [Branch("negative", slice(*rows), repeated(self.text[k], batch)) for k in self.acting]
            return fold(self.family, inputs, self.total, [Branch("all", slice(0, self.total)), *negatives])
        self.prompt_tokens = text_input(inputs, next(iter(self.family.text))).shape[1]
        extended = {
            path: self._extended(inputs, path) for path, kind in self.family.text.items() if kind != "pooled"
        }
        return with_text(inputs, {path: value for path, value in extended.items() if value is not None})

    def _extended(self, inputs: Mapping[str, Any], path: str) -> Tensor | None:
        """A text input with the negatives' behind the prompt's."""
        present = text_input(inputs, path)
        negatives = [self.text[k][path] for k in self.acting]
        given = [part for part in (present, *negatives) if part is not None]
        if not given:
            return None
        if self.family.text[path] == "positions":
            return torch.cat([present, *(negative.to(present) for negative in negatives)])
        rows = next(len(text_input(inputs, name)) for name in self.family.text)
        parts = []
        for part, tokens in zip(
            (present, *negatives), (self.prompt_tokens, *self.negative_tokens), strict=True
        ):
            # a mask that is left out lets everything through
            part = given[0].new_ones(1, tokens) if part is None else part.to(given[0])
            parts.append(part.expand(rows, *part.shape[1:]))
        return torch.cat(parts, dim=1)

    def end_forward(self, output: Any) -> Any:
        """The denoiser's output without the rows of the negatives."""
        if not (self.on and self.family.negative_rows):
            return output
        return (output[0][: self.total], *output[1:])

    def check_reached(self) -> None:
        """Refuse a run whose attention could not be taken over.

        Raises:
            ValueError: after a forward with negatives in which a module computed attention by other means.
        """
        deaf = [module.name for module in self.modules if module.called and not module.reached]
        if deaf:
            raise ValueError(
                f"{type(self.method).__name__} takes over torch's scaled_dot_product_attention, but {deaf[0]} (one of "
                f"{len(deaf)}) computes attention by other means; use diffusers' default attention processors and its "
                "attention backend 'native' (model.set_attention_backend('native'))"
            )

    def take_changes(self) -> Tensor:
        """[guided rows]: |change| / |output| of the image tokens in the last forward, mean over the modules."""
        changes = [module.change for module in self.modules if module.change is not None]
        for module in self.modules:
            module.change = None
        return torch.stack(changes).mean(dim=0)

    def take_maps(self) -> Tensor:
        """[guided rows, h, w]: |change| / |output| of each image token over the latents, mean over the modules."""
        maps = [
            token_map(m.moved, self.latent_size, self.frames) for m in self.modules if m.moved is not None
        ]
        for module in self.modules:
            module.moved = None
        return torch.stack(maps).mean(dim=0)


class Attending:
    """Takes over the attention of one module while its processor runs.

    Args:
        run: shared by all modules.
        name: of the module, for messages.
        place: where it meets the text.
    """

    def __init__(self, run: AttentionRun, name: str, place: TextPlace) -> None:
        self.run = run
        self.name = name
        self.image_first = None if place == "cross" else place == "image first"
        self.called = False
        self.reached = False
        self.change: Tensor | None = None
        self.moved: Tensor | None = None
        run.modules.append(self)

    def __call__(self, processor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the processor gives, with the negatives taken apart from the prompt."""
        if not self.run.on:
            return processor(*args, **kwargs)
        positions = self.run.family.text_positions
        if positions is not None:
            # each negative has the positions that it would have alone
            image, text = kwargs[positions]
            lengths = (self.run.prompt_tokens, *self.run.negative_tokens)
            kwargs[positions] = (image, torch.cat([text[:length] for length in lengths]))
        self.called, self.reached = True, False
        with _TakeOver(self):
            return processor(*args, **kwargs)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any
    ) -> Tensor:
        """Attention with the negatives; query [B, H, N, D], key and value [B, H, M, D], mask [B|1, H|1, N|1, M]."""
        if self.run.family.negative_rows:
            return self._attention_of_rows(query, key, value, mask, options)
        run, rows = self.run, slice(*self.run.rows)
        texts = (run.prompt_tokens, *run.negative_tokens)
        image_keys = key.shape[2] - sum(texts)
        edges = [*itertools.accumulate(texts, initial=image_keys if self.image_first else 0)]
        spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
        if self.image_first is None:
            image, contexts, own = slice(0, query.shape[2]), [[span] for span in spans], []
        else:
            image = slice(0, image_keys) if self.image_first else slice(sum(texts), key.shape[2])
            contexts = [[image, span] if self.image_first else [span, image] for span in spans]
            own = spans

        def attended(queries: list[slice], keys: list[slice], rows: slice = slice(None)) -> Tensor:
            part = None if mask is None else _part_of_mask(mask, queries, keys, rows)
            q, k, v = _take(query[rows], queries), _take(key[rows], keys), _take(value[rows], keys)
            return scaled_dot_product_attention(q, k, v, attn_mask=part, **options)

        # what the model does by itself: the image's and the prompt's tokens, without the negatives
        if not own:
            plain, texts_out = attended([image], contexts[0]), []
        else:
            plain, prompt = _split(attended(contexts[0], contexts[0]), texts[0], self.image_first)
            texts_out = [prompt]
        # guided are the generated image's tokens; those of reference images behind them are left alone
        image = slice(image.start, image.start + run.image_tokens[0]) if run.image_tokens[0] else image
        count = image.stop - image.start
        wanted = plain[rows, :, :count]
        if isinstance(run.method, NAG | ONG):
            others = []
            for context, tokens in zip(contexts[1:], texts[1:], strict=True):
                if own:
                    # the negative's stream needs every row; the image's is guided in some
                    output, stream = _split(attended(context, context), tokens, self.image_first)
                    others.append(output[rows, :, :count])
                    texts_out.append(stream)
                else:
                    others.append(attended([image], context, rows))
            guided = _as_heads(self._combine(_as_tokens(wanted), [_as_tokens(o) for o in others]), wanted)
        else:
            texts_out += [
                attended([span], context) for span, context in zip(own[1:], contexts[1:], strict=False)
            ]
            guided = self._flipped(query, key, value, mask, options, image, contexts[0], spans[1:])
        self._measure(guided, wanted)
        guided = torch.cat([guided, plain[rows, :, count:]], dim=2)
        image_out = torch.cat([plain[: rows.start], guided, plain[rows.stop :]])
        return torch.cat([image_out, *texts_out] if self.image_first else [*texts_out, image_out], dim=2)

    def _attention_of_rows(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any
    ) -> Tensor:
        """The same where each negative is rows of its own, beside a copy of the image that must stay a copy."""
        run, rows = self.run, slice(*self.run.rows)
        # the generated image's tokens are guided; what fills them up behind is copied
        image, filled, batch = slice(0, run.image_tokens[0]), run.image_tokens[1], rows.stop - rows.start
        negatives = [
            slice(run.total + i * batch, run.total + (i + 1) * batch) for i in range(len(run.acting))
        ]
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
        wanted = output[rows, :, image]
        if isinstance(run.method, NAG | ONG):
            others = [_as_tokens(output[negative, :, image]) for negative in negatives]
            guided = _as_heads(self._combine(_as_tokens(wanted), others), wanted)
        else:
            text = slice(filled, key.shape[2])
            whole = [slice(0, key.shape[2])]
            guided = vsf(
                query[rows, :, image] * _scale_of(options, query),
                key[rows],
                value[rows],
                torch.cat([key[negative, :, text] for negative in negatives], dim=2),
                torch.cat(
                    [
                        run.method.negatives[k].weight * value[negative, :, text]
                        for k, negative in zip(run.acting, negatives, strict=True)
                    ],
                    dim=2,
                ),
                run.method.scale,
                run.method.bias,
                mask_pos=None if mask is None else _part_of_mask(mask, [image], whole, rows),
                mask_neg=self._where_negative(mask, image, [text] * len(negatives), negatives, query),
            )
        self._measure(guided, wanted)
        guided = torch.cat([guided, output[rows, :, image.stop : filled]], dim=2)
        result = output.clone()
        for target in (rows, *negatives):
            result[target, :, :filled] = guided
        return result

    def _measure(self, guided: Tensor, wanted: Tensor) -> None:
        if self.run.measure:
            # over heads and features: one number a token
            change = torch.linalg.vector_norm((guided - wanted).float(), dim=(1, 3))
            length = torch.linalg.vector_norm(wanted.float(), dim=(1, 3))
            self.moved = change / length.clamp_min(1e-12)
            whole = torch.linalg.vector_norm(length, dim=1).clamp_min(1e-12)
            self.change = torch.linalg.vector_norm(change, dim=1) / whole

    def _flipped(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: Mapping[str, Any],
        image: slice,
        context: list[slice],
        negative: list[slice],
    ) -> Tensor:
        """VSF of the guided rows' image tokens."""
        run, method, rows = self.run, self.run.method, slice(*self.run.rows)
        assert isinstance(method, VSF)
        query, key, value = query[rows], key[rows], value[rows]
        weighted = [
            method.negatives[k].weight * value[:, :, span]
            for k, span in zip(run.acting, negative, strict=True)
        ]
        return vsf(
            _take(query, [image]) * _scale_of(options, query),
            _take(key, context),
            _take(value, context),
            _take(key, negative),
            torch.cat(weighted, dim=2),
            method.scale,
            method.bias,
            mask_pos=None if mask is None else _part_of_mask(mask, [image], context, rows),
            mask_neg=self._where_negative(mask, image, negative, [rows] * len(negative), query),
        )

    def _combine(self, wanted: Tensor, others: list[Tensor]) -> Tensor:
        """NAG or ONG of the image tokens' outputs, [rows, N, C] each."""
        run, method = self.run, self.run.method
        strengths = [self._strength(k, wanted) for k in run.acting]
        if isinstance(method, NAG):
            if len(others) == 1 and isinstance(strengths[0], float) and strengths[0] == 1:
                return nag(wanted, others[0], method.scale, method.tau, method.alpha)
            wide = torch.promote_types(wanted.dtype, torch.float32)
            away = [s * (wanted.to(wide) - o.to(wide)) for s, o in zip(strengths, others, strict=True)]
            negative = wanted.to(wide) - torch.stack(away).sum(dim=0)
            return nag(wanted, negative, method.scale, method.tau, method.alpha)
        assert isinstance(method, ONG)
        weighted = torch.stack([s * o for s, o in zip(strengths, others, strict=True)])
        return ong(wanted, weighted, method.scale)

    def _strength(self, k: int, tokens: Tensor) -> float | Tensor:
        """Weight of negative k: a number, or [1, N, 1] where it has a mask."""
        weight = self.run.method.negatives[k].weight
        if self.run.method.negatives[k].mask is None:
            return weight
        return weight * self._token_mask(k, tokens.shape[1]).to(tokens)[None, :, None]

    def _token_mask(self, k: int, tokens: int) -> Tensor:
        """[N] of negative k's mask over the generated image's tokens."""
        run = self.run
        assert run.masks is not None
        grid = token_grid(tokens // run.frames, run.latent_size)
        return resize_mask(run.masks[k : k + 1], grid).flatten().repeat(run.frames)

    def _where_negative(
        self, mask: Tensor | None, image: slice, spans: list[slice], rows: list[slice], query: Tensor
    ) -> Tensor | None:
        """VSF's mask of the negatives' keys: the model's own, and closed where a negative does not act."""
        run = self.run
        if mask is None and all(run.method.negatives[k].mask is None for k in run.acting):
            return None
        parts = []
        for k, span, of_rows in zip(run.acting, spans, rows, strict=True):
            part = query.new_zeros(1, 1, 1, span.stop - span.start)
            if mask is not None:
                part = part + additive_mask(_part_of_mask(mask, [image], [span], of_rows), query.dtype)
            if run.method.negatives[k].mask is not None:
                acts = self._token_mask(k, image.stop - image.start) >= 0.5
                part = part.masked_fill(~acts.to(part.device)[None, None, :, None], -torch.inf)
            parts.append(part)
        shape = torch.broadcast_shapes(*(part.shape[:3] for part in parts))
        return torch.cat([part.expand(*shape, part.shape[3]) for part in parts], dim=3)


def text_attention(model: nn.Module, family: Family) -> dict[str, TextPlace]:
    """The attention modules of a model that meet the text, by name, and where they do.

    Raises:
        ValueError: when there is none.
    """
    places: dict[str, TextPlace] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention | AttentionModuleMixin):
            for pattern, place in family.attention:
                if re.search(pattern, name):
                    places[name] = place
    if not places:
        raise ValueError(f"this {type(model).__name__} has no attention that meets the text of {family.name}")
    return places


class _TakeOver(TorchFunctionMode):
    """Answers the first attention whose keys hold the texts; others (of image prompts) are computed as they are."""

    def __init__(self, module: Attending) -> None:
        super().__init__()
        self.module = module

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.unflatten:
            # the same function; the method is the one that torch.compile cannot trace from here
            return torch.unflatten(*args, **kwargs)
        if func is not scaled_dot_product_attention or self.module.reached:
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
        module, run = self.module, self.module.run
        options |= dict(zip(("dropout_p", "is_causal"), args, strict=False))
        text = 0 if run.family.negative_rows else run.prompt_tokens + sum(run.negative_tokens)
        if run.family.negative_rows:
            holds_text = key.shape[2] > run.image_tokens[1]
        else:
            holds_text = key.shape[2] == text if module.image_first is None else key.shape[2] > text
        if not holds_text:
            return scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)
        module.reached = True
        return module.attention(query, key, value, attn_mask, options)


def _take(tensor: Tensor, spans: list[slice]) -> Tensor:
    """These tokens of [B, H, N, D], in this order."""
    if len(spans) == 1:
        return tensor[:, :, spans[0]]
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
    return tokens.unflatten(2, (like.shape[1], like.shape[3])).transpose(1, 2)


def _scale_of(options: Mapping[str, Any], query: Tensor) -> float:
    """What the queries are multiplied by, so that torch's own scale of the logits becomes the one asked for."""
    scale = options.get("scale")
    return 1.0 if scale is None else float(scale) * query.shape[3] ** 0.5
