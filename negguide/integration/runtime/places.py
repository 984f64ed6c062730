"""Keys of one row for the queries of another, where the image of each row stands behind a text of its own length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from negguide.integration.families.base import ImageBehindText


@dataclass(frozen=True)
class Places:
    """Where each row's image is on the first axis of the rotary positions.

    Attributes:
        starts: a number for each row.
        theta: of the rotation: channels 2j and 2j + 1 turn by theta^(-2j / channels) a position.
        channels: how many of a head's channels the axis has; they are the first.
    """

    starts: tuple[int, ...]
    theta: float
    channels: int

    @classmethod
    def of(cls, found: ImageBehindText, model: nn.Module, inputs: Mapping[str, Any]) -> Places:
        """Those of a call of the model with these inputs."""
        return cls(tuple(found.starts(inputs)), *found.rotation(model))

    def moved(self, keys: Tensor, own: slice, seen_from: slice) -> Tensor:
        """Rotated keys [R, H, N, D] of the rows `own`, as far from the images of `seen_from` as from their own.

        A query of such an image sees them at the distance at which the model, with that text alone, would see them.
        """
        by = [there - here for there, here in zip(self.starts[seen_from], self.starts[own], strict=True)]
        if not any(by):
            return keys
        powers = torch.arange(0, self.channels, 2, dtype=torch.float64) / self.channels
        angles = torch.tensor(by, dtype=torch.float64)[:, None, None, None] * self.theta**-powers
        cos, sin = (part.to(keys.device, torch.float32) for part in (angles.cos(), angles.sin()))
        even, odd = keys[..., : self.channels].float().unflatten(3, (-1, 2)).unbind(4)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=4).flatten(3)
        return torch.cat([turned.to(keys.dtype), keys[..., self.channels :]], dim=3)
