"""Views that the world seldom shows: does the character turn round when it is asked to?

    python benchmarks/views.py

"a bear in back view" for all kinds, plain and with "front view" as the negative. Right means that the judge sees
one character of that kind from the side that was asked for. A run that is stopped goes on where it was.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from report import (
    STEPS,
    Subtraction,
    arguments,
    models,
    plot_rates,
    print_table,
    rows_so_far,
    write_json,
)
from tqdm import tqdm

from negguide import Negative, PerpNeg
from negguide._utils.stats import Rate, share
from negguide.toyworld import KINDS, parse
from negguide.toyworld.domain import TOYWORLD_DEFAULTS
from negguide.toyworld.measure import agreement

NEGATIVE = "front view"
WEIGHTS = (1.0, 2.0, 3.0)
GUIDANCE_SCALE = TOYWORLD_DEFAULTS.guidance_scale


def draw(pipe: Any, method: str, prompt: str, weight: float, seeds: list[int]) -> list[Image.Image]:
    """One image a seed."""
    extra: dict[str, Any] = {}
    if method == "negative prompt":
        extra["negative_prompt"] = [NEGATIVE] * len(seeds)
    elif method != "plain":
        rule = Subtraction if method == "subtraction" else PerpNeg
        extra["negative_guidance"] = rule(Negative(NEGATIVE, weight=weight, start=0.0, stop=1.0))
    images: list[Image.Image] = pipe(
        [prompt] * len(seeds),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **extra,
    ).images
    return images


def main() -> None:
    args = arguments("Side and back views, plain and with negatives.", seeds_per_kind=40)
    pipe, judge = models()
    weighted = [(method, weight) for method in ("subtraction", "Perp-Neg") for weight in WEIGHTS]
    cells = [
        (view, method, weight)
        for view in ("side", "back")
        for method, weight in [("plain", 0.0), ("negative prompt", 1.0), *weighted]
    ]
    settings = {
        "negative": NEGATIVE,
        "seeds_per_kind": args.seeds_per_kind,
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
    }
    path = args.out / "views.json"
    rows = rows_so_far(path, settings)
    done = {(row["view"], row["method"], row["weight"]) for row in rows}
    for view, method, weight in tqdm([cell for cell in cells if cell not in done], desc="views"):
        right, kind_right = [], []
        for number, kind in enumerate(KINDS):
            prompt = f"a {kind} in {view} view"
            seeds = [1000 * number + i for i in range(args.seeds_per_kind)]
            for seen in judge.read(draw(pipe, method, prompt, weight, seeds)):
                facts = agreement(parse(prompt), seen)
                right.append(all(facts.values()))
                kind_right.append(facts["kind0"])
        figures = {"right": share(right).to_dict(), "kind": share(kind_right).to_dict()}
        rows.append({"view": view, "method": method, "weight": weight, **figures})
        write_json(path, settings, rows)
    columns = ("view", "method", "weight", "view and kind right", "kind right")
    lines = [
        (row["view"], row["method"], f"{row['weight']:g}", Rate(**row["right"]), Rate(**row["kind"]))
        for row in rows
    ]
    print_table("Asked-for views", columns, lines)
    bars = {
        f"{view}, {method} {weight if method != 'plain' else ''}": {columns[3]: right, columns[4]: kind}
        for view, method, weight, right, kind in lines
    }
    plot_rates(args.out / "views.png", "Asked-for views", bars)


if __name__ == "__main__":
    main()
