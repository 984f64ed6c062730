"""The JSON form, equality and hash that all objects a user passes share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import PIL.Image
import torch

from negguide.methods.validation import ImageLike
from negguide.methods.window import Timestep, edge_to_json

Save = Callable[[ImageLike], Any]
"""Stores an image, a mask or embeddings and returns what stands for it in JSON (anything but a list)."""
Load = Callable[[Any], ImageLike]
"""The inverse of a `Save`."""


class Serialisable:
    """JSON, equality and hash of a frozen dataclass that may hold tensors, which have no usable `==`."""

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The object as JSON data; `save` stores its images (see the text of `negguide.methods`)."""
        return {name: encode(getattr(self, name), save) for name in field_names(self)}

    def _compared(self) -> dict[str, Any]:
        """What two objects that are equal have in common."""
        return self.to_dict()

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is type(self)
            and isinstance(other, Serialisable)
            and self._compared() == other._compared()
        )

    def __hash__(self) -> int:
        return hash(json.dumps(self._compared(), sort_keys=True))


def field_names(of: Any) -> tuple[str, ...]:
    """The names of a dataclass's fields, in order."""
    return tuple(field.name for field in fields(of))


def fingerprint(image: ImageLike) -> dict[str, Any]:
    """What stands for an image in JSON: {"sha256": of its pixels, "size": [width, height]}.

    Of a tensor that is no image (embeddings [tokens, channels]) "size" is that of its last two axes, in the same order.
    """
    if isinstance(image, torch.Tensor):
        height, width = (1, *image.shape)[-2:]
        raw = image.detach().cpu().contiguous()
        content = f"{raw.dtype}{tuple(raw.shape)}".encode() + bytes(raw.flatten().view(torch.uint8).numpy())
    else:
        width, height = image.size
        # masks are used as they are, everything else as RGB
        image = image if image.mode in ("L", "1") else image.convert("RGB")
        content = f"{image.mode}{image.size}".encode() + image.tobytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": [width, height]}


def encode(value: Any, save: Save | None) -> Any:
    """A field as JSON data."""
    if isinstance(value, Timestep):
        return edge_to_json(value)
    if isinstance(value, tuple):
        return [encode(one, save) for one in value]
    if isinstance(value, Mapping):
        return {name: encode(one, save) for name, one in value.items()}
    return (save or fingerprint)(value) if isinstance(value, PIL.Image.Image | torch.Tensor) else value


def decode(name: str, stored: Any, load: Load | None) -> Any:
    """The images that `encode` stored under the field `name`.

    Raises:
        ValueError: there is one, and no `load` that finds it.
    """
    if stored is None:
        return None
    if isinstance(stored, list):
        return [decode(name, one, load) for one in stored]
    if load is None:
        raise ValueError(f"{name} is an image, which JSON does not hold ({stored!r}); pass load= to find it")
    return load(stored)


def check_keys(data: Mapping[str, Any], keys: Sequence[str], name: str) -> dict[str, Any]:
    """`data` as a dict.

    Raises:
        ValueError: it has a key that is none of `keys`.
    """
    unknown = sorted(set(data) - set(keys))
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; its keys are {', '.join(keys)}")
    return dict(data)
