# Written by scripts/comfyui_guidance.py from negguide/guidance/projection.py; change that.
"""The perpendicular part of one vector to another."""

from torch import Tensor

from .precision import norm_floor, reduction_dtype


def without_component(n: Tensor, p: Tensor, dims: tuple[int, ...], floor: float) -> Tensor:
    """n - (<n,p> / max(|p|^2, floor^2)) p over the axes `dims`, in the reduction dtype throughout."""
    inner = (n * p).sum(dim=dims, keepdim=True)
    square = (p * p).sum(dim=dims, keepdim=True)
    return n - (inner / square.clamp_min(floor * floor)) * p


def perpendicular(n: Tensor, p: Tensor) -> Tensor:
    """The part of `n` that is perpendicular to `p`, one projection a sample.

    Formula: n - (<n,p> / max(|p|^2, eps^2)) p, with eps the rounding unit of the dtype. For n = p it is 0,
    except that below |p| = eps, where p has no direction, the result fades to n.

    Args:
        n: [B, ...], any number of axes after the batch axis.
        p: [B, ...], the shape of `n`.

    Returns:
        [B, ...] in the dtype of `n`; sums are taken in float32 (float64 for float64).

    Raises:
        ValueError: the shapes differ, or there is no axis besides the batch.
        TypeError: an integer tensor.

    Source: Perp-Neg, arXiv 2304.04968.
    """
    if n.shape != p.shape:
        raise ValueError(f"p must have the shape of n, {tuple(n.shape)}, got {tuple(p.shape)}")
    if n.ndim < 2:
        raise ValueError(f"n must be [B, ...] with at least one axis after the batch, got {tuple(n.shape)}")
    dtype = reduction_dtype("n", n)
    result = without_component(n.to(dtype), p.to(dtype), tuple(range(1, n.ndim)), norm_floor(n.dtype))
    return result.to(n.dtype)
