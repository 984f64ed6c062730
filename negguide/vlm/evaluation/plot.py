"""Results as a picture: bars with their intervals, by category."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from negguide.vlm.evaluation.results import ALL, CATEGORIES_SHOWN, Results, Row, comparison

BLUE, GREY, DARK = "#1f6feb", "#a8b1bb", "#24292f"
REST = "without categories"
_PANEL, _BAR = 2.5, 0.26
"""Width of a panel and height of a bar, in inches."""


def plot_results(results: Sequence[Results], path: str | PathLike[str] | None = None) -> Image.Image:
    """A strip for every suite with categories, one panel a metric; a last one for all other figures. In percent.

    The last model is drawn in blue, one before it in grey. Metrics that are no proportions are left out, and so are
    those without categories in a suite that has them.

    Args:
        results: of one model, or of two that were evaluated on the same items (before, after).
        path: where to save the PNG as well; None = nowhere.

    Raises:
        ValueError: none or more than two results, or two that were evaluated on other items.
    """
    if not 1 <= len(results) <= 2:
        raise ValueError(f"results holds {len(results)} models; one or two can be drawn")
    if len(results) == 2:
        comparison(*results)
    strips = _strips(results[-1])
    heights = [
        1.1 + _BAR * len(results) * max(len(bars) for bars in panels.values()) for panels in strips.values()
    ]
    widest = max(2, *(len(panels) for panels in strips.values()))
    figure = Figure(figsize=(2.2 + _PANEL * widest, sum(heights) + 0.5), dpi=110, layout="constrained")
    parts = figure.subfigures(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, panels) in zip(parts, strips.items(), strict=True):
        part.suptitle(f"{title} (percent)", x=0.01, ha="left", fontsize=11, fontweight="bold")
        if title == REST and widest > 2:
            axes = part.subplots(1, 2, width_ratios=(2, widest - 2))
        else:
            axes = part.subplots(1, widest)
        for number, (axis, (metric, bars)) in enumerate(zip(axes, panels.items(), strict=False)):
            _draw(axis, metric, bars, results, labels=number == 0)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
    bars_of_each = [c for c in parts[0].axes[0].containers if hasattr(c, "patches")]
    figure.legend(
        bars_of_each, [entry.model for entry in results], loc="outside upper right", ncols=2, frameon=False
    )

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if path is not None:
        image.save(path, format="PNG")
    return image


def _strips(results: Results) -> dict[str, dict[str, list[tuple[str, Row]]]]:
    """Title of the strip -> title of the panel -> bars with their names."""
    strips: dict[str, dict[str, list[tuple[str, Row]]]] = {}
    rest: list[tuple[str, Row]] = []
    for suite in dict.fromkeys(row.suite for row in results.rows):
        metrics: dict[str, list[tuple[str, Row]]] = {}
        for row in results.rows:
            if row.suite == suite and row.is_proportion:
                metrics.setdefault(row.metric, []).append((row.category, row))
        panels = {metric: bars[: CATEGORIES_SHOWN + 1] for metric, bars in metrics.items() if len(bars) > 1}
        if panels:
            strips[suite] = panels
        else:
            rest += [(f"{suite}: {metric}", bars[0][1]) for metric, bars in metrics.items()]
    if rest:
        strips[REST] = {"": rest}
    return strips


def _draw(
    axis: Any, metric: str, bars: Sequence[tuple[str, Row]], results: Sequence[Results], labels: bool
) -> None:
    names, rows = [name for name, _ in bars], [row for _, row in bars]
    thick = 0.8 / len(results)
    for number, entry in enumerate(results):
        found = [entry.row(*row.key) for row in rows]
        places = np.arange(len(rows)) + (number - (len(results) - 1) / 2) * thick
        values = np.array([100 * row.value for row in found])
        errors = [
            np.maximum(0, values - [100 * row.low for row in found]),
            np.maximum(0, [100 * row.high for row in found] - values),
        ]
        axis.barh(
            places,
            values,
            thick,
            xerr=errors,
            color=BLUE if number == len(results) - 1 else GREY,
            error_kw={"ecolor": DARK, "elinewidth": 0.9, "capsize": 1.5},
        )
    axis.set_xlim(0, 104)
    axis.set_xticks(range(0, 101, 25))
    axis.tick_params(labelsize=8.5)
    axis.set_yticks(range(len(rows)), names if labels else [""] * len(rows), fontsize=9)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.set_title(metric, fontsize=10)
    if ALL in names and len(names) > 1:
        axis.axhline(0.5, color=DARK, linewidth=0.6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
