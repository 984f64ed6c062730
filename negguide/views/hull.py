"""A mesh of a solid by its outlines, for programs of other people."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from negguide.storage import write_whole

SHARPNESS = 6
"""Power of the cosine between a surface and a view by which the view's colour counts there."""
INSIDE = 0.5
"""Share of the background that a pixel hides where the solid is."""


def check_packages() -> None:
    """Refuse where what a mesh needs is not installed.

    Raises:
        ImportError: it is not.
    """
    missing = [name for name in ("skimage", "trimesh") if find_spec(name) is None]
    if missing:
        raise ImportError("a mesh needs scikit-image and trimesh: pip install scikit-image trimesh")


def visual_hull(alpha: Tensor, azimuth: Tensor) -> Tensor:
    """The largest solid that fits into all outlines.

    Formula: h(x) = min over views of alpha_v(P_v x), P_v the orthographic projection of view v.

    Args:
        alpha: [V, h, w] of `Voxels`, in [0, 1].
        azimuth: [V] in degrees.

    Returns:
        [h, w, w] in [0, 1]: upright, depth, across.

    Raises:
        ValueError: a shape does not fit, or there is no view.
    """
    if alpha.ndim != 3 or azimuth.shape != alpha.shape[:1] or not len(azimuth):
        raise ValueError(
            f"alpha must be [views, height, width] with one azimuth a view, got {tuple(alpha.shape)} and "
            f"{tuple(azimuth.shape)}"
        )
    height, width = alpha.shape[1:]
    # the middles of the voxels, with the solid's sides at -1 and 1
    along = (torch.arange(width) + 0.5) / width * 2 - 1
    depth, across = torch.meshgrid(along, along, indexing="ij")
    hull = torch.ones(height, width, width)
    for view, angle in zip(alpha, torch.deg2rad(azimuth.float()), strict=True):
        column = angle.cos() * across - angle.sin() * depth
        grid = torch.stack([column, torch.zeros_like(column)], dim=-1)
        rows = grid_sample(view[:, None, None], grid.expand(height, -1, -1, -1), align_corners=False)
        hull = torch.minimum(hull, rows[:, 0])
    return hull


def mesh(color: Tensor, alpha: Tensor, azimuth: Tensor) -> Any:
    """One closed surface with a colour at each corner.

    The surface is where the visual hull is `INSIDE`, of its largest piece; a corner's colour is the mean of the views'
    pixels there, each weighing alpha max(0, cos)^6 of the angle between the surface and the view.

    Args:
        color, alpha: [V, 3, h, w] and [V, 1, h, w] of `Voxels`.
        azimuth: [V] in degrees; the four quarters must be among them, for the colours.

    Returns:
        A `trimesh.Trimesh`: y upwards, the front towards z, one unit high.

    Raises:
        ImportError: scikit-image or trimesh is missing.
        ValueError: a shape does not fit, a quarter is missing, or nothing is inside.
    """
    check_packages()
    import trimesh
    from scipy.ndimage import binary_fill_holes
    from skimage.measure import label, marching_cubes

    quarters = [int(i) for quarter in (0, 90, 180, 270) for i in (azimuth % 360 == quarter).nonzero()[:1]]
    if len(quarters) < 4:
        raise ValueError(f"azimuth must hold 0, 90, 180 and 270 for the colours, got {azimuth.tolist()}")
    hull = visual_hull(alpha[:, 0], azimuth)
    # by faces, as marching cubes joins them
    pieces = label((hull > INSIDE).numpy(), connectivity=1)
    sizes = np.bincount(pieces.ravel())[1:]
    if not len(sizes):
        raise ValueError("alpha shows nothing: no pixel is hidden by more than a half in every view")
    largest = pieces == sizes.argmax() + 1
    hull = hull.masked_fill(torch.from_numpy((pieces > 0) & ~largest), 0.0)
    # a hole inside would be a surface of its own
    hull = hull.masked_fill(torch.from_numpy(binary_fill_holes(largest) & ~largest), 1.0)
    # closed at the ends too
    corners, faces, *_ = marching_cubes(pad(hull, [1] * 6).numpy(), INSIDE)
    corners -= 1
    height, width = hull.shape[:2]
    up, depth, across = corners.T
    surface: Any = trimesh.Trimesh(
        np.stack([across - (width - 1) / 2, (height - 1) / 2 - up, (width - 1) / 2 - depth], axis=1) / height,
        faces,
        process=False,
    )
    # marching cubes orders corners by the gradient, and the axes were mirrored twice
    if surface.volume < 0:
        surface.invert()
    surface.visual.vertex_colors = _colors(
        surface, corners, torch.cat([color, alpha], dim=1)[quarters], azimuth[quarters]
    )
    return surface


def _colors(surface: Any, corners: Any, views: Tensor, azimuth: Tensor) -> Any:
    """[N, 3] bytes of the corners, from views of colour and alpha [V, 4, h, w]."""
    normal = torch.from_numpy(np.array(surface.vertex_normals)).float()
    up, depth, across = torch.from_numpy(np.array(corners)).float().T
    height, width = views.shape[-2:]
    x, z = (across + 0.5) / width * 2 - 1, (depth + 0.5) / width * 2 - 1
    row = (up + 0.5) / height * 2 - 1
    total = torch.zeros(len(row), 4)
    for view, angle in zip(views, torch.deg2rad(azimuth.float()), strict=True):
        column = angle.cos() * x - angle.sin() * z
        grid = torch.stack([column, row], dim=-1)[None, None]
        pixels = grid_sample(view[None], grid, padding_mode="border", align_corners=False)[0, :, 0].T
        # of the surface's direction, in which z points to the viewer of the front
        facing = angle.cos() * normal[:, 2] - angle.sin() * normal[:, 0]
        weight = facing.clamp_min(1e-3)[:, None] ** SHARPNESS
        total = total + weight * pixels
    # by what they hide: a surface lies where half of the background is hidden, and its colour is not half dark
    hidden = total[:, 3:].clamp_min(torch.finfo(total.dtype).tiny)
    return (total[:, :3] / hidden * 255).round().clamp(0, 255).byte().numpy()


def save_glb(surface: Any, path: Path) -> None:
    """Write a mesh of `mesh` as GLB, whole or not at all."""
    write_whole(path, surface.export(file_type="glb"))
