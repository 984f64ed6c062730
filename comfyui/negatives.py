"""Negatives as nodes hand them on: a conditioning with its weight, window and mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .guidance.grid import resize_mask
from .windows import Window

TYPE = "NEGATIVES"
"""Type of the sockets that chain negatives."""
EITHER = f"CONDITIONING,{TYPE}"
"""A socket that takes a conditioning as it is, too."""
AUTO = "auto"

# What would leave part of an image, or of a run, without a prediction of the negative, and who does it instead.
_PARTS = {
    "area": "mask",
    "mask": "mask",
    "start_percent": "start and stop",
    "end_percent": "start and stop",
    "clip_start_percent": "start and stop",
    "clip_end_percent": "start and stop",
}


@dataclass(frozen=True)
class Negative:
    """What to leave out.

    Args:
        conditioning: ComfyUI's, of one text or several combined ones.
        weight: >= 0, or "auto".
        window: when it acts.
        mask: where it acts, [1 or images, H, W] in [0, 1]; None = everywhere.

    Raises:
        ValueError, TypeError: naming the input, its value and what would be right.
    """

    conditioning: Sequence[Any]
    weight: float | Literal["auto"]
    window: Window
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.conditioning:
            raise ValueError("conditioning of a negative is empty; connect one from a CLIP Text Encode node")
        for _, options in self.conditioning:
            present = [name for name in _PARTS if name in options]
            if present:
                raise ValueError(
                    f"conditioning of a negative has {present[0]}, so that there would be no prediction of it "
                    f"elsewhere; take that node out and use {_PARTS[present[0]]} of the node Negative"
                )
            if "hooks" in options:
                raise ValueError(
                    "conditioning of a negative has hooks (LoRA or weights of its own), which the nodes of negguide "
                    "do not know; take them out: a negative has those of the prompt"
                )
        if self.weight != AUTO and not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be a number >= 0, got {self.weight}")

    @property
    def text(self) -> Any:
        """The only text of the conditioning.

        Raises:
            ValueError: there are several.
        """
        if len(self.conditioning) != 1:
            raise ValueError(
                f"negative has {len(self.conditioning)} combined conditionings, and a method in attention needs one "
                "text each; chain them with the node Negative instead of combining them"
            )
        return self.conditioning[0]


class Negatives(tuple[Negative, ...]):
    """What the node Negative hands on."""


def as_negatives(value: Any, window: Window) -> Negatives:
    """What came in at a socket that takes a conditioning or negatives; a conditioning acts in `window`."""
    if isinstance(value, Negatives):
        return value
    return Negatives([Negative(value, 1.0, window)])


def as_mask(mask: Tensor | None) -> Tensor | None:
    """ComfyUI's mask, [H, W] or [n, H, W], as [n, H, W]."""
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(f"mask must be [n, H, W] from 0 to 1, got a tensor of shape {list(mask.shape)}")
    return mask


def mask_over(mask: Tensor, latent_size: tuple[int, int], owner: str) -> Tensor:
    """[n, H, W] at the size of the latents, [n, 1, h, w].

    Raises:
        ValueError: it would have to be stretched by more than a latent.
    """
    height, width = mask.shape[-2:]
    if abs(height * latent_size[1] - width * latent_size[0]) > max(height, width):
        raise ValueError(
            f"mask of {owner} is {width}x{height} (width x height) and the latents are "
            f"{latent_size[1]}x{latent_size[0]}: a mask must have the aspect ratio of the image"
        )
    return resize_mask(mask[:, None].to(torch.float32), latent_size)
