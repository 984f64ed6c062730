"""A small solid of voxels that turns about its upright axis, drawn without perspective, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, pad, softplus

FOG = -4.0
"""Density of a new solid before `softplus`: thin everywhere, so that its outline says nothing of a front or a back."""
GREY = 0.5
"""Its colour."""
SPREAD = 0.1
"""Standard deviation of the noise of a new solid's parameters."""


class Voxels(nn.Module):
    """A solid of `height` x `width` x `width` voxels, seen from any side around it.

    Formula: with density d_i = softplus(.) and colour k_i = sigmoid(.) of the voxels on a line of sight, counted from
    the viewer on, and D_i = d_1 + ... + d_i, voxel i has the weight exp(-D_(i-1)) - exp(-D_i), and the pixel is
    sum_i weight_i k_i + exp(-D) background. A view is the solid turned in the ground plane (bilinear) and seen
    along its depth axis.

    Attributes:
        density: [height, width, width], upright, depth, across.
        color: [height, 3, width, width].

    Args:
        height, width: in voxels; one voxel is one pixel.
        generator: of the noise that a new solid begins with.

    Raises:
        ValueError: a size below 2.
    """

    def __init__(
        self, height: int = 56, width: int = 40, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if height < 2 or width < 2:
            raise ValueError(f"height and width must be at least 2 voxels, got {height} and {width}")
        self.height, self.width = height, width

        def noise(*shape: int) -> Tensor:
            return SPREAD * torch.randn(shape, generator=generator)

        self.density = nn.Parameter(FOG + noise(height, width, width))
        self.color = nn.Parameter(torch.logit(torch.tensor(GREY)) + noise(height, 3, width, width))

    def forward(self, azimuth: Tensor) -> tuple[Tensor, Tensor]:
        """The solid from each azimuth.

        Args:
            azimuth: [B] in degrees; at 0 the front is seen, at 90 a side, the front to the right of the picture.

        Returns:
            (color, alpha): [B, 3, height, width], multiplied by how much of the background it hides, and
            [B, 1, height, width], both in [0, 1].
        """
        field = torch.cat([softplus(self.density)[:, None], self.color.sigmoid()], dim=1)
        views = [self._from(field, angle) for angle in torch.deg2rad(azimuth.float())]
        return torch.stack([color for color, _ in views]), torch.stack([alpha for _, alpha in views])

    def _from(self, field: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
        turn = torch.stack([torch.stack([cos, sin, none]), torch.stack([-sin, cos, none])])
        grid = affine_grid(turn[None], [1, 1, self.width, self.width], align_corners=False)
        # every layer turns alike, so that layers are channels of one picture
        turned = grid_sample(field.flatten(0, 1)[None], grid, align_corners=False).unflatten(
            1, (self.height, 4)
        )[0]
        density = turned[:, :1]
        through = density.cumsum(dim=2)
        weight = torch.exp(density - through) - torch.exp(-through)
        color = (weight * turned[:, 1:]).sum(dim=2).transpose(0, 1)
        return color, weight.sum(dim=2).transpose(0, 1)


def on_background(color: Tensor, alpha: Tensor, background: Tensor, bottom: int) -> Tensor:
    """Pictures of a solid in the middle of a background.

    Args:
        color, alpha: [B, 3, h, w] and [B, 1, h, w] of `Voxels`.
        background: [3, H, W] in [0, 1], H >= h + bottom and W >= w.
        bottom: pixels between the solid's lower end and that of the picture.

    Returns:
        [B, 3, H, W] in [0, 1].

    Raises:
        ValueError: the solid does not fit into the background.
    """
    height, width = background.shape[-2:]
    h, w = color.shape[-2:]
    if h + bottom > height or w > width or bottom < 0:
        raise ValueError(
            f"a solid of {h} x {w} pixels, {bottom} above the lower end, does not fit into a background of "
            f"{height} x {width}"
        )
    left = (width - w) // 2
    around = (left, width - w - left, height - h - bottom, bottom)
    return pad(color, around) + (1 - pad(alpha, around)) * background
