"""NAG, ONG and VSF during a run: negatives beside the prompt in the attentions in which the image meets the text.

A denoiser gets the negatives' text behind the prompt's. Its attentions would let them meet; there the call is taken
over (`optimized_attention_override`), and each text sees, and is seen by, the image alone, as if it were the only one.
The image's tokens, the large part, are computed once. How a model holds its texts is told by its adapter in `models`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .guidance.attention import additive_mask
from .guidance.grid import resize_mask, token_grid
from .methods import VSF, Method, Strength
from .negatives import AUTO, Negatives
from .runs import Call, Run, around_denoiser, around_run, name, windows_of

KEY = "NAG, ONG or VSF"


def patch(model: Any, negatives: Negatives, method: Method) -> Any:
    """The model with a method in its attention of image and text.

    Raises:
        ValueError: the method does not know the model, or a negative is none for it.
    """
    from .models import adapter_for

    for negative in negatives:
        if negative.weight == AUTO:
            raise ValueError(
                f"weight of a negative is automatic, which only Perp-Neg can: {method.label} makes no predictions of "
                "the negatives to compare; give a number"
            )
        _ = negative.text
    adapter = adapter_for(model.model.diffusion_model, method)
    patched = model.clone()
    around_run(
        patched,
        KEY,
        lambda guider, sigmas, latent: AttentionRun(guider, sigmas, latent, negatives, method),
        negatives,
        unused=f"{method.label} never acted: no prediction of the prompt was made",
        inside=True,
    )

    def act(run: AttentionRun, call: Call) -> Any:
        acting = run.begin(call)
        if not acting:
            return call()
        texts = Texts(run, call, acting)
        result = adapter(texts)
        if not texts.met:
            raise ValueError(
                f"{method.label} takes over ComfyUI's attention, but none of this model's went through it: another "
                "node left the model out at this step (a cache such as EasyCache), or computes attention by other "
                f"means; put it nearer to the checkpoint than {method.label}, or take it out"
            )
        return result

    around_denoiser(patched, KEY, act)
    return patched


class AttentionRun(Run):
    """One run: the negatives' texts and masks."""

    def __init__(
        self, guider: Any, sigmas: Tensor, latent: Tensor, negatives: Negatives, method: Method
    ) -> None:
        super().__init__(guider, sigmas, latent)
        self.negatives = negatives
        self.method = method
        self.masks: list[Tensor | None] = []

    def prepare(self) -> None:
        if not self.prompts:
            raise ValueError(
                f"{self.method.label} acts on the prompt, and this guider has {', '.join(self.guider.conds)}, of which "
                "none is called positive; use CFGGuider or BasicGuider"
            )
        self.steps.check(windows_of([negative for negative in self.negatives if negative.weight != 0]))
        self.masks = [self.mask(one.mask, f"negative {i}") for i, one in enumerate(self.negatives, 1)]

    def begin(self, call: Call) -> list[int]:
        """The negatives that act in this call.

        Raises:
            ValueError: which parts of the batch are the prompt's is not known.
        """
        if len(call.uuids) != len(call.chunks):
            raise ValueError(
                f"{self.method.label}: the model is called with {len(call.chunks)} conditionings, of which "
                f"{len(call.uuids)} are known, so that it cannot tell the prompt; take out the node that calls the "
                "model by other means than ComfyUI's"
            )
        if call.auxiliary or not any(uuid in self.prompts for uuid in call.uuids):
            return []
        self.used = True
        step = self.steps.at(call.options["sigmas"])
        return [
            k
            for k, negative in enumerate(self.negatives)
            if negative.weight != 0 and step.inside(negative.window)
        ]

    def encoded(self, k: int) -> dict[str, Any]:
        """What ComfyUI made of negative k for the model: {argument: tensor [1, ...]}."""
        (cond, *_) = self.guider.conds[name(KEY, k)]
        return {key: value.cond for key, value in cond["model_conds"].items()}


class Texts:
    """One call of the denoiser with negatives.

    Args:
        run: with the method.
        call: of the denoiser.
        acting: which negatives act in it.

    Attributes:
        rows: which rows of the batch are predictions of the prompt.
        met: how many attentions have met the texts.
    """

    def __init__(self, run: AttentionRun, call: Call, acting: list[int]) -> None:
        self.run = run
        self.call = call
        self.acting = acting
        sample: Tensor = next(iter(call.arguments.values()))
        # how many tokens the text of each part of the batch has, where that is the prompt's
        parts = [run.prompts.get(uuid) for uuid in call.uuids]
        each = sample.shape[0] // len(parts)
        self._images = each
        self.whole = None not in parts
        rows = {i * each + j: own for i, own in enumerate(parts) if own is not None for j in range(each)}
        self.rows = torch.tensor(list(rows), device=sample.device)
        self._own = list(rows.values())
        self._together = call.arguments["context"].shape[1]
        self.frames = sample.shape[2] if sample.ndim == 5 else 1
        self.met = 0
        if any(run.masks[k] is not None for k in acting) and tuple(sample.shape[-2:]) != run.latent_size:
            raise ValueError(
                f"{run.method.label}: a negative with a mask cannot act on a part of the image, where the prompt has "
                "an area; use masks in place of areas"
            )

    def contexts(self, like: Tensor, argument: str = "c_crossattn") -> list[Tensor]:
        """The acting negatives' texts [1, tokens, channels].

        Raises:
            ValueError: they are not such as the prompt's.
        """
        found = []
        for k in self.acting:
            context = self.run.encoded(k).get(argument)
            if context is None or context.ndim != like.ndim or context.shape[-1] != like.shape[-1]:
                shape = None if context is None else list(context.shape)
                raise ValueError(
                    f"negative {k + 1} has a text of shape {shape}, and this model's is {list(like.shape)}; encode it "
                    "with the CLIP of the model"
                )
            if len(context) != 1:
                raise ValueError(
                    f"negative {k + 1} is a batch of {len(context)} texts; chain them with the node Negative"
                )
            found.append(context.to(like))
        return found

    def repeated(self, keys: int, like: Tensor) -> Tensor | None:
        """[rows, 1, 1, keys], added to the logits: closes what only repeats the prompt; None where nothing does.

        ComfyUI repeats a shorter text to the length of a longer one that is in the same call. An attention over it
        alone stays what it is, and beside other keys it would count for more.
        """
        if all(own == self._together for own in self._own):
            return None
        if keys != self._together:
            raise ValueError(
                f"{self.run.method.label}: another node gives the cross-attention {keys} tokens in place of the "
                f"{self._together} of the prompt, some of which may be repeated; take it out, or use NAG or ONG"
            )
        closed = like.new_zeros(len(self._own), 1, 1, keys)
        for row, own in enumerate(self._own):
            closed[row, ..., own:] = -torch.inf
        return closed

    def strengths(self, tokens: int) -> list[Strength]:
        """Weights of the acting negatives for so many image tokens."""
        found: list[Strength] = []
        for k in self.acting:
            weight, mask = float(self.run.negatives[k].weight), self.run.masks[k]
            if mask is None:
                found.append(weight)
                continue
            grid = self._grid(tokens)
            flat = resize_mask(mask, grid).flatten(1).repeat(1, self.frames)
            if len(flat) > 1:
                if self._images != len(flat):
                    raise ValueError(
                        f"{self.run.method.label}: the mask of negative {k + 1} has one mask for each of {len(flat)} "
                        f"images, and this model is called for {self._images} at a time; give one mask for all"
                    )
                flat = flat.repeat(len(self.rows) // len(flat), 1)
            found.append(weight * flat.to(self.rows.device)[:, :, None])
        return found

    def _grid(self, tokens: int) -> tuple[int, int]:
        try:
            return token_grid(tokens // self.frames, self.run.latent_size)
        except ValueError:
            raise ValueError(
                f"{self.run.method.label}: a negative with a mask cannot act where the model has {tokens} tokens, "
                "which are not those of the image alone; take out its mask, or the reference images"
            ) from None

    def image_tokens(self, patch: int) -> int:
        """How many tokens the generated image has, in patches of so many latents."""
        height, width = next(iter(self.call.arguments.values())).shape[-2:]
        return -(-int(height) // patch) * -(-int(width) // patch)

    def weights(self) -> list[float]:
        return [float(self.run.negatives[k].weight) for k in self.acting]

    def take(self, tensor: Tensor) -> Tensor:
        """The rows of the prompt."""
        return tensor if self.whole else tensor.index_select(0, self.rows)

    def put(self, tensor: Tensor, guided: Tensor) -> Tensor:
        return guided if self.whole else tensor.index_copy(0, self.rows, guided.to(tensor.dtype))


class Attention:
    """A call of ComfyUI's attention, taken over.

    Args:
        function: what computes attention: ComfyUI's own, or another node's in front of it.
        q, k, v: [B, N, C], or [B, H, N, D] with `skip_reshape`. Without it values may be [B, N, H, D], too, as they are
            in Stable Diffusion 3.
        heads: how many.
        options: the call's other arguments by name.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        self.function = function
        self.q, self.k, self.v = q, k, v if v.ndim == q.ndim else v.flatten(2)
        self.heads, self.mask, self.options = heads, mask, options
        self.axis = 2 if options.get("skip_reshape") else 1
        self.out_axis = 2 if options.get("skip_output_reshape") else 1

    @property
    def tokens(self) -> tuple[int, int]:
        """Of queries and of keys."""
        return self.q.shape[self.axis], self.k.shape[self.axis]

    def part(self, tensor: Tensor, spans: Sequence[slice]) -> Tensor:
        parts = [tensor.narrow(self.axis, span.start, span.stop - span.start) for span in spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.axis)

    def attended(
        self,
        queries: Sequence[slice],
        keys: Sequence[slice],
        take: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> Tensor:
        """These queries over these keys."""
        mask = self.mask_of(queries, keys, take)
        q, k, v = (
            take(self.part(one, spans)) for one, spans in ((self.q, queries), (self.k, keys), (self.v, keys))
        )
        return self.function(q, k, v, self.heads, mask=mask, **self.options)

    def mask_of(
        self, queries: Sequence[slice], keys: Sequence[slice], take: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        mask = self.mask
        if mask is None:
            return None
        n, m = self.tokens
        if mask.shape[-1] != m or mask.shape[-2] not in (1, n):
            raise ValueError(
                f"an attention mask of shape {list(mask.shape)} does not go with {n} queries and {m} keys of prompt "
                "and negatives; take out the node that masks attention"
            )
        mask = torch.cat([mask[..., span] for span in keys], dim=-1)
        if mask.shape[-2] > 1:
            mask = torch.cat([mask[..., span, :] for span in queries], dim=-2)
        return take(mask) if mask.ndim > 2 and mask.shape[0] == self.q.shape[0] else mask

    def as_heads(self, tensor: Tensor) -> Tensor:
        """[B, H, N, D] of a query, key or value."""
        return tensor if self.axis == 2 else tensor.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def tokens_of(self, output: Tensor) -> Tensor:
        """[B, N, C] of an output."""
        return output if self.out_axis == 1 else output.transpose(1, 2).flatten(2)

    def like_output(self, tokens: Tensor) -> Tensor:
        return tokens if self.out_axis == 1 else tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def guide(
    texts: Texts,
    attention: Attention,
    image: slice,
    seen: Sequence[slice],
    plain: Tensor,
    negatives: Callable[[], list[Tensor]],
    spans: Sequence[slice],
) -> Tensor:
    """The guided output [B, N, C] of the image's tokens.

    Args:
        image: where the image's queries are.
        seen: the keys that they see with the prompt.
        plain: [B, N, C] their output for the prompt.
        negatives: gives their outputs [rows, N, C] for the negatives.
        spans: where the negatives' keys are.
    """
    texts.met += 1
    wanted = texts.take(plain)
    strengths = texts.strengths(image.stop - image.start)
    method = texts.run.method
    if not isinstance(method, VSF):
        return texts.put(plain, method.combine(wanted, negatives(), strengths))
    query, keys, values = (
        attention.as_heads(texts.take(one)) for one in (attention.q, attention.k, attention.v)
    )
    query = query[:, :, image] * _scale_of(attention.options, query)
    mask = attention.mask_of([image], seen, texts.take)
    if mask is not None:
        mask = additive_mask(mask, query.dtype)
        mask = mask.reshape(*[1] * (4 - mask.ndim), *mask.shape) if mask.ndim != 3 else mask[:, None]
    repeated = texts.repeated(seen[0].stop - seen[0].start, query)
    if repeated is not None:
        # what is seen behind the prompt stays open
        repeated = torch.nn.functional.pad(repeated, (0, sum(span.stop - span.start for span in seen[1:])))
        mask = repeated if mask is None else mask + repeated
    prompt = tuple(torch.cat([one[:, :, span] for span in seen], dim=2) for one in (keys, values))
    beside = [(keys[:, :, span], values[:, :, span]) for span in spans]
    output = method.attend(query, (prompt[0], prompt[1], mask), beside, strengths, texts.weights())
    return texts.put(plain, output.transpose(1, 2).flatten(2))


def _scale_of(options: dict[str, Any], query: Tensor) -> float:
    """What the queries are multiplied by, so that torch's own scale of the logits becomes the one asked for."""
    scale = options.get("scale")
    return 1.0 if scale is None else float(scale) * float(query.shape[3]) ** 0.5


def take_over(call: Call, handle: Callable[[Attention], Tensor | None]) -> None:
    """Let `handle` answer the call's attentions; None leaves one as it is."""
    before = call.options.get("optimized_attention_override")

    def override(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        def attend(*args: Any, **kwargs: Any) -> Tensor:
            return function(*args, **kwargs) if before is None else before(function, *args, **kwargs)

        q, k, v, heads, mask, options = _arguments(*args, **kwargs)
        answer = handle(Attention(attend, q, k, v, heads, mask, options))
        return attend(*args, **kwargs) if answer is None else answer

    call.options["optimized_attention_override"] = override


def _arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: Any = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, int, Tensor | None, dict[str, Any]]:
    return q, k, v, heads, mask, {"attn_precision": attn_precision, **options}
