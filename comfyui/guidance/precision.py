# Written by scripts/comfyui_guidance.py from negguide/guidance/precision.py; change that.
"""Which dtype a reduction runs in, and below which norm a vector has no direction."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def reduction_dtype(name: str, tensor: Tensor) -> torch.dtype:
    """float64 for float64, float32 for every other floating dtype.

    Sums of squares overflow float16 from 256 upwards and lose all but two digits in bfloat16, so nothing is
    summed in them.

    Raises:
        TypeError: `tensor` (called `name` in the message) is not floating point.
    """
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating point tensor, got dtype {tensor.dtype}")
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def as_given(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which products are computed in the dtype of their factors, also inside `torch.autocast`.

    Autocast computes every matrix product in 16 bit, whatever its factors are, and sums and thresholds would then have
    two or three digits.
    """
    kind = tensor.device.type
    # there is none for tensors without data
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def norm_floor(dtype: torch.dtype) -> float:
    """The norm below which a vector of `dtype` is treated as having no direction: one unit of rounding of 1.

    Model predictions and features are of order one, so a whole vector that is shorter than the rounding of a
    single such element is noise. Dividing by max(|p|^2, floor^2) keeps a projection coefficient bounded by
    |n| / floor (Cauchy-Schwarz), its derivative finite, and lets the projection fade out continuously as p
    goes to 0. The floor belongs to the dtype the vector was stored in, not to the one it is summed in.
    """
    return torch.finfo(dtype).eps
