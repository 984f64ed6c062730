# Written by scripts/comfyui_guidance.py from negguide/guidance/attention.py; change that.
"""Negatives in attention space, for few-step and guidance-distilled models: NAG, NASA, ONG, VSF."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .precision import norm_floor, reduction_dtype
from .projection import without_component


def nag(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """Normalized attention guidance: extrapolate from the negative's attention output, bounded in norm.

    Formula, per token over the feature axis:
        z = scale z+ - (scale - 1) z-
        z <- z min(1, tau |z+|_1 / |z|_1)
        result = alpha z + (1 - alpha) z+

    Args:
        positive: z+, [B, N, C], attention output for the prompt.
        negative: z-, [B, N, C], attention output for the negative prompt.
        scale: extrapolation; 1 is none.
        tau: largest |z|_1 as a multiple of |z+|_1, > 0.
        alpha: share of the extrapolated output in the result; 0 returns z+.

    Returns:
        [B, N, C] in the dtype of `positive`, computed in float32 (float64 for float64).

    Raises:
        ValueError: the shapes differ, or tau is not > 0.
        TypeError: an integer tensor.

    Source: arXiv 2505.21179.
    """
    if positive.ndim != 3 or negative.shape != positive.shape:
        raise ValueError(
            f"positive and negative must both be [B, N, C] of one shape, "
            f"got {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    if not tau > 0:
        raise ValueError(f"tau must be > 0, got {tau}")
    dtype = reduction_dtype("positive", positive)
    wanted, unwanted = positive.to(dtype), negative.to(dtype)
    guided = scale * wanted - (scale - 1) * unwanted
    bound = tau * torch.linalg.vector_norm(wanted, ord=1, dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(guided, ord=1, dim=-1, keepdim=True)
    guided = guided * (bound / length.clamp_min(norm_floor(dtype))).clamp_max(1.0)
    result: Tensor = alpha * guided + (1 - alpha) * wanted
    return result.to(positive.dtype)


def nasa(positive: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Negative-away steer attention: subtract the negatives' attention outputs from the prompt's.

    Formula, per token: z+ - scale sum_k z-_k. What prompt and negative have in common is subtracted too, so that the
    output also gets shorter: by 1 - scale where they are the same.

    Args:
        positive: z+, [B, N, C], attention output for the prompt.
        negatives: z-, [B, N, C] for one negative or [K, B, N, C] for K of them (K may be 0).
        scale: strength; 0 returns z+.

    Returns:
        [B, N, C] in the dtype of `positive`; computed in float32 (float64 for float64).

    Raises:
        ValueError: a shape does not fit.
        TypeError: an integer tensor.

    Source: arXiv 2412.02687.
    """
    wanted, total = _with_total(positive, negatives)
    return (wanted - scale * total).to(positive.dtype)


def ong(positive: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Orthogonal negative guidance: remove from the prompt's attention output what only negatives contain.

    Formula, per token over the feature axis: z+ - scale sum_k perp(z-_k, z+), with
    perp(n, p) = n - (<n,p> / max(|p|^2, eps^2)) p and eps the rounding unit of the dtype. Several negatives
    are summed, each orthogonal to z+ but not to each other; perp is linear in n, so this is the part of their
    sum that is orthogonal to z+.

    Args:
        positive: z+, [B, N, C], attention output for the prompt.
        negatives: z-, [B, N, C] for one negative or [K, B, N, C] for K of them (K may be 0).
        scale: strength; 0 returns z+.

    Returns:
        [B, N, C] in the dtype of `positive`; computed in float32 (float64 for float64).

    Raises:
        ValueError: a shape does not fit.
        TypeError: an integer tensor.

    Source: arXiv 2605.29390.
    """
    wanted, total = _with_total(positive, negatives)
    unwanted = without_component(total, wanted, (-1,), norm_floor(positive.dtype))
    return (wanted - scale * unwanted).to(positive.dtype)


def _with_total(positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """z+ and the sum of the negatives, both [B, N, C] and wide."""
    fits = negatives.shape == positive.shape or (
        negatives.ndim == 4 and negatives.shape[1:] == positive.shape
    )
    if positive.ndim != 3 or not fits:
        raise ValueError(
            f"positive must be [B, N, C] and negatives of that shape or [K, B, N, C], "
            f"got {tuple(positive.shape)} and {tuple(negatives.shape)}"
        )
    dtype = reduction_dtype("positive", positive)
    total = negatives.to(dtype) if negatives.ndim == 3 else negatives.sum(dim=0, dtype=dtype)
    return positive.to(dtype), total


def vsf(
    query: Tensor,
    key_pos: Tensor,
    value_pos: Tensor,
    key_neg: Tensor,
    value_neg: Tensor,
    scale: float,
    bias: float = 0.0,
    mask_pos: Tensor | None = None,
    mask_neg: Tensor | None = None,
    orthogonal: bool = False,
) -> Tensor:
    """Value sign flip: attend to prompt and negative prompt at once, the negative's values turned round.

    Formula: A = [A+, A-] = softmax(Q [K+; K-]^T / sqrt(D) + [0; bias]), with `bias` added to the logits of the
    negative keys only; the result is A+ V+ - scale A- V-.

    A negative that overlaps the prompt takes the prompt's own words away twice: it draws attention from their keys, and
    its values cancel theirs. With `orthogonal` (ours, after ONG) it does neither, and the result is
    z+ - scale perp(A- V-, z+), with z+ the output for the prompt alone and perp as in `ong`, per token over heads and
    features. What is left of VSF is how much the negative counts at each token: by its part of the attention.

    Args:
        query: [B, H, N, D].
        key_pos, value_pos: [B, H, M, D], the prompt.
        key_neg, value_neg: [B, H, L, D], the negative prompt.
        scale: strength of the flipped values; at 0 the negative only draws attention away.
        bias: shifts attention away from (< 0) or towards (> 0) the negative keys.
        mask_pos, mask_neg: which query may see which key, broadcastable to [B, H, N, M] and [B, H, N, L]: bool
            (True = may), or float, added to the logits.
        orthogonal: leave the prompt its attention, and take only the part of A- V- away that is orthogonal to z+.

    Returns:
        [B, H, N, D] in the dtype of `query`; the projection is computed in float32 (float64 for float64).

    Raises:
        ValueError: a shape does not fit.
        TypeError: an integer query.

    Source: arXiv 2508.10931.
    """
    batch_and_heads = query.shape[:2]
    for name, key, value in (("pos", key_pos, value_pos), ("neg", key_neg, value_neg)):
        if key.ndim != 4 or key.shape[:2] != batch_and_heads or key.shape[3] != query.shape[3]:
            raise ValueError(
                f"key_{name} must be [B, H, M, D] to go with a query [B, H, N, D] of shape "
                f"{tuple(query.shape)}, got {tuple(key.shape)}"
            )
        if value.shape != key.shape:
            raise ValueError(
                f"value_{name} must have the shape of key_{name}, {tuple(key.shape)}, "
                f"got {tuple(value.shape)}"
            )
    dtype = reduction_dtype("query", query)
    keys = torch.cat([key_pos, key_neg], dim=2)
    # Without a mask, fused kernels that take none stay open to SDPA.
    mask = None
    if bias != 0.0 or mask_pos is not None or mask_neg is not None:
        open_to_all = [query.new_zeros(1, 1, 1, key.shape[2]) for key in (key_pos, key_neg)]
        positive = open_to_all[0] if mask_pos is None else additive_mask(mask_pos, query.dtype)
        negative = bias + (open_to_all[1] if mask_neg is None else additive_mask(mask_neg, query.dtype))
        shape = torch.broadcast_shapes(positive.shape[:3], negative.shape[:3])
        mask = torch.cat([part.expand(*shape, part.shape[3]) for part in (positive, negative)], dim=3)
    if not orthogonal:
        values = torch.cat([value_pos, -scale * value_neg], dim=2)
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    values = torch.cat([torch.zeros_like(value_pos), value_neg], dim=2)
    unwanted = scaled_dot_product_attention(query, keys, values, attn_mask=mask).to(dtype)
    if mask_pos is not None:
        mask_pos = additive_mask(mask_pos, query.dtype)
    wanted = scaled_dot_product_attention(query, key_pos, value_pos, attn_mask=mask_pos).to(dtype)
    unwanted = without_component(unwanted, wanted, (1, 3), norm_floor(query.dtype))
    return (wanted - scale * unwanted).to(query.dtype)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of attention as what is added to its logits: bool (True = may be seen) becomes 0 and -inf."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)
    return mask.to(dtype)
