"""What an evaluation found: rows with intervals, as JSON, as a table, and beside those of another model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

import negguide
from negguide.storage import write_whole
from negguide.vlm.evaluation.metrics import Estimate, difference

ALL = "all"
"""The category of a figure over all items."""
CATEGORIES_SHOWN = 16
"""A table lists no more categories than this; JSON has them all."""
PARAPHRASE_FAILURES = "paraphrase failures"
PARAPHRASE_GAP = "paraphrase gap"
LOWER_IS_BETTER = (PARAPHRASE_FAILURES, PARAPHRASE_GAP)
COMPOSITIONAL = ("text", "image", "group", "hard positives")
"""Figures of pairs that are shown beside what could have been forgotten."""
FORGETTING = ("text to image R@1", "image to text R@1")
"""Figures of retrieval; that of choices and zero-shot is called "accuracy"."""
SummaryLine = tuple[str, str, float, float]
"""Suite, figure, before, after."""


@dataclass(frozen=True)
class Row:
    """One figure with its 95% interval: a proportion in [0, 1], or a difference of cosines where the metric says so."""

    suite: str
    metric: str
    category: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, suite: str, metric: str, category: str, estimate: Estimate) -> Row:
        """A figure with its name."""
        return cls(suite, metric, category, estimate.value, estimate.low, estimate.high, estimate.n)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all other figures of a model."""
        return self.suite, self.metric, self.category

    @property
    def estimate(self) -> Estimate:
        """The value with its interval."""
        return Estimate(self.value, self.low, self.high, self.n)

    @property
    def is_proportion(self) -> bool:
        """False for a difference of cosines."""
        return self.metric != PARAPHRASE_GAP


@dataclass(frozen=True)
class Results:
    """All figures of one model.

    Attributes:
        model: its name.
        revision: of its weights.
        rows: one for every suite, metric and category.
        suites: the version of every suite.
        limit: the most items of a category that were evaluated, None = all.
        parts: of suites that were evaluated in part: which part, such as "812 of 7,511 items".
        notes: what a reader must know, such as texts that were cut.

    Raises:
        ValueError: two rows are of the same suite, metric and category.
    """

    model: str
    revision: str | None
    rows: tuple[Row, ...]
    suites: dict[str, str] = field(default_factory=dict)
    limit: int | None = None
    parts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = Counter(row.key for row in self.rows)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            suite, metric, category = twice[0]
            raise ValueError(
                f"rows hold {metric!r} of {category!r} in suite {suite!r} {counts[twice[0]]} times; a figure is listed "
                f"once"
            )

    def row(self, suite: str, metric: str, category: str = ALL) -> Row:
        """One figure.

        Raises:
            KeyError: there is none of that name.
        """
        for row in self.rows:
            if row.key == (suite, metric, category):
                return row
        raise KeyError(f"no figure {metric!r} of {category!r} in suite {suite!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it back."""
        return {**asdict(self), "made_by": {"negguide": negguide.__version__}}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Results:
        """Raises ValueError when `content` is not what `to_dict` gave."""
        try:
            names = {f.name for f in fields(cls)}
            values = {name: value for name, value in content.items() if name in names}
            values["rows"] = tuple(Row(**row) for row in values["rows"])
            values["notes"] = tuple(values["notes"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no results of negguide evaluate: {error}") from error

    def save(self, path: Path) -> None:
        """Write JSON; the file is there in whole or not at all."""
        save_json(path, self.to_dict())

    def tables(self) -> list[Table]:
        """For the terminal, in percent with 95% intervals; 80 columns are enough.

        Suites with categories have a table each, categories down and metrics across; the others, and what is over all
        categories alone, share one. Of a suite that was evaluated in part, the tables say which part.
        """
        cells = {row.key: _cell(row) for row in self.rows}
        return _tables(self, cells, f"{self.model}, percent [95% interval]")


def comparison(before: Results, after: Results) -> list[tuple[Row, Row, Estimate]]:
    """Every figure of both with its change and the change's interval.

    Raises:
        ValueError: the two were not evaluated on the same items.
    """
    if before.suites != after.suites or before.limit != after.limit:
        raise ValueError(
            f"results of other items cannot be compared: {before.model!r} was evaluated on {before.suites} "
            f"(limit {before.limit}), {after.model!r} on {after.suites} (limit {after.limit})"
        )
    old = {row.key: row for row in before.rows}
    if {row.key: row.n for row in after.rows} != {row.key: row.n for row in before.rows}:
        raise ValueError(
            f"results of other items cannot be compared: {before.model!r} and {after.model!r} have other "
            f"categories, or another number of items, under the same names"
        )
    return [(old[r.key], r, difference(r.estimate, old[r.key].estimate)) for r in after.rows]


def summary(before: Results, after: Results) -> list[SummaryLine]:
    """Compositional scores, retrieval and zero-shot side by side, before and after, over all categories."""
    old = {row.key: row.value for row in before.rows}
    shown = (*COMPOSITIONAL, "accuracy", *FORGETTING)
    return [
        (row.suite, row.metric, old[row.key], row.value)
        for row in after.rows
        if row.category == ALL and row.metric in shown and row.key in old
    ]


def comparison_tables(before: Results, after: Results) -> list[Table]:
    """The figures of `after` and their change, in points; green and red where its interval leaves out zero.

    Raises:
        ValueError: as in `comparison`.
    """
    cells = {new.key: _change(new, change) for _, new, change in comparison(before, after)}
    return _tables(after, cells, f"{after.model}, percent, and points more than {before.model}")


def save_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def _cell(row: Row) -> Text:
    if row.is_proportion:
        text = Text("100" if row.value == 1 else f"{100 * row.value:.1f}")
        return text.append(f" [{100 * row.low:.0f},{100 * row.high:.0f}]", style="dim")
    return Text(f"{row.value:.3f}").append(f" [{row.low:.3f},{row.high:.3f}]", style="dim")


def _change(new: Row, change: Estimate) -> Text:
    factor, digits = (100, 1) if new.is_proportion else (1, 3)
    low, high = (-change.high, -change.low) if new.metric in LOWER_IS_BETTER else (change.low, change.high)
    style = "bold green" if low > 0 else "bold red" if high < 0 else "dim"
    return Text(f"{factor * new.value:.{digits}f} ").append(f"{factor * change.value:+.{digits}f}", style)


def _tables(results: Results, cells: Mapping[tuple[str, str, str], Text], title: str) -> list[Table]:
    suites: dict[str, list[Row]] = {}
    for row in results.rows:
        suites.setdefault(row.suite, []).append(row)

    def named(suite: str) -> str:
        part = results.parts.get(suite.partition("/")[0])
        return f"{suite} ({part})" if part else suite

    tables, rest = [], []
    for suite, own in suites.items():
        divided = {row.metric for row in own if row.category != ALL}
        rest += [row for row in own if row.metric not in divided]
        if divided:
            rows = [row for row in own if row.metric in divided]
            tables.append(_by_category(f"{named(suite)}: {title}", rows, cells))
    if rest:
        table = _table(title)
        for heading in ("suite", "metric", "", "items"):
            table.add_column(heading, justify="left" if heading in ("suite", "metric") else "right")
        for row in rest:
            table.add_row(named(row.suite), row.metric, cells[row.key], str(row.n))
        tables.append(table)
    return tables


def _table(title: str) -> Table:
    """Without lines between columns: four metrics with their intervals fit into 80 columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _by_category(title: str, rows: Sequence[Row], cells: Mapping[tuple[str, str, str], Text]) -> Table:
    table = _table(title)
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table.add_column("category")
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("items", justify="right")
    categories = list(dict.fromkeys(row.category for row in rows))
    for category in categories[: CATEGORIES_SHOWN + 1]:
        chosen = {row.metric: row for row in rows if row.category == category}
        line = [cells[chosen[metric].key] if metric in chosen else Text() for metric in metrics]
        table.add_row(category, *line, str(next(iter(chosen.values())).n))
    if len(categories) > CATEGORIES_SHOWN + 1:
        table.add_row(f"… {len(categories) - CATEGORIES_SHOWN - 1} more in the JSON")
    return table
