# Written by scripts/comfyui_guidance.py from negguide/guidance/matching_triton.py; change that.
"""The best match of every source token in one Triton kernel, for NVIDIA GPUs. Imported only where triton is."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .precision import norm_floor

# 96 KiB of shared memory in half precision, which every GPU from compute capability 8.0 on has.
_HALF: dict[str, int] = {
    "SOURCE_BLOCK": 128,
    "REFERENCE_BLOCK": 128,
    "CHANNEL_BLOCK": 64,
    "num_warps": 8,
    "num_stages": 3,
}
_SINGLE: dict[str, int] = {
    "SOURCE_BLOCK": 64,
    "REFERENCE_BLOCK": 64,
    "CHANNEL_BLOCK": 32,
    "num_warps": 4,
    "num_stages": 3,
}

# About two programs for each multiprocessor of a large GPU; fewer would leave some without work.
_PROGRAMS = 256


def match_fused(source: Tensor, reference: Tensor, reference_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`negguide.guidance.matching.match` in one pass over the tokens: no similarity is ever written to memory.

    The products are those of the raw tokens, exact for half precision, summed in float32; the norms, in float32
    too, are divided out of the sums. So two tokens that tie in exact arithmetic may differ by a rounding here and not
    in the PyTorch version, or the other way round; copies of one token tie in both. A reference token whose norm is
    infinite or NaN is never matched.

    Args:
        source: [B, N, C], float16, bfloat16 or float32, on the current CUDA device (in Triton's interpreter the CPU).
        reference: [B or 1, M, C], of the same dtype and device. Neither needs to be contiguous.
        reference_mask: bool, [B or 1, M], or None.

    Returns:
        (cosine, index): [B, N] float32 and int64, without derivatives.
    """
    batch, source_tokens, channels = source.shape
    reference_tokens = reference.shape[1]
    floor = norm_floor(source.dtype)
    # 0 is no inverse of a norm: it marks the tokens that are not to be matched.
    inverse_norms = _inverse_norms(reference, floor)
    if reference_mask is not None:
        inverse_norms = torch.where(reference_mask, inverse_norms, 0.0)
    # Shared by all samples: a stride of 0, no copies.
    inverse_norms = inverse_norms.expand(batch, -1)
    reference = reference.expand(batch, -1, -1)

    config = _SINGLE if source.dtype == torch.float32 else _HALF
    source_blocks = _blocks(source_tokens, config["SOURCE_BLOCK"])
    reference_blocks = _blocks(reference_tokens, config["REFERENCE_BLOCK"])
    # Few source tokens: let several programs share the reference, and take the best of what they find.
    wanted = max(1, _PROGRAMS // (source_blocks * batch))
    split_blocks = _blocks(reference_blocks, wanted)
    splits = _blocks(reference_blocks, split_blocks)
    values = torch.empty(splits, batch, source_tokens, dtype=torch.float32, device=source.device)
    indices = torch.empty(splits, batch, source_tokens, dtype=torch.int64, device=source.device)
    # torch.compile takes this launch into its graph as it is: a kernel decorated by triton.jit alone, a grid of plain
    # integers, and tensors, integers and constants by position or name as arguments.
    _best_of_blocks[(source_blocks, batch, splits)](
        source,
        reference,
        inverse_norms,
        values,
        indices,
        source_tokens,
        reference_tokens,
        channels,
        split_blocks * config["REFERENCE_BLOCK"],
        source.stride(0),
        source.stride(1),
        source.stride(2),
        reference.stride(0),
        reference.stride(1),
        reference.stride(2),
        inverse_norms.stride(0),
        inverse_norms.stride(1),
        **config,
    )
    # The first of equal maxima, hence the lowest index.
    value, split = values.max(dim=0)
    index = indices.gather(0, split.unsqueeze(0)).squeeze(0)
    return (value * _inverse_norms(source, floor)).clamp_max(1.0), index


def _inverse_norms(tokens: Tensor, floor: float) -> Tensor:
    """[B, N] float32: 1 / max(|x|, floor), > 0, without a copy of the tokens."""
    norms: Tensor = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32)
    return norms.clamp_min(floor).reciprocal()


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


@triton.jit
def _best_of_blocks(  # type: ignore[no-untyped-def]  # triton reads annotations, and knows its own only
    source,
    reference,
    inverse_norms,
    values,
    indices,
    source_tokens,
    reference_tokens,
    channels,
    split_tokens,
    source_batch_stride,
    source_token_stride,
    source_channel_stride,
    reference_batch_stride,
    reference_token_stride,
    reference_channel_stride,
    norms_batch_stride,
    norms_token_stride,
    SOURCE_BLOCK: tl.constexpr,
    REFERENCE_BLOCK: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
):
    """max_j <s_i, r_j> inverse_norm_j and the lowest j that reaches it, for one block of i and one split of j.

    Program (b, s, p): block b of the source tokens of sample s, against the `split_tokens` reference tokens from
    p * split_tokens on.
    """
    # An offset into a whole tensor may need 64 bits; one inside a block does not.
    sample = tl.program_id(1).to(tl.int64)
    top = tl.program_id(0).to(tl.int64) * SOURCE_BLOCK
    first = tl.program_id(2) * split_tokens
    rows = tl.arange(0, SOURCE_BLOCK)
    columns = tl.arange(0, REFERENCE_BLOCK)
    depth = tl.arange(0, CHANNEL_BLOCK)

    row_there = top + rows < source_tokens
    source += sample * source_batch_stride + top * source_token_stride
    source_block = source + rows[:, None] * source_token_stride + depth[None, :] * source_channel_stride
    reference += sample * reference_batch_stride
    inverse_norms += sample * norms_batch_stride

    best = tl.full([SOURCE_BLOCK], float("-inf"), tl.float32)
    best_index = tl.zeros([SOURCE_BLOCK], tl.int32)
    for left in range(first, tl.minimum(first + split_tokens, reference_tokens), REFERENCE_BLOCK):
        column_there = left + columns < reference_tokens
        reference_block = reference + tl.cast(left, tl.int64) * reference_token_stride
        reference_block += (
            columns[None, :] * reference_token_stride + depth[:, None] * reference_channel_stride
        )
        products = tl.zeros([SOURCE_BLOCK, REFERENCE_BLOCK], tl.float32)
        for channel in range(0, channels, CHANNEL_BLOCK):
            depth_there = channel + depth < channels
            s = tl.load(
                source_block + channel * source_channel_stride,
                mask=row_there[:, None] & depth_there[None, :],
                other=0.0,
            )
            r = tl.load(
                reference_block + channel * reference_channel_stride,
                mask=depth_there[:, None] & column_there[None, :],
                other=0.0,
            )
            # "ieee": float32 as it is, not rounded to the ten bits of TF32; half precision is exact anyway.
            products = tl.dot(s, r, products, input_precision="ieee")
        norms = tl.load(inverse_norms + (left + columns) * norms_token_stride, mask=column_there, other=0.0)
        similarity = tl.where((norms > 0)[None, :], products * norms[None, :], float("-inf"))
        value, position = tl.max(similarity, axis=1, return_indices=True)
        # Strictly greater, so that among equals the lowest index stays.
        better = value > best
        best = tl.where(better, value, best)
        best_index = tl.where(better, left + position, best_index)

    place = (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + sample) * source_tokens + top + rows
    tl.store(values + place, best, mask=row_there)
    tl.store(indices + place, best_index.to(tl.int64), mask=row_there)
