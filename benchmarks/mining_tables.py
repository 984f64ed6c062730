"""The tables and the plot of `benchmarks/mining.py`, and its goals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import plot_rates, print_table

from negguide._utils.stats import Rate

LABELS = {"plain": "classic prompt", "negative-prompt": "classic negative prompt", "perp-neg": "Perp-Neg"}
GROUPS = ("captions", "control and negative", "original and negative")
"""What is compared in the measurement of tells."""


def show(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """The tables and the plot."""
    by_name = {row["name"]: row for row in rows}
    tried = [row for row in rows if row["name"] in LABELS]
    lines = [[LABELS[r["name"]], Rate(**r["accepted"]), Rate(**r["right"])] for r in tried]
    print_table("Edits painted once", ("method", "accepted", "right, unverified"), lines)
    bars = {
        LABELS[r["name"]]: {"accepted": Rate(**r["accepted"]), "right": Rate(**r["right"])} for r in tried
    }
    plot_rates(out / "mining.png", "Edits painted once", bars)
    made = by_name["set"]
    lines = [
        ["planned edits that are written", Rate(**made["written"])],
        ["written pairs right in four cells", Rate(**made["right"]) if made["right"] else "none"],
        ["images a second, checks and files included", f"{made['images'] / made['seconds']:.2f}"],
        ["a run with nothing left to do, of a whole one", f"{made['nothing_to_do']:.2%}"],
        ["images painted again after a stop half-way", f"{made['stopped_images']:.2%}"],
        ["computing time lost by a stop half-way", f"{made['stopped_computing']:.2%}"],
        ["peak memory", f"{made['peak_memory']:.0f} MiB"],
    ]
    print_table("A set", ("", ""), lines)
    if made["tells"] is not None:
        show_tells(made["tells"])
    fast = by_name["speed"]
    lines = [
        [name, f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"]
        for name, r in (
            ("images a second, in batches", fast["batches"]),
            ("images a second, one at a time", fast["loop"]),
            ("ratio", fast["ratio"]),
        )
    ]
    print_table("Painting", ("", ""), lines)
    lines = []
    for name in ("without NegToMe", "with NegToMe"):
        apart = by_name[name]["distance"]
        lines.append(
            [
                name,
                f"{apart['value']:.3f} [{apart['low']:.3f}, {apart['high']:.3f}]",
                Rate(**by_name[name]["right"]),
            ]
        )
    print_table("Images of one caption", ("", "mean pairwise distance", "right, unverified"), lines)
    print_table("Goals", ("", "goal", "measured", ""), goals(by_name))


def show_tells(told: dict[str, Any]) -> None:
    """The table of the best probes."""
    lines = []
    for choice, found in told.items():
        cells = [
            f"{found[g]['value']:.1%} [{100 * found[g]['low']:.1f}, {100 * found[g]['high']:.1f}] {found[g]['probe']}"
            if g in found
            else "too few"
            for g in GROUPS
        ]
        lines.append([choice, found["pairs"], *cells])
    heads = ("", "pairs", "captions", "images: painted original, negative", "images: original, negative")
    print_table("Which of the two is the negative? The best probe; chance is 50%", heads, lines)


def goals(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Each goal with what was measured, and whether it is met."""
    made, ratio = rows["set"], rows["speed"]["ratio"]["value"]
    balanced = (made["tells"] or {}).get("rebalanced, painted originals", {})
    best = [balanced[group]["value"] for group in GROUPS if group in balanced]
    said = [
        ("written pairs right in four cells", ">= 98%", made["right"] and made["right"]["value"], 0.98),
        ("planned edits that are written", ">= 90%", made["written"]["value"], 0.90),
        ("best probe, rebalanced with painted originals", "<= 55%", max(best, default=None), -0.55),
        ("painting in batches over one at a time", ">= 3.00", ratio, 3.0),
        ("computing time lost by a stop half-way", "<= 2%", made["stopped_computing"], -0.02),
    ]
    lines = []
    for name, goal, value, bound in said:
        if value is None:
            lines.append([name, goal, "too few pairs", ""])
            continue
        # a negative bound is the most that is allowed
        met = value >= bound if bound > 0 else value <= -bound
        lines.append(
            [name, goal, f"{value:.1%}" if "%" in goal else f"{value:.2f}", "met" if met else "missed"]
        )
    return lines
