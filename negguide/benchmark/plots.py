"""Pictures of a comparison: what is kept against what is removed, and the images themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from PIL import Image, ImageDraw, ImageFont

from negguide._utils.stats import Rate
from negguide.benchmark.columns import PLAIN, Column
from negguide.benchmark.figures import KEPT, REMOVED, SHARES, SIMILARITY, Line
from negguide.benchmark.suites import DIVERSITY, OVERLAP, REFERENCE, Item
from negguide.image_files import read_image
from negguide.pictures import MIN_CELL, grid

if TYPE_CHECKING:
    from negguide.benchmark.judging import Seen
    from negguide.benchmark.report import Report

ROWS = 8
"""Prompts on a contact sheet."""
LARGEST = 288
"""Images wider than this are shrunk to it on the sheet."""

GREY, DARK = "#6e7681", "#24292f"
COLORS = ("#d9822b", "#1f6feb", "#2da44e", "#bf3989", "#8250df", "#0a7ea4", "#9a6700", "#cf222e")
MARKERS = "sD^vPX*p"
_ASIDE = 8.0
"""How far apart points that lie on each other are drawn, in points of 1/72 inch."""
_X = {
    OVERLAP: (REMOVED, "images without what the negative names (%)"),
    DIVERSITY: (SIMILARITY, "similarity of the images of one prompt (less is more varied)"),
    REFERENCE: (SIMILARITY, "similarity to the reference (less is further away)"),
}
_GOOD, _BAD, _OPEN = (26, 127, 55), (207, 34, 46), (110, 118, 129)


def scatter(report: Report) -> Image.Image:
    """A point a column with its 95% intervals; the strengths of one method are joined by a line."""
    x_name, x_label = _X[report.run.suite.kind]
    lines = [line for line in report.lines if x_name in line.rates and KEPT in line.rates]
    figure = Figure(figsize=(8.6, 5.4), dpi=130)
    axes = figure.add_axes((0.08, 0.11, 0.7, 0.75))
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25)
    keys = [key for key in dict.fromkeys(line.column.key for line in lines) if key != PLAIN]
    taken: Counter[tuple[float, float]] = Counter()
    for key in (PLAIN, *keys):
        own = [line for line in lines if line.column.key == key]
        if not own:
            continue
        number = 0 if key == PLAIN else keys.index(key)
        color = GREY if key == PLAIN else COLORS[number % len(COLORS)]
        marker = "o" if key == PLAIN else MARKERS[number % len(MARKERS)]
        x, x_bars = _points([line.rates[x_name] for line in own], x_name)
        y, y_bars = _points([line.rates[KEPT] for line in own], KEPT)
        axes.errorbar(
            x,
            y,
            xerr=x_bars,
            yerr=y_bars,
            fmt="none",
            ecolor=color,
            alpha=0.45,
            elinewidth=1.4,
            capsize=2.5,
        )
        if len(own) > 1:
            axes.plot(x, y, linewidth=1.4, color=color)
        label = own[0].column.label if len(own) == 1 else Column(key).label
        for across, up in zip(x, y, strict=True):
            place = (round(across, 3), round(up, 3))
            # what lies on another point is moved aside, as far as it takes to see both; its bars are not
            aside = ScaledTranslation(-_ASIDE / 72 * taken[place], 0, figure.dpi_scale_trans)
            taken[place] += 1
            axes.plot(
                [across],
                [up],
                linestyle="none",
                color=color,
                marker=marker,
                markersize=9,
                markeredgecolor="white",
                label=label,
                zorder=3,
                transform=axes.transData + aside,
            )
            label = ""
        if len(own) > 1:
            _strengths(axes, own, x, y, color)
    axes.set_xlabel(x_label)
    axes.set_ylabel("images that show what the prompt asks for (%)")
    axes.set_ylim(-3, 103)
    if x_name in SHARES:
        axes.set_xlim(-3, 103)
    else:
        # better is to the right on every plot
        axes.invert_xaxis()
    axes.text(1.03, 0.0, "better: up, and\nto the right", transform=axes.transAxes, fontsize=9, color=GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, borderaxespad=0)
    what, how, _ = report.about
    who = f"judge {_short(report.judge.name)}, similarity {_short(report.similarity.name)}"
    figure.text(0.015, 0.945, _cut(what, 90), fontsize=10.5, fontweight="bold", color=DARK)
    figure.text(0.015, 0.9, _cut(f"{how.partition(', negguide')[0]}; {who}", 130), fontsize=8, color=GREY)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def contact_sheet(report: Report) -> Image.Image:
    """The first image of some prompts, spread over the suite: rows are prompts, columns what is compared.

    A bar below each image says what the judge found.
    """
    run = report.run
    lines = [line for line in report.lines if line.reason is None]
    items = run.suite.items
    step = max(1, len(items) / ROWS)
    chosen = [items[int(i * step)] for i in range(min(ROWS, len(items)))]
    wide = run.suite.kind == DIVERSITY
    heads = [line.column.label for line in lines]
    rows = [[_cell(report, line, item, wide) for line in lines] for item in chosen]
    if run.suite.kind == REFERENCE:
        heads = ["reference", *heads]
        rows = [
            [_with_bar(read_image(run.reference_paths(item)[0]), ()), *row]
            for item, row in zip(chosen, rows, strict=True)
        ]
    about = report.about
    return grid(
        _one_size(rows),
        row_labels=[_row_label(item) for item in chosen],
        column_labels=heads,
        title=about[0].partition(" (revision")[0] + f", suite {run.suite.name}",
        footer="\n".join(about[1:]),
    )


def _cell(report: Report, line: Line, item: Item, wide: bool) -> Image.Image:
    seen = [row for row in report.seen[line.column.name] if row.task.item == item]
    if not seen:
        return _with_bar(Image.new("RGB", (MIN_CELL, MIN_CELL), "#eaeef2"), [("not possible", _OPEN)])
    if not wide:
        return _shown(report, seen[0])
    images = [_fit(read_image(report.run.out / row.task.image(row.seed))) for row in seen[:4]]
    width, height = images[0].size
    # four images of a prompt as a block
    together = Image.new("RGB", (2 * width + 4, 2 * height + 4), "white")
    for place, image in enumerate(images):
        together.paste(image, (place % 2 * (width + 4), place // 2 * (height + 4)))
    alike = [row.similarity for row in seen if row.similarity is not None]
    said = f"alike {sum(alike) / len(alike):.2f}" if alike else ""
    kept = sum(bool(row.kept.passed) for row in seen)
    color = _GOOD if kept == len(seen) else _BAD
    return _with_bar(together, [(f"kept {kept}/{len(seen)}", color), (said, _OPEN)])


def _shown(report: Report, row: Seen) -> Image.Image:
    parts = [("kept", row.kept)] + ([] if row.removed is None else [("removed", row.removed)])
    said = []
    for name, verdict in parts:
        color = _OPEN if verdict.passed is None else _GOOD if verdict.passed else _BAD
        text = f"{name}?" if verdict.passed is None else name if verdict.passed else f"not {name}"
        said.append((text, color))
    if report.run.suite.kind == REFERENCE and row.similarity is not None:
        said.append((f"{row.similarity:.2f}", _OPEN))
    return _with_bar(read_image(report.run.out / row.task.image(row.seed)), said)


def _with_bar(image: Image.Image, said: Sequence[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """The image, and below it words in their colours."""
    image = _fit(image)
    size = max(11, round(image.width / 15))
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    height = round(1.7 * size)
    cell = Image.new("RGB", (image.width, image.height + height), "white")
    cell.paste(image)
    draw = ImageDraw.Draw(cell)
    x = 1.0
    for text, color in said:
        draw.text((x, image.height + height / 2), text, color, font, anchor="lm")
        x += font.getlength(text) + size
    return cell


def _fit(image: Image.Image) -> Image.Image:
    """Large images smaller, small ones larger by a whole factor."""
    if image.width > LARGEST:
        height = max(1, round(image.height * LARGEST / image.width))
        return image.resize((LARGEST, height), Image.Resampling.LANCZOS)
    factor = -(-MIN_CELL // image.width)
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC)


def _one_size(rows: Sequence[Sequence[Image.Image]]) -> list[list[Image.Image]]:
    """All cells as large as the largest, with white around: references may have any shape."""
    width, height = (max(image.size[axis] for row in rows for image in row) for axis in (0, 1))
    found = []
    for row in rows:
        cells = []
        for image in row:
            cell = Image.new("RGB", (width, height), "white")
            cell.paste(image, ((width - image.width) // 2, 0))
            cells.append(cell)
        found.append(cells)
    return found


def _row_label(item: Item) -> str:
    return f"{item.prompt}\n− {item.negative}" if item.negative else item.prompt


def _points(rates: Sequence[Rate], name: str) -> tuple[list[float], list[list[float]]]:
    """Values, and how far their intervals reach below and above."""
    factor = 100 if name in SHARES else 1
    # rounding may put the end of an interval just inside its value
    bars = [
        [factor * max(0.0, rate.value - rate.low) for rate in rates],
        [factor * max(0.0, rate.high - rate.value) for rate in rates],
    ]
    return [factor * rate.value for rate in rates], bars


def _strengths(axes: Any, lines: Sequence[Line], x: Sequence[float], y: Sequence[float], color: str) -> None:
    for line, across, up in zip(lines, x, y, strict=True):
        text = "its own" if line.column.strength is None else f"{line.column.strength:g}"
        axes.annotate(text, (across, up), textcoords="offset points", xytext=(7, 6), fontsize=9, color=color)


def _short(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
