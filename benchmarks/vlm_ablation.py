"""`python benchmarks/vlm.py --part ablation`: what each option of `negguide finetune` brings, one at a time.

A row is one of benchmarks/vlm.py with something changed, at the same steps and images, and is compared with it: the
mean difference over the seeds that both have. Its interval is Newcombe's for proportions that have nothing in common,
widened to the worst and the best seed; as all rows answer the same questions, the true one is narrower. Two rows are
apart where it leaves out zero. What is not named here changes nothing that is learned, or is what all rows have in
common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from report import chosen_rows, plt, print_table
from vlm_rows import BOTH, EVERY, FIGURES, KEEPING, METHODS, START, percent, pooled, rows_of, trained

from negguide._utils.stats import Rate
from negguide.vlm.evaluation.metrics import Estimate, difference
from negguide.vlm.evaluation.results import Results
from negguide.vlm.evaluation.suites.base import Suite

TRIPLET = "triplet"
KEPT = ("hard positives", "retrieval R@1", "zero-shot")
"""Figures of the table beside the group score."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        base: the row that it is compared with, and whose settings it has but for the next.
        changes: settings that differ.
    """

    base: str
    changes: Mapping[str, Any] = field(default_factory=dict)


ROWS: Mapping[str, Row] = {
    # which rows share a batch
    "refreshed every 100 steps": Row(BOTH, {"refresh_negatives": 100}),
    "refreshed every 25 steps": Row(BOTH, {"refresh_negatives": 25}),
    "refreshed by a quarter": Row("refreshed every 100 steps", {"refresh_fraction": 0.25}),
    "refreshed, nothing held back": Row("refreshed every 100 steps", {"refresh_false_negatives": 2.0}),
    "anti-forgetting, refreshed": Row(KEEPING, {"refresh_negatives": 100}),
    "no curriculum": Row(BOTH, {"curriculum": ""}),
    "groups of two": Row(BOTH, {"group_size": 2}),
    # what is a positive, and what a negative
    "no paraphrases": Row(BOTH, {"paraphrases": False}),
    "synthetic negatives (MoCHi)": Row(BOTH, {"mix_pairs": 16, "mix_queries": 8, "mix_hardest": 16}),
    "continuous weights (CWCL)": Row(BOTH, {"continuous": True}),
    "anti-forgetting, continuous weights (CWCL)": Row(KEEPING, {"continuous": True}),
    "false negatives masked": Row(BOTH, {"false_negative_fraction": 0.95}),
    "anti-forgetting, false negatives masked": Row(KEEPING, {"false_negative_fraction": 0.95}),
    "anti-forgetting, false negatives halved": Row(
        "anti-forgetting, false negatives masked", {"false_negative_weight": 0.5}
    ),
    # how much each pair counts
    "labels smoothed": Row(BOTH, {"smoothing": 0.1}),
    "focal": Row(BOTH, {"focal": 2.0}),
    "Dice": Row(BOTH, {"dice": True}),
    "Dice, focal": Row("Dice", {"focal": 1.0}),
    # other losses of both negatives
    TRIPLET: Row(BOTH, {"loss": "triplet"}),
    "triplet, refreshed": Row(TRIPLET, {"refresh_negatives": 100}),
    "triplet, rank margin": Row(TRIPLET, {"rank_margin": 0.1}),
    "triplet, heavy rank margin": Row("triplet, rank margin", {"rank_weight": 5.0}),
    "conclip": Row(TRIPLET, {"loss": "conclip"}),
    # against forgetting, without further pairs
    "distilled": Row(BOTH, {"distill": 1.0}),
    "interpolated": Row(BOTH, {"wise_ft": 0.9}),
    "image tower locked": Row(BOTH, {"lock_image": True}),
    "text tower locked": Row(BOTH, {"lock_text": True}),
    "low-rank updates": Row(BOTH, {"lora": 8}),
}
"""By name; a base is one of `METHODS` or comes before."""
GROUPED_ALONE = ("group_size", "group_fraction")
"""Settings of the loss "grouped", which rows of another loss do not have."""


def settings_of(name: str) -> dict[str, Any]:
    """What `negguide.vlm.finetune` is told in a row."""
    if name in METHODS:
        return {**EVERY, **METHODS[name]}
    told = {**settings_of(ROWS[name].base), **ROWS[name].changes}
    return {
        key: value for key, value in told.items() if told["loss"] == "grouped" or key not in GROUPED_ALONE
    }


def method_of(name: str) -> str:
    """The method whose set a row is trained on."""
    return name if name in METHODS else method_of(ROWS[name].base)


def methods() -> tuple[str, ...]:
    """The methods whose sets and rows are needed: the first bases."""
    return tuple(dict.fromkeys(method_of(name) for name in ROWS))


def told() -> dict[str, dict[str, Any]]:
    """What every row is told, bases first."""
    return {name: settings_of(name) for name in (*methods(), *ROWS)}


def run(
    path: Path,
    settings: Mapping[str, Any],
    work: Path,
    sets: Mapping[str, Path],
    suites: Sequence[Suite],
    seeds: int,
    training: Mapping[str, Any],
    only: str = "",
) -> None:
    """Train and measure what is not there yet, and print the table.

    Args:
        path: of the result.
        settings: of the benchmark.
        work: where the trained models stay; those of benchmarks/vlm.py are not trained again.
        sets: by method.
        suites: what is measured.
        seeds: how many.
        training: steps, images and learning rate of all rows.
        only: a regular expression of the rows that are trained.
    """

    def job(name: str, seed: int) -> dict[str, Any]:
        found = trained(work, sets[method_of(name)], settings_of(name), seed, suites, **training)
        return {"method": name, **found}

    jobs = {name: partial(job, name) for name in chosen_rows(list(told()), only)}
    rows = rows_of(path, settings, suites, seeds, jobs)
    title = "One option at a time: percent of held-out items"
    print_table(title, ("row", "seeds", "group", "over", "change", "apart", *KEPT), table(rows))
    plot(path.with_suffix(".png"), rows)


def table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line for the start model, for every base and for every row of `ROWS`, as far as they are trained."""
    by_name = _by_name(rows)
    lines = []
    for name in filter(by_name.get, (START, *told())):
        group, *kept = (pooled(by_name[name], *FIGURES[figure]) for figure in ("group", *KEPT))
        found = _change_of(name, by_name, "group")
        compared = ("", "", "")
        if found is not None:
            signed = "{:+.1f} [{:+.1f}, {:+.1f}]".format(
                *(100 * end for end in (found.value, found.low, found.high))
            )
            compared = (ROWS[name].base, signed, "no" if found.low <= 0 <= found.high else "yes")
        lines.append(
            (
                name,
                str(len(by_name[name])),
                percent(group),
                *compared,
                *(f"{100 * rate.value:.1f}" for rate in kept),
            )
        )
    return lines


def plot(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What every trained row changes, in points, with its interval: one panel a figure, the rows of one base together.

    Where no row has its base beside it, there is nothing to draw.
    """
    by_name = _by_name(rows)
    trained_too = [name for name in ROWS if _change_of(name, by_name, "group") is not None]
    if not trained_too:
        return
    bases = list(dict.fromkeys(ROWS[name].base for name in trained_too))
    names = [name for base in bases for name in trained_too if ROWS[name].base == base]
    figures = ("group", *KEPT)
    size = (2.4 * len(figures) + 4.4, 0.26 * len(names) + 1.3)
    canvas, panels = plt.subplots(
        1, len(figures), sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    for panel, figure in zip(panels[0], figures, strict=True):
        for place, name in enumerate(names):
            found = _change_of(name, by_name, figure)
            assert found is not None  # a row has all figures
            # grey where zero is inside
            color = "#8b949e" if found.low <= 0 <= found.high else "#1f6feb"
            panel.plot([100 * found.low, 100 * found.high], [place, place], color=color, linewidth=1.5)
            panel.plot(100 * found.value, place, "o", color=color, markersize=4)
        panel.axvline(0, color="#24292f", linewidth=0.8)
        panel.set_title(f"{figure}, points", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(axis="y", length=0)
    labels = [f"{name}  (over: {ROWS[name].base})" for name in names]
    panels[0][0].set_yticks(range(len(names)), labels, fontsize=8)
    panels[0][0].set_ylim(len(names) - 0.4, -0.6)
    for first in (i for i in range(1, len(names)) if ROWS[names[i]].base != ROWS[names[i - 1]].base):
        for panel in panels[0]:
            panel.axhline(first - 0.5, color="#d0d7de", linewidth=0.8)
    canvas.suptitle(
        "What one option of fine-tuning changes at equal steps (blue: zero is outside its interval)"
    )
    canvas.savefig(path, dpi=120)
    plt.close(canvas)
    print(f"wrote {path}")


def change(rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], figure: str) -> Rate | None:
    """A figure of ``rows`` over that of ``base``, with its interval; None where they have no seed in common."""
    common = {row["seed"] for row in rows} & {row["seed"] for row in base}
    if not common:
        return None
    own, other = ({row["seed"]: row for row in side if row["seed"] in common} for side in (rows, base))

    def value(row: Mapping[str, Any]) -> float:
        return Results.from_dict(row["results"]).row(*FIGURES[figure], "all").value

    differences = [value(own[seed]) - value(other[seed]) for seed in common]
    after, before = (pooled(list(side.values()), *FIGURES[figure]) for side in (own, other))
    found = difference(*(Estimate(rate.value, rate.low, rate.high, rate.n) for rate in (after, before)))
    return Rate(found.value, min(found.low, *differences), max(found.high, *differences), found.n)


def _change_of(name: str, by_name: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> Rate | None:
    """That of a row over its base, where it has one and both are trained."""
    if name not in ROWS or not {name, ROWS[name].base} <= by_name.keys():
        return None
    return change(by_name[name], by_name[ROWS[name].base], figure)


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found
