"""`python benchmarks/vlm.py --part ablation`: what each option of `negguide finetune` brings, one at a time.

A row is one of benchmarks/vlm.py with something changed, at the same steps and images, and is compared with it: the
group score's mean difference over the seeds, with that of the worst and of the best seed. Two rows are apart where
their intervals are. What is not named here changes nothing that is learned, or is what all rows have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from report import chosen_rows, print_table
from vlm_rows import BOTH, EVERY, FIGURES, KEEPING, METHODS, START, percent, pooled, rows_of, trained

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


def table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line for the start model, for every base and for every row of `ROWS`, as far as they are trained."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["method"], []).append(row)
    lines = []
    for name in filter(by_name.get, (START, *told())):
        group, *kept = (pooled(by_name[name], *FIGURES[figure]) for figure in ("group", *KEPT))
        base = ROWS[name].base if name in ROWS else ""
        compared = (base, *change(by_name[name], by_name[base])) if base in by_name else ("", "", "")
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


def change(rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The group score of ``rows`` over that of ``base``, seed by seed, and whether their intervals are apart.

    Of no seed in common there is nothing to say.
    """

    def group(row: Mapping[str, Any]) -> float:
        return Results.from_dict(row["results"]).row(*FIGURES["group"], "all").value

    before = {row["seed"]: group(row) for row in base}
    differences = [100 * (group(row) - before[row["seed"]]) for row in rows if row["seed"] in before]
    if not differences:
        return "", ""
    mean = sum(differences) / len(differences)
    one, other = (pooled(own, *FIGURES["group"]) for own in (rows, base))
    apart = one.low > other.high or one.high < other.low
    return f"{mean:+.1f} [{min(differences):+.1f}, {max(differences):+.1f}]", "yes" if apart else "no"
