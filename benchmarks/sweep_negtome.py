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
from report import arguments, models, plot_rates, print_table, write_json
from tqdm import tqdm

from negguide import NegToMe
from negguide.toyworld.measure import Rate

BLOCKS = {
    "16x16": r"(down_blocks\.0|up_blocks\.1).*attn1$",
    "8x8": r"(down_blocks\.1|mid|up_blocks\.0).*attn1$",
    "all": "attn1$",
}
ALPHAS = (3.0, 10.0, 20.0)
STOPS = (0.2, 0.5)
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "centred": {"center": True, "threshold": 0.0},
    "push <= |x|": {"max_push": 1.0},
    "centred, push <= |x|": {"center": True, "threshold": 0.0, "max_push": 1.0},
}


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
    for name, values in tqdm(settings, desc="sweep"):
        start = time.perf_counter()
        method = None if values is None else NegToMe("others", **values)
        varied, apart, faithful = measure(pipe, judge, prompts, prompts, 0, method)
        seconds = time.perf_counter() - start
        rows.append({"name": name, "values": values, "seconds": seconds})
        bars[name] = {"entropy": varied, "distance": apart, "fidelity": faithful}
        rows[-1] |= {figure: rate.to_dict() for figure, rate in bars[name].items()}
        lines.append((name, varied, f"{apart.value:.3f}", faithful, f"{seconds:.0f} s"))
        write_json(args.out / "sweep_negtome.json", {"batches": len(prompts) // BATCH}, rows)
    plot_rates(args.out / "sweep_negtome.png", "NegToMe on the embedded model", bars)
    print_table(
        "NegToMe on the embedded model", ("setting", "entropy of fur", "distance", "fidelity", "time"), lines
    )


if __name__ == "__main__":
    main()
