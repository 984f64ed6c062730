"""Every tiny pipeline, and what the tests of all families share."""

from typing import Any

import tiny_joint
import tiny_unet_and_cross
import torch

from negguide import PerpNeg

TINY: tuple[Any, ...] = (*tiny_unet_and_cross.TINY, *tiny_joint.TINY)
PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
NEGATIVES = ("black glasses", "a red scarf")
SCALE = 4.0


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    """|one - other| / |other|."""
    return float((one - other).norm() / other.norm())


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def taken(tiny: Any, *methods: Any) -> list[Any]:
    """Those of the methods that a pipeline takes: Perp-Neg needs classifier-free guidance."""
    return [method for method in methods if tiny.guided or not isinstance(method, PerpNeg)]


def build(tiny: Any) -> Any:
    """A pipeline of one's own, to be changed."""
    pipe: Any = tiny.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer
