"""Where in the image the negatives acted, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import PIL.Image
import torch

if TYPE_CHECKING:
    from negguide.integration.diagnostics.trace import Trace

_SIDE = 2.1
"""Of one picture, in inches."""


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
    from negguide.integration.diagnostics.trace import drawn

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
