"""Find the values of the methods in attention space for an embedded model: kept and removed at many of them.

    python benchmarks/sweep_attention.py --model toyworld-flow-turbo
    python benchmarks/sweep_attention.py --model toyworld-flow-turbo --methods nag --first-seed 700 --seeds-per-pair 5

The pairs are those of the suite `first` of overlap.py, and the seeds none of its: `overlap.py` reports what was chosen
here on pictures that nothing was chosen on. The values chosen stand in `negguide/toyworld/domain.py`. A run that is
stopped goes on where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from report import (
    arguments,
    call_of,
    file_stem,
    models,
    own_steps,
    print_table,
    rows_so_far,
    steps_of,
    title_of,
    write_json,
)
from suites import SUITES
from torch import Generator
from tqdm import tqdm

from negguide import NAG, NASA, ONG, VSF
from negguide._utils.stats import Rate, share
from negguide.methods.choices import methods_in_words
from negguide.toyworld.domain import TOYWORLD
from negguide.toyworld.judge import Judge

GRIDS: dict[str, list[dict[str, tuple[Any, ...]]]] = {
    NAG.key: [
        {"scale": (3.0, 5.0, 9.0), "tau": (2.5,), "alpha": (0.25, 0.5)},
        {"scale": (2.0, 3.0, 4.0, 6.0), "tau": (2.5, 5.0), "alpha": (1.0,)},
    ],
    NASA.key: [{"scale": (0.1, 0.25, 0.5, 1.0)}],
    ONG.key: [{"scale": (0.5, 1.0, 2.0, 4.0)}],
    VSF.key: [
        {"scale": (0.5, 1.0, 3.0)},
        {"scale": (1.0, 1.5, 2.0, 3.0), "orthogonal": (True,)},
    ],
}
"""{method: grids of its arguments}."""
CASES = 20
"""Prompts a call, each with its own negatives."""


def settings_of(method: str) -> Iterator[dict[str, Any]]:
    """Every point of a method's grids, as arguments."""
    for grid in GRIDS[method]:
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


def measure(
    pipe: Any, judge: Judge, method: str, values: dict[str, Any], seeds: list[int]
) -> dict[str, Rate]:
    """What is kept and removed over all pairs, with every one of the seeds; "plain" is without a method."""
    kept, removed = [], []
    kind = methods_in_words().get(method)
    every = SUITES["first"].cases()
    for start in range(0, len(every), CASES):
        cases = every[start : start + CASES]
        own = [list(case.negatives) for case in cases]
        images = pipe(
            [case.prompt for case in cases],
            num_images_per_prompt=len(seeds),
            num_inference_steps=own_steps(pipe),
            **call_of(pipe, prompts=len(cases)),
            generator=[Generator().manual_seed(seed) for _ in cases for seed in seeds],
            negative_guidance=None if kind is None else kind.per_prompt(*own, **values),
        ).images
        for case, seen in zip((case for case in cases for _ in seeds), judge.read(images), strict=True):
            kept.append(case.kept(seen))
            removed.append(case.removed(seen))
    return {"kept": share(kept), "removed": share(removed)}


def main() -> None:
    args = arguments(
        "Values of the methods in attention space.",
        model=TOYWORLD,
        methods=",".join(GRIDS),
        first_seed=500,
        seeds_per_pair=2,
    )
    chosen = args.methods.split(",")
    unknown = [name for name in chosen if name not in GRIDS]
    if unknown:
        raise SystemExit(f"--methods: {unknown[0]} is none of {', '.join(GRIDS)}")
    pipe, judge = models(args.model)
    seeds = list(range(args.first_seed, args.first_seed + args.seeds_per_pair))
    settings = {"seeds": seeds, "steps": steps_of(args.model)}
    path = args.out / f"{file_stem('sweep-attention', args.model)}.json"
    rows = rows_so_far(path, settings, args.model)
    done = [(row["method"], row["values"]) for row in rows]
    cells = [("plain", {}), *((name, values) for name in chosen for values in settings_of(name))]
    for method, values in tqdm([cell for cell in cells if cell not in done], desc="sweep"):
        rates = measure(pipe, judge, method, values, seeds)
        row = {"method": method, "values": values}
        rows.append(row | {name: rate.to_dict() for name, rate in rates.items()})
        write_json(path, settings, rows, args.model)
    lines = [
        (
            row["method"],
            ", ".join(f"{name} {value}" for name, value in row["values"].items()),
            Rate(**row["kept"]),
            Rate(**row["removed"]),
        )
        for row in rows
    ]
    print_table(
        title_of("Methods in attention space", args.model), ("method", "values", "kept", "removed"), lines
    )


if __name__ == "__main__":
    main()
