"""Find NegToMe's settings for an embedded model: which blocks, how strong, how long.

    python benchmarks/sweep_negtome.py
    python benchmarks/sweep_negtome.py --model toyworld-flow-turbo --alphas 1,3,10 --first-seed 50000
    python benchmarks/sweep_negtome.py --model toyworld-flow-turbo --seeds-per-place 8 --first-seed 500000

Every row is a setting with `reference="others"`; entropy and distance are to rise, fidelity to stay, time to stay near
a plain call. With `--seeds-per-place` it is one with a reference image, as in reference.py: likeness is to fall.
`diversity.py` and `reference.py` report on seeds that are none of these. The values chosen stand in
`negguide/toyworld/domain.py`. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import reference
from diversity import BATCH, PROMPTS, measure
from report import (
    arguments,
    file_stem,
    models,
    plot_rates,
    print_table,
    rows_so_far,
    steps_of,
    title_of,
    write_json,
)
from tqdm import tqdm

from negguide import NegToMe
from negguide._utils.stats import Rate
from negguide.toyworld.domain import TOYWORLD

UNET_BLOCKS = {
    "16x16": r"(down_blocks\.0|up_blocks\.1).*attn1$",
    "8x8": r"(down_blocks\.1|mid_block|up_blocks\.0).*attn1$",
    "all": "attn1$",
}
FLOW_BLOCKS = {
    "double": r"^transformer_blocks",
    "single": r"^single_transformer_blocks",
    "all": "",
}
STOPS = (0.25, 0.5)
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "push <= |x|": {"max_push": 1.0},
    "centred": {"center": True, "threshold": 0.0},
    "threshold 0.9": {"threshold": 0.9},
    "perpendicular": {"center": True, "threshold": 0.3, "perpendicular": True},
}

FIGURES = ("entropy", "distance", "fidelity")


def main() -> None:
    args = arguments(
        "Sweep of NegToMe's settings on an embedded model.",
        batches_per_prompt=1,
        first_seed=50_000,
        alphas="1,3,10",
        variants=",".join(VARIANTS),
        seeds_per_place=0,
        model=TOYWORLD,
    )
    unknown = [one for one in args.variants.split(",") if one not in VARIANTS]
    if unknown:
        raise SystemExit(f"--variants: {unknown[0]!r} is none of {', '.join(map(repr, VARIANTS))}")
    try:
        alphas = [float(alpha) for alpha in args.alphas.split(",")]
    except ValueError:
        raise SystemExit(f"--alphas must be numbers with commas between, got {args.alphas!r}") from None
    figures = reference.FIGURES if args.seeds_per_place else FIGURES
    pipe, judge = models(args.model)
    blocks = UNET_BLOCKS if hasattr(pipe, "unet") else FLOW_BLOCKS
    prompts = [p for p in PROMPTS for _ in range(args.batches_per_prompt * BATCH)]
    settings: list[tuple[str, dict[str, Any] | None]] = [("plain", None)]
    for where, alpha, stop, variant in itertools.product(blocks, alphas, STOPS, args.variants.split(",")):
        name = f"{where}, alpha {alpha:g}, stop {stop:g}" + (f", {variant}" if variant else "")
        chosen = {"blocks": blocks[where]} if blocks[where] else {}
        settings.append((name, {**chosen, "alpha": alpha, "stop": stop, **VARIANTS[variant]}))
    made = {
        "batches": len(prompts) // BATCH,
        "first_seed": args.first_seed,
        "steps": steps_of(args.model),
    }
    if args.seeds_per_place:
        made["seeds_per_place"] = args.seeds_per_place
    name = "sweep-negtome-reference" if args.seeds_per_place else "sweep-negtome"
    path = args.out / f"{file_stem(name, args.model)}.json"
    rows = rows_so_far(path, made, args.model)
    done = {row["name"] for row in rows}
    for name, values in tqdm([one for one in settings if one[0] not in done], desc="sweep"):
        start = time.perf_counter()
        if args.seeds_per_place:
            count, first = args.seeds_per_place, args.first_seed
            rates = reference.measure(pipe, judge, "plain", count, first, values)
        else:
            method = None if values is None else NegToMe("others", **values)
            found = measure(pipe, judge, prompts, prompts, args.first_seed, method)
            rates = dict(zip(FIGURES, found, strict=True))
        rows.append({"name": name, "values": values, "seconds": time.perf_counter() - start})
        rows[-1] |= {figure: rate.to_dict() for figure, rate in rates.items()}
        write_json(path, made, rows, args.model)
    bars = {row["name"]: {figure: Rate(**row[figure]) for figure in figures} for row in rows}
    lines = []
    for row, of in zip(rows, bars.values(), strict=True):
        cells = [f"{of[f].value:.3f}" if f in ("distance", "similarity") else of[f] for f in figures]
        lines.append((row["name"], *cells, f"{row['seconds']:.0f} s"))
    title = title_of("NegToMe", args.model)
    plot_rates(path.with_suffix(".png"), title, bars)
    print_table(title, ("setting", *figures, "time"), lines)


if __name__ == "__main__":
    main()
