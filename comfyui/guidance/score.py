# Written by scripts/comfyui_guidance.py from negguide/guidance/score.py; change that.
"""Perp-Neg: negatives in score space, one prediction a prompt."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .precision import norm_floor, reduction_dtype
from .projection import without_component

# A projection that should remove all of a vector leaves about one rounding unit of it. Joint mode must not
# take that remainder for a direction of its own, hence this many units count as nothing.
_ROUNDING_MARGIN = 64

Joint = bool | Literal["overlap"]
"""How several negatives are taken together; see `perp_neg_shift`."""


def check_predictions(uncond: Tensor, cond: Tensor, negatives: Tensor) -> torch.dtype:
    """The dtype for sums over these predictions.

    Raises:
        ValueError: a shape does not fit.
        TypeError: integer predictions.
    """
    if uncond.ndim < 2:
        raise ValueError(
            f"uncond must be [B, ...] with at least one axis after the batch, got {tuple(uncond.shape)}"
        )
    if cond.shape != uncond.shape:
        raise ValueError(
            f"cond must have the shape of uncond, {tuple(uncond.shape)}, got {tuple(cond.shape)}"
        )
    if negatives.ndim != uncond.ndim + 1 or negatives.shape[1:] != uncond.shape:
        raise ValueError(
            f"negatives must be [K, B, ...], a stack of K tensors of the shape of uncond, "
            f"{tuple(uncond.shape)}, got {tuple(negatives.shape)}"
        )
    return reduction_dtype("uncond", uncond)


def _weights_per_sample(weights: Tensor | Sequence[float], negatives: Tensor, dtype: torch.dtype) -> Tensor:
    """[K] or [K, B] as [K, 1 or B, 1, ...], to be multiplied with `negatives`."""
    weights = torch.as_tensor(weights, dtype=dtype, device=negatives.device)
    count, batch = negatives.shape[:2]
    if weights.shape not in ((count,), (count, batch)):
        raise ValueError(
            f"weights must be one a negative, ({count},), or one a negative and sample, ({count}, {batch}), "
            f"got {tuple(weights.shape)}"
        )
    columns = batch if weights.ndim == 2 else 1
    return weights.reshape(count, columns, *[1] * (negatives.ndim - 2))


def perp_neg_shift(
    uncond: Tensor,
    cond: Tensor,
    negatives: Tensor,
    weights: Tensor | Sequence[float],
    joint: Joint = False,
    masks: Tensor | None = None,
) -> Tensor:
    """What Perp-Neg takes away from the guidance direction.

    Formula: S = sum_k w_k m_k perp(n_k, p), with p = cond - uncond, n_k = negatives[k] - uncond and m_k = 1
    without masks.

    With `joint=True` each n_k is also made orthogonal to what the negatives before it take away, so that the
    second of two wordings of one thing adds only what the first left. A negative of weight 0 takes nothing
    away, and one with a mask only where the mask is: elsewhere the second still acts. The order of the
    negatives then matters.

    With `joint="overlap"` what a negative shares with those before it counts once, as strongly as the stronger of
    them takes it away: with s_k = w_k m_k perp(n_k, p), each s_k loses clip(<s_k,s_j> / |s_j|^2, 0, 1) s_j for every
    j < k. Negatives that have nothing in common, or point away from one another, are as without.

    Args:
        uncond: [B, ...] prediction of the empty (or classic negative) prompt.
        cond: [B, ...] prediction of the prompt.
        negatives: [K, B, ...] predictions of the negatives; K may be 0.
        weights: [K] or [K, B], finite and >= 0.
        joint: how negatives that have something in common are taken together.
        masks: broadcastable to `negatives`, 1 where a negative acts and 0 where not.

    Returns:
        [B, ...] in the dtype of `uncond`; sums are taken in float32 (float64 for float64).

    Raises:
        ValueError: a shape does not fit, or `joint` is none of its values.
        TypeError: integer predictions.

    Source: Perp-Neg, arXiv 2304.04968; `joint` and `masks` are this project's.
    """
    if joint not in (True, False, "overlap"):
        raise ValueError(f"joint must be True, False or 'overlap', got {joint!r}")
    dtype = check_predictions(uncond, cond, negatives)
    weights = _weights_per_sample(weights, negatives, dtype)
    if masks is not None:
        fits = masks.ndim <= negatives.ndim and all(
            size in (1, wanted)
            for size, wanted in zip(masks.shape[::-1], negatives.shape[::-1], strict=False)
        )
        if not fits:
            raise ValueError(
                f"masks must be broadcastable to negatives, {tuple(negatives.shape)}, "
                f"got {tuple(masks.shape)}"
            )
        masks = masks.to(dtype).broadcast_to(negatives.shape)

    dims = tuple(range(1, uncond.ndim))
    floor = norm_floor(uncond.dtype)
    rounding = (_ROUNDING_MARGIN * torch.finfo(dtype).eps) ** 2
    base = uncond.to(dtype)
    positive = cond.to(dtype) - base
    shift = torch.zeros_like(positive)
    taken: list[Tensor] = []
    # One negative at a time: K is small, a [K, B, ...] float32 copy is not, and a negative equal to the
    # positive cancels exactly only if both go through sums of the same shape.
    for k in range(negatives.shape[0]):
        negative = negatives[k].to(dtype) - base
        part = without_component(negative, positive, dims, floor)
        if joint is True:
            for earlier in taken:
                part = without_component(part, earlier, dims, floor)
            left = (part * part).sum(dim=dims, keepdim=True)
            whole = (negative * negative).sum(dim=dims, keepdim=True)
            part = part.masked_fill(left <= rounding * whole, 0.0)
        if masks is not None:
            part = masks[k] * part
        if joint is True:
            taken.append(part * (weights[k] > 0))
        part = weights[k] * part
        if joint == "overlap":
            for earlier in taken:
                part = part - _overlap(part, earlier, dims, floor) * earlier
            taken.append(part)
        shift = shift + part
    return shift.to(uncond.dtype)


def _overlap(part: Tensor, earlier: Tensor, dims: tuple[int, ...], floor: float) -> Tensor:
    """How much of `earlier` a part holds, from 0 to 1."""
    inner = (part * earlier).sum(dim=dims, keepdim=True)
    square = (earlier * earlier).sum(dim=dims, keepdim=True)
    return (inner / square.clamp_min(floor * floor)).clamp(0, 1)


def perp_neg(
    uncond: Tensor,
    cond: Tensor,
    negatives: Tensor,
    weights: Tensor | Sequence[float],
    guidance_scale: float | Tensor,
    joint: Joint = False,
    masks: Tensor | None = None,
) -> Tensor:
    """Classifier-free guidance with negatives that only act perpendicular to the prompt.

    Formula: uncond + g (p - S), with p = cond - uncond and S of `perp_neg_shift`. Without negatives (K = 0),
    and with all weights 0, this is uncond + g (cond - uncond) bit for bit.

    Args:
        uncond, cond, negatives, weights, joint, masks: as in `perp_neg_shift`.
        guidance_scale: g, a number, or a tensor of one element or with as many axes as `uncond`, for example
            [B, 1, 1, 1].

    Returns:
        [B, ...] in the dtype of `uncond`.

    Raises:
        ValueError: a shape does not fit.
        TypeError: integer predictions.

    Source: Perp-Neg, arXiv 2304.04968.
    """
    if isinstance(guidance_scale, Tensor) and guidance_scale.ndim not in (0, uncond.ndim):
        # A [B] tensor would be broadcast along the last axis, silently so where that has B elements.
        raise ValueError(
            f"guidance_scale must be a number, a scalar tensor or a tensor of {uncond.ndim} axes such as "
            f"{(len(uncond), *[1] * (uncond.ndim - 1))}, got shape {tuple(guidance_scale.shape)}"
        )
    shift = perp_neg_shift(uncond, cond, negatives, weights, joint=joint, masks=masks)
    return (uncond + guidance_scale * ((cond - uncond) - shift)).to(uncond.dtype)


def uncond_for(guided: Tensor, uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """The unconditional prediction with which plain guidance gives `guided`.

    Formula: u' = u + (guided - (u + g (c - u))) / (1 - g), so that u' + g (c - u') = guided. With `guided` of
    `perp_neg` this is u + g / (g - 1) S. Where `guided` is plain guidance itself, u' is u bit for bit.

    Args:
        guided, uncond, cond: [B, ...] of one dtype, float32 or float64: near g = 1 the difference is divided by little.
        guidance_scale: g, not 1.

    Returns:
        [B, ...] in the dtype of `uncond`.

    Raises:
        ValueError: g is 1, where the unconditional prediction does not count.
    """
    if guidance_scale == 1:
        raise ValueError("guidance_scale must not be 1, where no unconditional prediction counts, got 1")
    plain = uncond + guidance_scale * (cond - uncond)
    return uncond + (guided - plain) / (1 - guidance_scale)


def alignment(uncond: Tensor, cond: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """How far each negative points along the prompt, and how much of it Perp-Neg keeps.

    Formula: cosine = <n_k,p> / (|n_k| |p|) and kept = |perp(n_k, p)| / |n_k|, with p = cond - uncond and
    n_k = negatives[k] - uncond. Norms are floored at the rounding unit of the dtype, so that a zero n_k
    gives (0, 0) and a zero p gives (0, 1).

    Args:
        uncond, cond: [B, ...].
        negatives: [K, B, ...]; K may be 0.

    Returns:
        (cosine, kept), both [K, B] in the dtype of `uncond`; cosine in [-1, 1], kept in [0, 1].

    Raises:
        ValueError: a shape does not fit.
        TypeError: integer predictions.
    """
    dtype = check_predictions(uncond, cond, negatives)
    floor = norm_floor(uncond.dtype)
    base = uncond.to(dtype)
    positive = (cond.to(dtype) - base).flatten(1).expand(negatives.shape[0], -1, -1)
    negative = (negatives.to(dtype) - base).flatten(2)
    perpendicular = without_component(negative, positive, (-1,), floor)

    def norm(vector: Tensor) -> Tensor:
        # The floor goes under the root: its derivative is infinite at 0.
        return (vector * vector).sum(dim=-1).clamp_min(floor * floor).sqrt()

    length = norm(negative)
    cosine = (negative * positive).sum(dim=-1) / (length * norm(positive))
    kept = torch.linalg.vector_norm(perpendicular, dim=-1) / length
    return cosine.clamp(-1.0, 1.0).to(uncond.dtype), kept.clamp_max(1.0).to(uncond.dtype)


def relative_shift(
    uncond: Tensor, cond: Tensor, negatives: Tensor, weights: Tensor | Sequence[float]
) -> Tensor:
    """How much of the guidance each negative takes away by itself.

    Formula: w_k |perp(n_k, p)| / |p|, with p = cond - uncond and n_k = negatives[k] - uncond; |p| is floored at the
    rounding unit of the dtype.

    Args:
        uncond, cond: [B, ...].
        negatives: [K, B, ...]; K may be 0.
        weights: [K] or [K, B].

    Returns:
        [K, B] in float32 (float64 for float64).

    Raises:
        ValueError: a shape does not fit.
        TypeError: integer predictions.
    """
    dtype = check_predictions(uncond, cond, negatives)
    floor = norm_floor(uncond.dtype)
    base = uncond.to(dtype)
    positive = (cond.to(dtype) - base).flatten(1)
    part = without_component((negatives.to(dtype) - base).flatten(2), positive, (-1,), floor)
    scale = _weights_per_sample(weights, negatives, dtype).flatten(1)
    length = torch.linalg.vector_norm(positive, dim=-1).clamp_min(floor)
    shift: Tensor = torch.linalg.vector_norm(part, dim=-1)
    result: Tensor = scale * shift / length
    return result
