"""Time and peak memory over plain classifier-free guidance.

    python benchmarks/cost.py

Each method runs in alternation with plain guidance in one process; the ratio is the median over the pairs. Memory is
the largest sum of live tensor bytes that PyTorch's allocator reports (CPU: through the profiler), over the plain run's.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from report import arguments, models, plot_rates, print_table, write_json
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from negguide import Negative, NegToMe, PerpNeg
from negguide.models import TOYWORLD_DEFAULTS
from negguide.toyworld.measure import Rate

PROMPT = "a bear wearing glasses"
NEGATIVES = ("black glasses", "brown fur", "a hat", "back view")
IMAGES = 4
STEPS = 20


def cases() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for count in (1, 2, 4):
        rows[f"Perp-Neg K={count}, default window"] = PerpNeg(*NEGATIVES[:count])
        rows[f"Perp-Neg K={count}, whole run"] = PerpNeg(*(Negative(n, stop=1.0) for n in NEGATIVES[:count]))
    rows["NegToMe others, embedded model's values"] = NegToMe("others", **TOYWORLD_DEFAULTS.negtome)
    rows["NegToMe others, published values"] = NegToMe("others")
    return rows


def run(pipe: Any, guidance: Any) -> float:
    generators = [torch.Generator().manual_seed(i) for i in range(IMAGES)]
    start = time.perf_counter()
    pipe(
        PROMPT,
        num_images_per_prompt=IMAGES,
        num_inference_steps=STEPS,
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        generator=generators,
        negative_guidance=guidance,
    )
    return time.perf_counter() - start


def peak_bytes(pipe: Any, guidance: Any) -> int:
    """Largest sum of bytes allocated and not yet freed during one run."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run(pipe, guidance)
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def main() -> None:
    args = arguments("Cost of negatives over plain guidance.", pairs=9)
    pipe, _ = models()
    run(pipe, None)
    base_peak = peak_bytes(pipe, None)
    rows, lines = [], []
    bars: dict[str, dict[str, Rate]] = {}
    for name, guidance in tqdm(cases().items(), desc="cost"):
        run(pipe, guidance)
        ratios = []
        for i in range(args.pairs):
            # The order alternates, so that a drift of the machine's speed falls on both.
            first, second = (None, guidance) if i % 2 else (guidance, None)
            a, b = run(pipe, first), run(pipe, second)
            ratios.append(a / b if first is guidance else b / a)
        quartiles = statistics.quantiles(ratios, n=4)
        bars[name] = {"ratio": Rate(quartiles[1], quartiles[0], quartiles[2], len(ratios))}
        memory = peak_bytes(pipe, guidance) / base_peak
        rows.append({"name": name, "ratio": statistics.median(ratios), "ratios": ratios, "memory": memory})
        lines.append((name, f"{quartiles[1]:.2f} [{quartiles[0]:.2f}, {quartiles[2]:.2f}]", f"{memory:.2f}"))
    columns = ("method", "time over CFG (median, quartiles)", "peak memory over CFG")
    print_table(f"{IMAGES} images, {STEPS} steps, {args.threads} threads", columns, lines)
    settings = {"images": IMAGES, "steps": STEPS, "pairs": args.pairs, "threads": args.threads}
    write_json(args.out / "cost.json", settings, rows)
    plot_rates(args.out / "cost.png", "Time over plain guidance (median, quartiles)", bars)


if __name__ == "__main__":
    main()
