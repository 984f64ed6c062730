"""Checks of arguments that every method is built from."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import PIL.Image
import torch

ImageLike = PIL.Image.Image | torch.Tensor
"""A PIL image, or a float tensor [3, H, W] in [0, 1]."""
MaskLike = PIL.Image.Image | torch.Tensor
"""A PIL image of mode "L" or "1", or a float or bool tensor [H, W] in [0, 1]; 1 = here, 0 = not here."""


def number(name: str, value: Any) -> float:
    """`value` as a float.

    Raises:
        TypeError: it is no number; a bool is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def non_negative(name: str, value: Any) -> float:
    """`value` as a finite float of at least 0.

    Raises:
        TypeError, ValueError: it is none.
    """
    result = number(name, value)
    if not (math.isfinite(result) and result >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {result}")
    return result


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above 0.

    Raises:
        TypeError, ValueError: it is none.
    """
    result = number(name, value)
    if not (math.isfinite(result) and result > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {result}")
    return result


def boolean(name: str, value: Any) -> bool:
    """`value`, which is a bool.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def at_least_one(name: str, value: Any) -> int:
    """`value` as a whole number of at least 1.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def check_range(name: str, image: torch.Tensor, shape: str) -> None:
    """Check that a tensor holds values in [0, 1].

    Raises:
        ValueError: another dtype, no values, or some outside.
    """
    if not (image.is_floating_point() or image.dtype == torch.bool):
        raise ValueError(f"{name} must be a float tensor {shape} in [0, 1], got dtype {image.dtype}")
    # NaN fails both comparisons
    if image.numel() == 0 or not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError(f"{name} must hold values in [0, 1], got a tensor {list(image.shape)} that does not")


def check_mask(name: str, mask: Any) -> None:
    """Check that a mask is an image in grey or a tensor [H, W] in [0, 1].

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(mask, torch.Tensor):
        if mask.ndim != 2:
            raise ValueError(f"{name} must be a tensor [H, W], got one of shape {list(mask.shape)}")
        check_range(name, mask, "[H, W]")
    elif isinstance(mask, PIL.Image.Image):
        if mask.mode not in ("L", "1"):
            raise ValueError(
                f"{name} must be a PIL image of mode 'L' or '1', got mode {mask.mode!r}; use .convert('L')"
            )
    else:
        raise ValueError(f"{name} must be a PIL image of mode 'L' or '1' or a tensor [H, W], got {mask!r}")


def at_least_zero(name: str, value: Any) -> int:
    """A whole number >= 0."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return int(value)
