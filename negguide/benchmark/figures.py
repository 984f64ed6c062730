"""Figures of a comparison with their 95% intervals, and the paired differences between columns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negguide._utils.stats import Rate, mean, share
from negguide.benchmark.columns import CLASSIC, PLAIN, Column
from negguide.benchmark.judging import Seen
from negguide.benchmark.runner import Drawn, Run
from negguide.benchmark.suites import OVERLAP
from negguide.vlm.evaluation import metrics as student
from negguide.vlm.evaluation.metrics import DIFFERENCE_OF_COSINES

KEPT, REMOVED, BOTH, SIMILARITY = "kept", "removed", "both", "similarity"
SHARES = (KEPT, REMOVED, BOTH)
"""Figures that are shares of images; an answer that is neither yes nor no does not count as passed."""
COSINES = (-1.0, 1.0)
"""The least and the greatest similarity."""


@dataclass(frozen=True)
class Line:
    """What was measured of one column.

    Attributes:
        reason: why the column cannot act here; None when it can.
        rates: {figure: value with its interval}; without those that do not apply.
        differences: {column compared with: {figure: difference on the prompts that both have}}.
        images: how many were judged.
        unclear: how many of their answers were neither yes nor no.
        seconds: median per image, without the first call; None when there was no other.
        peak_bytes: the most memory of the GPU in a call; None where it is not measured.
        left_out: {item: why it was not possible}.
    """

    column: Column
    reason: str | None
    rates: Mapping[str, Rate]
    differences: Mapping[str, Mapping[str, Rate]]
    images: int
    unclear: int
    seconds: float | None
    peak_bytes: int | None
    left_out: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "column": self.column.name,
            "label": self.column.label,
            "not_possible": self.reason,
            **{name: rate.to_dict() for name, rate in self.rates.items()},
            "differences": {
                other: {name: rate.to_dict() for name, rate in rates.items()}
                for other, rates in self.differences.items()
            },
            "images": self.images,
            "unclear_answers": self.unclear,
            "seconds_per_image": self.seconds,
            "peak_bytes": self.peak_bytes,
            "left_out": dict(self.left_out),
        }


def lines_of(run: Run, drawn: Drawn, seen: Mapping[str, Sequence[Seen]]) -> list[Line]:
    """One line a column, in the order of the columns."""
    values = {name: _values(rows) for name, rows in seen.items()}
    rates = {
        name: {figure: _rate(figure, by_item) for figure, by_item in figures.items()}
        for name, figures in values.items()
    }
    found = []
    for column in run.columns:
        name = column.name
        others = [base for base in (PLAIN, CLASSIC) if base in seen and base != name]
        differences = {base: _differences(values[name], values[base]) for base in others}
        verdicts = [verdict for row in seen[name] for verdict in (row.kept, row.removed) if verdict]
        records = list(drawn.done[name].items())
        found.append(
            Line(
                column,
                None if seen[name] else drawn.reasons.get(name, "nothing was drawn"),
                rates[name],
                {base: figures for base, figures in differences.items() if figures},
                len(seen[name]),
                sum(verdict.passed is None for verdict in verdicts),
                _seconds(
                    [(record["seconds"] / len(task.seeds), record["first"]) for task, record in records]
                ),
                max((r["peak_bytes"] for _, r in records if r["peak_bytes"] is not None), default=None),
                drawn.left_out.get(name, {}),
            )
        )
    return found


def baseline(kind: str, lines: Sequence[Line]) -> str:
    """What methods are compared with in a table: in kind overlap the negative prompt where it can act, else plain."""
    if kind != OVERLAP:
        return PLAIN
    possible = [line.column.name for line in lines if line.reason is None]
    return CLASSIC if CLASSIC in possible else PLAIN


ByItem = Mapping[str, Sequence[float]]
"""The values of the images of each item."""


def _values(rows: Sequence[Seen]) -> dict[str, dict[str, list[float]]]:
    """{figure: {item: the values of its images}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        figures: dict[str, float | None] = {KEPT: bool(row.kept.passed), SIMILARITY: row.similarity}
        if row.removed is not None:
            figures[REMOVED] = bool(row.removed.passed)
            figures[BOTH] = bool(row.kept.passed and row.removed.passed)
        for name, value in figures.items():
            if value is not None:
                found.setdefault(name, {}).setdefault(row.task.item.id, []).append(float(value))
    return found


def _rate(figure: str, by_item: ByItem) -> Rate:
    """Mean over the items.

    Of shares the interval is Wilson's, widened to the bootstrap's over items where these have several images, for
    images of one prompt resemble each other; of similarities it is Student's over items.
    """
    means = [statistics.fmean(values) for values in by_item.values()]
    if figure not in SHARES:
        return _mean(means, COSINES)
    over_items = mean(means)
    wilson = share([bool(value) for values in by_item.values() for value in values])
    if all(len(values) == 1 for values in by_item.values()):
        return wilson
    return Rate(wilson.value, min(wilson.low, over_items.low), max(wilson.high, over_items.high), wilson.n)


def _differences(own: Mapping[str, ByItem], base: Mapping[str, ByItem]) -> dict[str, Rate]:
    """Own minus base on the items that both have."""
    found = {}
    for figure in own:
        common = [item for item in own[figure] if item in base.get(figure, {})]
        if common:
            pairs = [{item: values[figure][item] for item in common} for values in (own, base)]
            found[figure] = _difference(figure, *pairs)
    return found


def _difference(figure: str, own: ByItem, base: ByItem) -> Rate:
    """The paired difference of two columns on the same items.

    Of shares the interval is Newcombe's for paired proportions (1998, method 10), from the intervals of the two and the
    correlation of their items; unlike the bootstrap it keeps its width where all items agree. Of similarities it is
    Student's over the items' differences.
    """
    a, b = (np.array([statistics.fmean(values) for values in side.values()]) for side in (own, base))
    if figure not in SHARES:
        return _mean((a - b).tolist(), DIFFERENCE_OF_COSINES)
    spread = float(a.std() * b.std())
    together = float(((a - a.mean()) * (b - b.mean())).mean())
    # the correction for continuity, half an item
    together = max(0.0, together - 0.5 / len(a)) if together > 0 else together
    phi = together / spread if spread > 0 else 0.0
    first, second = _rate(figure, own), _rate(figure, base)
    d = first.value - second.value

    def length(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    low = length(first.value - first.low, second.high - second.value)
    high = length(first.high - first.value, second.value - second.low)
    return Rate(d, max(-1.0, d - low), min(1.0, d + high), len(a))


def _mean(values: Sequence[float], bounds: tuple[float, float]) -> Rate:
    """Mean with an interval that has a width also where there is one value, or all are equal."""
    found = student.mean(values, bounds=bounds)
    return Rate(found.value, found.low, found.high, found.n)


def _seconds(calls: Sequence[tuple[float, bool]]) -> float | None:
    """Median of (seconds, whether it was the first call of its column in a process)."""
    later = [seconds for seconds, first in calls if not first]
    return statistics.median(later) if later else None
