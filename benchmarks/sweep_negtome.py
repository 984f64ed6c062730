"""Find NegToMe's settings for the embedded model: which blocks, how strong, how long.

    python benchmarks/sweep_negtome.py

Every row is a batch-mode setting; entropy and distance are to rise, fidelity to stay, time to stay near plain guidance.
The values chosen stand in `negguide/models.py`.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from diversity import BATCH, PROMPTS, measure
from report import STEPS, arguments, models, plot_rates, print_table, rows_so_far, write_json
from tqdm import tqdm

from negguide import NegToMe
from negguide.toyworld.measure import Rate

BLOCKS = {
    "16x16": r"(down_blocks\.0|up_blocks\.1).*attn1$",
    "8x8": r"(down_blocks\.1|mid_block|up_blocks\.0).*attn1$",
    "all": "attn1$",
}
ALPHAS = (1.0, 3.0, 10.0)
STOPS = (0.25, 0.5)
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "push <= |x|": {"max_push": 1.0},
    "centred": {"center": True, "threshold": 0.0},
    "threshold 0.9": {"threshold": 0.9},
}

FIGURES = ("entropy", "distance", "fidelity")


def main() -> None:
    args = arguments("Sweep of NegToMe's settings on the embedded model.", batches_per_prompt=1)
    pipe, judge = models()
    prompts = [p for p in PROMPTS for _ in range(args.batches_per_prompt * BATCH)]
    settings: list[tuple[str, dict[str, Any] | None]] = [("plain", None)]
    for where, alpha, stop, variant in itertools.product(BLOCKS, ALPHAS, STOPS, VARIANTS):
        name = f"{where}, alpha {alpha:g}, stop {stop:g}" + (f", {variant}" if variant else "")
        settings.append((name, {"blocks": BLOCKS[where], "alpha": alpha, "stop": stop, **VARIANTS[variant]}))
    rows, lines = [], []
    bars: dict[str, dict[str, Rate]] = {}
    made = {"batches": len(prompts) // BATCH, "steps": STEPS}
    path = args.out / "sweep_negtome.json"
    before = {row["name"]: row for row in rows_so_far(path, made)}
    for name, values in tqdm(settings, desc="sweep"):
        if name in before:
            rows.append(before[name])
        else:
            start = time.perf_counter()
            method = None if values is None else NegToMe("others", **values)
            rates = dict(zip(FIGURES, measure(pipe, judge, prompts, prompts, 0, method), strict=True))
            rows.append({"name": name, "values": values, "seconds": time.perf_counter() - start})
            rows[-1] |= {figure: rate.to_dict() for figure, rate in rates.items()}
            write_json(path, made, rows)
        bars[name] = {figure: Rate(**rows[-1][figure]) for figure in FIGURES}
        varied, apart, faithful = bars[name].values()
        lines.append((name, varied, f"{apart.value:.3f}", faithful, f"{rows[-1]['seconds']:.0f} s"))
    plot_rates(args.out / "sweep_negtome.png", "NegToMe on the embedded model", bars)
    print_table(
        "NegToMe on the embedded model", ("setting", "entropy of fur", "distance", "fidelity", "time"), lines
    )


if __name__ == "__main__":
    main()
