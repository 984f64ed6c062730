"""What overlap.py prints and plots: names and colours of its methods, a table and curves."""

from __future__ import annotations

import textwrap
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from report import print_table

from negguide._utils.stats import Rate
from negguide.methods.choices import methods_in_words

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "negative-prompt": "negative prompt",
    "subtraction": "subtraction",
    "dng": "DNG",
    "perp-neg-auto": "Perp-Neg, auto",
    "perp-neg-economy": "Perp-Neg, auto, economy",
    **{key: method.label for key, method in methods_in_words().items()},
}
COLORS = ("#8a8f98", "#d9822b", "#0a7ea4", "#cf222e", "#1f6feb", "#2da44e", "#bf3989", "#8250df", "#9a6700")
STYLES = dict(zip(LABELS, zip(cycle(COLORS), cycle("s^X*oDvP"), strict=False), strict=False))
AXES = {
    "removed": (
        "removed",
        "unwanted attribute removed (% of images)",
        "kept",
        "everything in the prompt kept (%)",
    ),
    "several": (
        "removed",
        "all negatives removed (% of images)",
        "kept",
        "everything in the prompt kept (%)",
    ),
    "absent": (
        "relative",
        "distance to plain (% of a present negative's)",
        "unchanged",
        "judged scene unchanged (% of images)",
    ),
}
"""By kind of suite: what the plot shows from left to right and upwards."""


def value(figure: dict[str, Any] | float) -> tuple[float, float, float]:
    """(value, how far down, how far up) of a figure, in percent."""
    if isinstance(figure, float):
        return 100 * figure, 0.0, 0.0
    middle = figure["value"]
    # rounding may put the end of an interval just inside its value
    return 100 * middle, *(100 * max(0.0, gap) for gap in (middle - figure["low"], figure["high"] - middle))


def plot(rows: list[dict[str, Any]], path: Path, title: str, kind: str) -> None:
    """A curve for each method, in a panel for each number of negatives."""
    across, across_label, up, up_label = AXES[kind]
    counts = sorted({row.get("negatives", 1) for row in rows})
    figure, panels = plt.subplots(1, len(counts), figsize=(6.4 * len(counts), 4.6), squeeze=False)
    for axes, count in zip(panels[0], counts, strict=True):
        own = [row for row in rows if row.get("negatives", 1) == count]
        start = [row for row in own if row["method"] == "plain"]
        for method in dict.fromkeys(row["method"] for row in own if row["method"] != "plain"):
            color, marker = STYLES[method]
            tried = sorted(
                (row for row in own if row["method"] == method), key=lambda row: strength(row["weight"])
            )
            points = start + tried
            x = [value(row[across])[0] for row in points]
            y, down, above = zip(*(value(row[up]) for row in points), strict=True)
            axes.errorbar(
                x,
                y,
                yerr=[down, above],
                color=color,
                marker=marker,
                label=LABELS[method],
                capsize=2,
                elinewidth=0.8,
            )
            for row, a, b in zip(tried, x[len(start) :], y[len(start) :], strict=True):
                axes.annotate(
                    weight_text(row["weight"]),
                    (a, b),
                    textcoords="offset points",
                    xytext=(4, 5),
                    fontsize=8,
                    color=color,
                )
        axes.set_xlabel(across_label)
        axes.set_ylabel(up_label)
        said = title if count == 1 else f"{title}, {count} negatives"
        axes.set_title(textwrap.fill(said, 75), fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(f"wrote {path}")


def strength(weight: float | str) -> float:
    """For the order of a curve's points: "auto" comes first."""
    return -1.0 if isinstance(weight, str) else weight


def weight_text(weight: float | str) -> str:
    return weight if isinstance(weight, str) else f"{weight:g}"


def show(rows: list[dict[str, Any]], title: str) -> None:
    """The rows on the terminal."""
    figures = [name for name in rows[0] if name not in ("method", "weight", "negatives")]
    counted = "negatives" in rows[0]
    columns = ["method", "weight", *(["negatives"] if counted else []), *figures]
    lines = []
    for row in rows:
        cells = [row[name] for name in figures]
        line = [LABELS.get(row["method"], row["method"]), weight_text(row["weight"])]
        line += [row["negatives"]] if counted else []
        lines.append([*line, *(cell_text(name, cell) for name, cell in zip(figures, cells, strict=True))])
    print_table(title, columns, lines)


def cell_text(name: str, figure: Any) -> str:
    if "distance" in name:
        return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"
    return f"{100 * figure:.1f}%" if isinstance(figure, float) else str(Rate(**figure))
