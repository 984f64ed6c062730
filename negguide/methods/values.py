"""Checks of arguments, and the JSON form of images: what every method is built from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import PIL.Image
import torch

ImageLike = PIL.Image.Image | torch.Tensor
"""A PIL image, or a float tensor [3, H, W] in [0, 1]."""
MaskLike = PIL.Image.Image | torch.Tensor
"""A PIL image of mode "L" or "1", or a float or bool tensor [H, W] in [0, 1]; 1 = here, 0 = not here."""
Save = Callable[[ImageLike], Any]
Load = Callable[[Any], ImageLike]


class Stored:
    """JSON, equality and hash, shared by the frozen dataclasses below (tensors have no usable `==`)."""

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} has no JSON form")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Stored) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))


def digest(image: ImageLike) -> dict[str, Any]:
    """What stands for an image in JSON: {"sha256": of its pixels, "size": [width, height]}."""
    if isinstance(image, torch.Tensor):
        height, width = image.shape[-2:]
        raw = image.detach().cpu().contiguous()
        content = f"{raw.dtype}{tuple(raw.shape)}".encode() + bytes(raw.flatten().view(torch.uint8).numpy())
    else:
        width, height = image.size
        # masks are used as they are, everything else as RGB
        image = image if image.mode in ("L", "1") else image.convert("RGB")
        content = f"{image.mode}{image.size}".encode() + image.tobytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": [width, height]}


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def non_negative(name: str, value: Any) -> float:
    result = number(name, value)
    if not (math.isfinite(result) and result >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {result}")
    return result


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def at_least_one(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def check_window(start: Any, stop: Any) -> tuple[float, float]:
    """The window [start, stop) in fractions of the steps, as numbers."""
    start, stop = number("start", start), number("stop", stop)
    if not 0 <= start < stop <= 1:
        raise ValueError(f"start and stop must satisfy 0 <= start < stop <= 1, got {start=}, {stop=}")
    return start, stop


def check_range(name: str, image: torch.Tensor, shape: str) -> None:
    if not (image.is_floating_point() or image.dtype == torch.bool):
        raise ValueError(f"{name} must be a float tensor {shape} in [0, 1], got dtype {image.dtype}")
    # NaN fails both comparisons
    if image.numel() == 0 or not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError(f"{name} must hold values in [0, 1], got a tensor {list(image.shape)} that does not")


def check_mask(name: str, mask: Any) -> None:
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


def known_keys(data: Mapping[str, Any], keys: Sequence[str], name: str) -> dict[str, Any]:
    unknown = sorted(set(data) - set(keys))
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; its keys are {', '.join(keys)}")
    return dict(data)


def stored(value: Any, save: Save | None) -> Any:
    if isinstance(value, tuple):
        return [stored(one, save) for one in value]
    return (save or digest)(value) if isinstance(value, ImageLike) else value


def loaded(name: str, stored: Any, load: Load | None) -> Any:
    if stored is None:
        return None
    if isinstance(stored, list):
        return [loaded(name, one, load) for one in stored]
    if load is None:
        raise ValueError(f"{name} is an image, which JSON does not hold ({stored!r}); pass load= to find it")
    return load(stored)
