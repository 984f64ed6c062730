"""Where in the image the negatives acted, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import PIL.Image
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from negguide.guidance import perp_neg_shift
from negguide.integration.images import token_grid

if TYPE_CHECKING:
    from negguide.integration.trace import Trace

_SIDE = 2.1
"""Of one picture, in inches."""


def token_map(values: Tensor, latent_size: tuple[int, int], frames: int = 1) -> Tensor:
    """One value a token, [B, frames * tokens], as a map over the latents [B, h, w]; the frames' mean."""
    grid = token_grid(values.shape[1] // frames, latent_size)
    return over_latents(values.unflatten(1, (frames, *grid)).mean(dim=1), latent_size)


def over_latents(values: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """[B, rows, columns] as [B, h, w], each cell as large as it is."""
    return interpolate(values[:, None], size=latent_size, mode="nearest")[:, 0]


def shift_maps(
    uncond: Tensor,
    cond: Tensor,
    negatives: Tensor,
    weights: Tensor,
    joint: bool,
    masks: Tensor | None,
    latent_size: tuple[int, int],
) -> list[Tensor]:
    """Where each negative took something away from the guidance, [B, h, w] each.

    Formula, at each place over the channels: |w_k m_k perp(n_k, p)| / rms(|p|), the root mean square over all places;
    1 = as much as guidance does there on the whole. The arguments are those of `perp_neg_shift`.
    """
    maps = []
    direction = _lengths(cond.float() - uncond.float(), latent_size)
    scale = (
        direction.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    )
    before = torch.zeros_like(uncond, dtype=torch.float32)
    for k in range(len(negatives)):
        # what negative k adds to the shift of those before it: with `joint` that is not what it does alone
        first = slice(0, k + 1)
        until = perp_neg_shift(
            uncond, cond, negatives[first], weights[first], joint, None if masks is None else masks[first]
        ).float()
        maps.append(_lengths(until - before, latent_size) / scale)
        before = until
    return maps


def _lengths(prediction: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """|.| over the channels at each place of a prediction [B, C, h, w], [B, C, frames, h, w] or [B, tokens, C]."""
    if prediction.ndim == 3:
        return token_map(torch.linalg.vector_norm(prediction, dim=2), latent_size)
    lengths = torch.linalg.vector_norm(prediction, dim=1)
    return lengths.mean(dim=1) if lengths.ndim == 4 else lengths


def plot_maps(
    trace: Trace, images: Sequence[PIL.Image.Image], path: str | PathLike[str] | None = None
) -> PIL.Image.Image:
    """Each image, and beside it one picture a method of where it acted: the warmer the colour, the more.

    The scale of a column is the same for all images and starts at 0.

    Args:
        trace: `pipe(..., trace=True).trace`.
        images: what the same call drew.
        path: where to save the PNG as well; None = nowhere.

    Raises:
        ValueError: a trace in which nothing acted, or not as many images as it has.
    """
    from negguide.integration.trace import drawn

    if not trace.maps:
        raise ValueError("trace has no maps: nothing acted in that run")
    count = len(next(iter(trace.maps.values())))
    if len(images) != count:
        raise ValueError(f"images must be the {count} of the traced call, got {len(images)}")

    from matplotlib.figure import Figure

    columns = 1 + len(trace.maps)
    figure = Figure(figsize=(_SIDE * columns + 0.3, _SIDE * count + 1.0), dpi=110, layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0, 0].set_title("image", fontsize=10)
    for row, image in enumerate(images):
        axes[row, 0].imshow(image)
    for column, (name, maps) in enumerate(trace.maps.items(), 1):
        largest = max(float(maps.max()), torch.finfo(torch.float32).tiny)
        axes[0, column].set_title(name if len(name) <= 24 else name[:23] + "…", fontsize=10)
        for row, image in enumerate(images):
            axis, extent = axes[row, column], (0, image.width, image.height, 0)
            axis.imshow(image.convert("L"), cmap="gray", vmin=-80, vmax=335, extent=extent)
            shown = axis.imshow(
                maps[row],
                cmap="inferno",
                vmin=0,
                vmax=largest,
                alpha=0.72,
                extent=extent,
                interpolation="bilinear",
            )
        bar = figure.colorbar(shown, ax=axes[:, column], location="bottom", shrink=0.9, pad=0.02)
        bar.set_label(trace.units[name], fontsize=8)
        bar.ax.tick_params(labelsize=8)
    picture = drawn(figure)
    if path is not None:
        picture.save(path)
    return picture
