"""Time per step and peak memory of the methods on a GPU: SDXL and FLUX.1-dev at 1024 px in their real shapes.

    python benchmarks/gpu.py

The weights are random, for neither time nor memory depends on them; text encoders have one layer, for they run once a
call. Four images of one prompt in bfloat16, every method acting at every step. Each method runs in alternation with its
base, the same call without negatives, in one process; the ratio is the median over the pairs of runs, of all steps but
the first. NegToMe is measured with the kernel, with the tiles of PyTorch, and with the similarities of all pairs of
tokens in one matrix; the three also by themselves, on tokens of the models' shapes, with the matrix as their base.

Without a CUDA GPU it ends with code 2, but `--tiny` runs small shapes of the same architectures on the CPU, to check
the script. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
from gpu_models import MODELS, NEGATIVE, PROMPT, Model
from report import RESULTS, plot_rates, print_table, rows_so_far, write_json
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

import negguide
from negguide import NAG, Negative, NegToMe, PerpNeg
from negguide._utils.stats import Rate
from negguide.guidance.matching import match_each, match_tiled

IMAGES = 4

# ---- Methods --------------------------------------------------------------------------------------------------------

Matching = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def matrix(source: Tensor, reference: Tensor, reference_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The formula of NegToMe (arXiv 2412.01339) as it stands: the N x M cosines, and the best of each row."""
    if reference_mask is not None:
        raise ValueError("reference_mask must be None here: what it is compared with has none")
    rows, columns = normalize(source, dim=-1), normalize(reference, dim=-1)
    cosine, index = torch.bmm(rows, columns.transpose(1, 2)).max(dim=-1)
    return cosine, index


def tiles(source: Tensor, reference: Tensor, reference_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return match_tiled(source, reference, reference_mask, 1024)


def kernel(source: Tensor, reference: Tensor, reference_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    from negguide.guidance.matching_triton import match_fused

    return match_fused(source, reference, reference_mask)


MATCHING: dict[str, Matching] = {"one matrix": matrix, "tiles": tiles, "kernel": kernel}


@dataclass(frozen=True)
class Case:
    """A row: what is called, and the share of the steps in which the method acts as it is published."""

    name: str
    method: Any
    window: float
    guided: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    matching: str | None = None


def cases(model: Model, ways: list[str]) -> list[Case]:
    perp_neg = PerpNeg(Negative(NEGATIVE, stop=1.0))
    window = PerpNeg.default_stop
    assert isinstance(window, float)
    negtome = NegToMe("others", alpha=0.9, threshold=model.threshold, stop=1.0)
    return [
        Case("Perp-Neg, in one batch", perp_neg, window, guided=True),
        Case("Perp-Neg, one by one", perp_neg, window, guided=True, options={"max_branch_batch": 1}),
        *(Case(f"NegToMe, {way}", negtome, model.window, matching=way) for way in ways),
        Case("NAG", NAG(NEGATIVE), 1.0),
    ]


# ---- Measuring ------------------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_seconds(pipe: Any, call: dict[str, Any], device: torch.device, steps: int, size: int) -> float:
    """Mean seconds of the steps after the first."""
    ends: list[float] = []

    def on_step_end(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        synchronize(device)
        ends.append(time.perf_counter())
        return tensors

    pipe(
        PROMPT,
        height=size,
        width=size,
        num_images_per_prompt=IMAGES,
        num_inference_steps=steps,
        generator=torch.Generator(device).manual_seed(0),
        output_type="latent",
        callback_on_step_end=on_step_end,
        **call,
    )
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def match_seconds(match: Matching, source: Tensor, reference: Tensor, repeats: int = 10) -> float:
    synchronize(source.device)
    start = time.perf_counter()
    for _ in range(repeats):
        match(source, reference, None)
    synchronize(source.device)
    return (time.perf_counter() - start) / repeats


def compare(
    base: Callable[[], float], method: Callable[[], float], device: torch.device, pairs: int
) -> dict[str, Any]:
    """Seconds and peak bytes of both, and the ratio of their times for each pair of runs."""

    def peak(run: Callable[[], float]) -> int | None:
        """Of a run that also warms up: kernels are compiled, libraries take their workspaces."""
        if device.type != "cuda":
            run()
            return None
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return int(torch.cuda.max_memory_allocated(device))

    peaks = [peak(base), peak(method)]
    times: list[tuple[float, float]] = []
    for i in range(pairs):
        # The order alternates, so that a drift of the machine's speed falls on both.
        if i % 2:
            b, m = base(), method()
        else:
            m, b = method(), base()
        times.append((b, m))
    found = [m / b for b, m in times]
    return {
        "seconds": statistics.median(m for _, m in times),
        "base_seconds": statistics.median(b for b, _ in times),
        "ratio": statistics.median(found),
        "ratios": found,
        "peak": peaks[1],
        "base_peak": peaks[0],
    }


def measure(
    pipe: Any, model: Model, case: Case, device: torch.device, args: argparse.Namespace
) -> dict[str, Any]:
    call = model.guided if case.guided else model.plain

    def base() -> float:
        return step_seconds(pipe, call, device, args.steps, args.size)

    def method() -> float:
        way = None
        if case.matching:
            by = partial(match_each, one=MATCHING[case.matching])
            way = mock.patch("negguide.guidance.tokens.match_others", by)
        with way or nullcontext():
            guided = {**call, "negative_guidance": case.method, **case.options}
            return step_seconds(pipe, guided, device, args.steps, args.size)

    row = compare(base, method, device, args.pairs)
    return {**row, "window": case.window, "whole_run": 1 + case.window * (row["ratio"] - 1)}


def measure_matching(
    shape: tuple[int, int, int], way: str, device: torch.device, args: argparse.Namespace
) -> dict[str, Any]:
    """The matching alone, against the one matrix; `agree` is the share of tokens with the same best match."""
    batch, count, channels = shape
    generator = torch.Generator(device).manual_seed(0)
    draw: dict[str, Any] = {"generator": generator, "device": device, "dtype": torch.bfloat16}
    source = torch.randn(batch, count, channels, **draw)
    reference = torch.randn(batch, (IMAGES - 1) * count, channels, **draw)
    row = compare(
        lambda: match_seconds(matrix, source, reference),
        lambda: match_seconds(MATCHING[way], source, reference),
        device,
        args.pairs,
    )
    same = MATCHING[way](source, reference, None)[1] == tiles(source, reference, None)[1]
    return {**row, "agree": same.double().mean().item()}


# ---- Report ---------------------------------------------------------------------------------------------------------


def show(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """A table of the methods and one of the matching alone, and the plot: panels for time and memory of each model."""
    methods, matchings = [], []
    bars: dict[str, dict[str, Rate]] = {}
    for row in rows:
        low, median, high = statistics.quantiles(row["ratios"], n=4, method="inclusive")
        measured = [
            row["model"],
            row["name"],
            f"{1000 * row['base_seconds']:.2f}",
            f"{1000 * row['seconds']:.2f}",
            f"{median:.3f} [{low:.3f}, {high:.3f}]",
            *("" if row[name] is None else f"{row[name] / 2**30:.2f}" for name in ("base_peak", "peak")),
        ]
        if "agree" in row:
            matchings.append([*measured, f"{row['agree']:.2%}"])
            continue
        methods.append([*measured, f"{row['whole_run']:.3f}"])
        figures = bars.setdefault(row["name"], {})
        figures[f"{row['model']}: time"] = Rate(median, low, high, len(row["ratios"]))
        if row["peak"] is not None:
            memory = row["peak"] / row["base_peak"]
            figures[f"{row['model']}: memory"] = Rate(memory, memory, memory, 1)
    columns = ["", "", "base, ms", "ms", "time over base", "base, GiB", "peak, GiB"]
    print_table(f"{title}: a step", [*columns, "whole run, published window"], methods)
    print_table("matching alone, over one matrix", [*columns, "same match as tiles"], matchings)
    # A model whose run was stopped has no figure for every method yet.
    complete = set.intersection(*(set(figures) for figures in bars.values()))
    bars = {name: {f: r for f, r in figures.items() if f in complete} for name, figures in bars.items()}
    plot_rates(path, f"{title}: over the same call without negatives", bars)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Cost of the methods on a GPU, in the shapes of SDXL and FLUX.1-dev."
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and plot")
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs, at least 2")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps of a run, at least 2")
    parser.add_argument("--size", type=int, help="side of an image in pixels (1024, or 64 with --tiny)")
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU, to check the script")
    args = parser.parse_args()
    for name in ("pairs", "steps"):
        if getattr(args, name) < 2:
            parser.error(f"--{name} must be at least 2, got {getattr(args, name)}")
    args.size = args.size or (64 if args.tiny else 1024)
    return args


def main() -> None:
    args = parse()
    if not (args.tiny or torch.cuda.is_available()):
        print(
            "gpu.py needs a CUDA GPU and there is none; --tiny checks the script on the CPU", file=sys.stderr
        )
        sys.exit(2)
    device = torch.device("cpu" if args.tiny else "cuda")
    diffusers.utils.logging.set_verbosity_error()
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    settings = {
        "gpu": None if args.tiny else torch.cuda.get_device_name(device),
        "triton": triton,
        "dtype": "bfloat16",
        "images": IMAGES,
        "size": args.size,
        "steps": args.steps,
        "pairs": args.pairs,
    }
    ways = [way for way in MATCHING if way != "kernel" or not args.tiny]
    name = "gpu-tiny" if args.tiny else "gpu"
    rows = rows_so_far(args.out / f"{name}.json", settings)

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        write_json(args.out / f"{name}.json", settings, rows)

    for model_name in MODELS if args.model == "all" else [args.model]:
        model = MODELS[model_name]
        done = {(row["model"], row["name"]) for row in rows}
        todo = [case for case in cases(model, ways) if (model_name, case.name) not in done]
        if todo:
            torch.manual_seed(0)
            pipe = negguide.from_pipe(model.build(device, args.tiny))
            pipe.set_progress_bar_config(disable=True)
            for case in tqdm(todo, desc=model_name):
                add({"model": model_name, "name": case.name, **measure(pipe, model, case, device, args)})
            del pipe
            # its modules refer to each other; left to themselves they would count into the next model's memory
            gc.collect()
        shapes = [(batch, 16, 32) if args.tiny else (batch, n, c) for batch, n, c in model.tokens]
        for shape in dict.fromkeys(shapes):
            for way in ways[1:]:
                key = (f"{model_name} {'x'.join(map(str, shape))}", way)
                if key not in done:
                    add({"model": key[0], "name": key[1], **measure_matching(shape, way, device, args)})
    title = f"{settings['gpu'] or 'CPU, tiny shapes'}, {IMAGES} images of {args.size} px, bfloat16"
    show(rows, args.out / f"{name}.png", title)


if __name__ == "__main__":
    main()
