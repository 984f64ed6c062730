"""NAG, ONG and VSF inside whole runs, against attention written out here: softmax by hand, in double precision."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, assert_same, denoiser
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from negguide import NAG, NASA, ONG, VSF, Negative
from negguide.integration.runtime.attention_patch import AttentionPatch

Run = Callable[..., Tensor]
MASK = torch.zeros(64, 64)
MASK[:, :20] = 1
# one negative in the first of two steps; a second one, somewhere, in the second
PAIR = (Negative(NEGATIVES[0], weight=1.5), Negative(NEGATIVES[1], weight=0.6, start=0.5, mask=MASK))
METHODS = {
    "NAG": NAG(*PAIR, scale=3.0, tau=1.1, alpha=0.7),
    "ONG": ONG(*PAIR, scale=0.8),
    "VSF": VSF(*PAIR, scale=1.2, bias=-0.3),
}
# where the text stands, and how many tokens the prompt and the two negatives have
LAYOUTS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "sd": ("cross", (12, 12, 12)),
    "sana": ("cross", (10, 10, 10)),
    "wan": ("cross", (10, 10, 10)),
    "wan-i2v": ("cross", (512, 512, 512)),
    "wan-vace": ("cross", (10, 10, 10)),
    "ltx": ("cross", (10, 10, 10)),
    "sd3": ("image first", (22, 22, 22)),
    # filled up to whole 16s
    "cogview4": ("text first", (16, 16, 16)),
    "flux": ("text first", (10, 10, 10)),
    "flux-kontext": ("text first", (10, 10, 10)),
    "chroma": ("text first", (10, 10, 10)),
    "flux2-dev": ("text first", (56, 56, 56)),
    "flux2-dev-reference": ("text first", (56, 56, 56)),
    # as many as words, and the end of the instruction
    "qwen-image": ("text first", (10, 7, 8)),
    # the same beside the chat, and the image sees them as keys and values
    "qwen-image-21": ("before", (13, 10, 11)),
    # each text is a row of its own behind 16 tokens of the image, both padded to 32
    "z-image": ("rows", (32, 32, 32)),
    # the same, behind the text
    "krea2": ("rows behind", (20, 20, 20)),
    # T5's, those of the last layer of the Llama and those of the block's own layer, behind the image
    "hidream": ("rows", (30, 30, 30)),
    # with 4 tokens of the picture, and 2 around them
    "qwen-image-edit": ("text first", (16, 13, 14)),
}
# the row that is guided, and how many there are
GUIDED = {"sd": (1, 2), "sana": (1, 2), "ltx": (1, 2), "sd3": (1, 2), "z-image": (0, 2), "hidream": (1, 2)}


@pytest.fixture
def calls(monkeypatch: Any) -> list[tuple[Any, ...]]:
    """(query, key, value, mask, output) of every attention with negatives."""
    seen: list[tuple[Any, ...]] = []
    attention = AttentionPatch.attention

    def keeping(self: AttentionPatch, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: Any) -> Tensor:
        output = attention(self, q, k, v, mask, options)
        seen.append((q, k, v, mask, output))
        return output

    monkeypatch.setattr(AttentionPatch, "attention", keeping)
    return seen


class Heads:
    """Query, key and value of one attention, [B, H, N, D], and what is added to its logits; to be cut to pieces."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
        self.q, self.k, self.v = q.double(), k.double(), v.double()
        self.bias = torch.zeros(q.shape[0], 1, 1, k.shape[2], dtype=torch.float64)
        if mask is not None:
            assert mask.shape[2] in (1, q.shape[2])
            closed = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask.double()
            self.bias = self.bias + closed

    def logits(self, rows: slice, queries: slice, keys: Sequence[slice], of_rows: slice) -> Tensor:
        q = self.q[rows, :, queries]
        # of a mask over queries and keys
        bias = self.bias if self.bias.shape[2] == 1 else self.bias[:, :, queries]
        parts = [
            q @ self.k[of_rows, :, span].transpose(2, 3) / q.shape[3] ** 0.5 + bias[of_rows, ..., span]
            for span in keys
        ]
        return torch.cat(parts, dim=3)

    def values(self, keys: Sequence[slice], of_rows: slice) -> Tensor:
        return torch.cat([self.v[of_rows, :, span] for span in keys], dim=2)

    def attended(
        self, rows: slice, queries: slice, keys: Sequence[slice], of_rows: slice | None = None
    ) -> Tensor:
        of_rows = of_rows or rows
        return softmax(self.logits(rows, queries, keys, of_rows)) @ self.values(keys, of_rows)


def softmax(logits: Tensor) -> Tensor:
    weights = (logits - logits.amax(dim=3, keepdim=True)).exp()
    return weights / weights.sum(dim=3, keepdim=True)


def combined(method: Any, plain: Tensor, others: Sequence[Tensor], strengths: Sequence[Tensor]) -> Tensor:
    """NAG or ONG of [B, H, N, D]; what is summed over features is summed over the heads as well."""

    def total(x: Tensor) -> Tensor:
        return x.sum(dim=(1, 3), keepdim=True)

    result = plain
    for strength, other in zip(strengths, others, strict=True):
        if isinstance(method, NAG):
            result = result + (method.scale - 1) * strength * (plain - other)
        else:
            along = total(other * plain) / total(plain * plain) * plain
            result = result - method.scale * strength * (other - along)
    if isinstance(method, NAG):
        ratio = total(result.abs()) / total(plain.abs())
        result = torch.where(ratio > method.tau, result * method.tau / ratio, result)
        result = method.alpha * result + (1 - method.alpha) * plain
    return result


def expected(
    method: Any, acting: Sequence[int], layout: str, lengths: Sequence[int], row: int, rows: int, heads: Heads
) -> Tensor:
    """What one attention should give, [B, H, N, D]."""
    lengths = [lengths[0], *(lengths[1 + k] for k in acting)]
    tokens, every, mine = heads.q.shape[2], slice(0, rows), slice(row, row + 1)
    of_rows = [mine] * len(lengths)
    if layout == "cross":
        edges, image = [0, *itertools.accumulate(lengths)], slice(0, tokens)
    elif layout == "image first":
        edges = [tokens - sum(lengths), *(tokens - sum(lengths) + n for n in itertools.accumulate(lengths))]
        image = slice(0, edges[0])
    else:
        edges = [0, *itertools.accumulate(lengths)]
        image = slice(edges[-1], tokens)
    keys = image
    if layout == "before":
        image, keys = slice(0, tokens), slice(edges[-1], heads.k.shape[2])
    texts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    apart = layout.startswith("rows")
    if apart:
        behind, rest = layout == "rows behind", tokens - lengths[0]
        text = slice(0, lengths[0]) if behind else slice(rest, tokens)
        image = slice(lengths[0], tokens) if behind else slice(0, rest)
        keys = image
        texts = [text] * len(lengths)
        of_rows = [mine, *(slice(rows + i, rows + i + 1) for i in range(len(acting)))]
    seen = [[text] if layout == "cross" else [keys, text] for text in texts]

    # the new image's tokens: 16 where it has no feature maps; what follows are references or padding
    count = image.stop - image.start
    frames = {32: 2, 192: 3}.get(count, 1) if layout == "cross" else 1
    picture = count // frames if layout in ("cross", "image first") else 16
    side = int(picture**0.5)
    cells = adaptive_avg_pool2d(MASK[None].double(), side).flatten().repeat(frames)[:, None]
    new = slice(image.start, image.start + len(cells))
    where = [torch.ones(len(cells), 1) if method.negatives[k].mask is None else cells for k in acting]
    weights = [method.negatives[k].weight for k in acting]

    plain = heads.attended(mine, new, seen[0])
    if isinstance(method, VSF):
        logits, values = [heads.logits(mine, new, seen[0], mine)], [heads.values(seen[0], mine)]
        for k, text, its_rows, cell in zip(weights, texts[1:], of_rows[1:], where, strict=True):
            own = heads.logits(mine, new, [text], its_rows) + method.bias
            logits.append(own.masked_fill(cell < 0.5, -torch.inf))
            values.append(-method.scale * k * heads.values([text], its_rows))
        guided = softmax(torch.cat(logits, dim=3)) @ torch.cat(values, dim=2)
    else:
        # a negative that is a row of its own has its own copy of the image's queries
        others = [
            heads.attended(its_rows if apart else mine, new, keys, its_rows)
            for keys, its_rows in zip(seen[1:], of_rows[1:], strict=True)
        ]
        strengths = [w * cell for w, cell in zip(weights, where, strict=True)]
        guided = combined(method, plain, others, strengths)

    result = torch.zeros(heads.q.shape[0], heads.q.shape[1], tokens, heads.v.shape[3], dtype=torch.float64)
    if apart:
        for i in range(len(result)):
            result[i] = heads.attended(slice(i, i + 1), slice(0, tokens), [slice(0, tokens)])[0]
        for its_rows in of_rows:
            # with a copy of the image, in all that the model sees of it
            result[its_rows, :, image] = result[mine, :, image]
            result[its_rows, :, new] = guided
        return result
    result[:, :, image] = heads.attended(every, image, seen[0])
    result[mine, :, new] = guided
    if layout not in ("cross", "before"):
        for text in texts:
            result[:, :, text] = heads.attended(every, text, [image, text])
    return result


@pytest.mark.families(*LAYOUTS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_attention_is_the_formula(
    pipe: Any, run: Run, tiny: Any, calls: list[Any], method: Any
) -> None:
    run(pipe, negative_guidance=method)
    layout, lengths = LAYOUTS[tiny.name]
    assert len(calls) >= 4 and len(calls) % 2 == 0
    for i, (q, k, v, mask, output) in enumerate(calls):
        acting = [0] if i < len(calls) // 2 else [0, 1]
        wanted = expected(
            method, acting, layout, lengths, *GUIDED.get(tiny.name, (0, 1)), Heads(q, k, v, mask)
        )
        assert_same(output.double(), wanted)


@pytest.mark.families(*LAYOUTS)
@pytest.mark.parametrize("make", [NAG, NASA, ONG])
def test_two_negatives_of_half_the_weight_are_one(pipe: Any, run: Run, make: Any) -> None:
    halves = make(*[Negative(NEGATIVES[0], weight=0.5, mask=MASK)] * 2)
    assert_same(
        run(pipe, negative_guidance=halves),
        run(pipe, negative_guidance=make(Negative(NEGATIVES[0], mask=MASK))),
    )


@pytest.mark.families("qwen-image", "flux2-dev", "flux2-klein")
def test_a_negative_is_carried_through_the_blocks_as_if_it_were_alone_with_the_image(
    base: Any, pipe: Any, run: Run, tiny: Any, unguided: dict[str, Any]
) -> None:
    """Its positions are those that it has alone, whatever the prompt's length, and it never sees the prompt."""
    blocks = denoiser(base).transformer_blocks
    beside: list[Any] = []
    alone: list[Any] = []

    def keep(block: Any, inputs: Any, output: Any) -> None:
        beside.append(output)

    def with_the_image_of_the_prompt(block: Any, inputs: Any, output: Any) -> Any:
        alone.append(output[0])
        return output[0], beside[len(alone) - 1][1]

    handles = [block.register_forward_hook(keep) for block in blocks]
    run(pipe, steps=1, negative_guidance=NAG(NEGATIVES[1], scale=1), **unguided)
    for handle in handles:
        handle.remove()
    handles = [block.register_forward_hook(with_the_image_of_the_prompt) for block in blocks]
    run(base, NEGATIVES[1], steps=1, **unguided)
    for handle in handles:
        handle.remove()
    assert len(alone) == len(beside) == len(blocks)
    for text, (texts, _) in zip(alone, beside, strict=True):
        assert text.shape[1] < texts.shape[1]
        torch.testing.assert_close(texts[:, -text.shape[1] :], text, rtol=1e-4, atol=1e-4)
