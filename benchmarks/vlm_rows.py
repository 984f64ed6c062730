"""The rows of benchmarks/vlm.py: what each is told, how it is trained and measured, and how its seeds are pooled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from report import rows_so_far, write_json

from negguide._utils.stats import Rate, wilson
from negguide.toyworld.domain import TOYWORLD
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.validate import as_pairs, validate, with_one_source_per_image
from negguide.vlm.evaluation.evaluate import evaluate
from negguide.vlm.evaluation.results import Results
from negguide.vlm.evaluation.suites.base import Suite
from negguide.vlm.losses import loss_by_name
from negguide.vlm.models import load_model

START = "start model"
PAIRS_ALONE = "no negatives"
TEXT = "text negatives"
IMAGE = "image negatives"
BOTH = "both"
KEEPING = "both, anti-forgetting"
KEEPING_ALONE = "no negatives, anti-forgetting"
KEEPING_TEXT = "text negatives, anti-forgetting"
PLAIN = "both, by plain prompting, unchecked"
GROUPED = {"loss": "grouped", "group_size": 6, "group_fraction": 1.0}
METHODS: Mapping[str, Mapping[str, Any]] = {
    PAIRS_ALONE: {"loss": "clip"},
    TEXT: {"loss": "negclip"},
    IMAGE: {"loss": "negimage"},
    BOTH: GROUPED,
    KEEPING_ALONE: {"loss": "clip"},
    KEEPING_TEXT: {"loss": "negclip"},
    KEEPING: {**GROUPED, "group_fraction": 0.5},
    PLAIN: GROUPED,
}
"""What each row tells `negguide.vlm.finetune`."""
EVERY = {
    "paraphrases": True,
    "curriculum": "relation",
    "warmup": 50,
    "precision": "fp32",
    "val_fraction": 0.0,
}
"""What all of them are told. Nothing is held out to choose by: every row takes its last checkpoint."""
CURRICULUM = 5
"""One of so many equal parts of the steps is the curriculum's."""

SUITE = "toyworld-2"
"""The suite of the tables: the embedded world's second draw, by which nothing was chosen."""
SUITES = (TOYWORLD, SUITE)
"""What every row is measured on; settings are chosen by the first."""
FIGURES = {
    "text": (SUITE, "text"),
    "image": (SUITE, "image"),
    "group": (SUITE, "group"),
    "hard positives": (SUITE, "hard positives"),
    "retrieval R@1": (f"{SUITE}/retrieval", "text to image R@1"),
    "zero-shot": (f"{SUITE}/zero-shot", "accuracy"),
}


def schedule(rows: int, batch_size: int, steps: int) -> dict[str, int]:
    """Epochs of equal length, as few as the set can fill, in whole multiples of `CURRICULUM`: together ``steps`` steps.

    Args:
        rows: of the set; none comes twice in an epoch.
        batch_size: rows of a step.
        steps: in all, a multiple of `CURRICULUM`.
    """
    part, odd = divmod(steps, CURRICULUM)
    lengths = [part // times for times in range(1, part + 1) if part % times == 0]
    fitting = [length for length in lengths if length * batch_size <= rows]
    if odd or not fitting:
        raise ValueError(
            f"steps={steps} must be a multiple of {CURRICULUM}, and a batch of {batch_size} no larger than the set's "
            f"{rows} rows"
        )
    return {
        "epochs": steps // fitting[0],
        "curriculum_epochs": part // fitting[0],
        "train_num_samples": fitting[0] * batch_size,
    }


def tuned(
    work: Path,
    train_data: Path,
    method: str,
    seed: int,
    suites: Sequence[Suite],
    *,
    steps: int,
    images: int,
    lr: float,
    torch_compile: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Train and measure a row of `METHODS`; ``more`` are other settings than its own, all else is as in `trained`."""
    given = {**EVERY, **METHODS[method], **more}
    return {
        "method": method,
        **trained(
            work,
            train_data,
            given,
            seed,
            suites,
            steps=steps,
            images=images,
            lr=lr,
            torch_compile=torch_compile,
        ),
    }


def trained(
    work: Path,
    train_data: Path,
    given: Mapping[str, Any],
    seed: int,
    suites: Sequence[Suite],
    *,
    steps: int,
    images: int,
    lr: float,
    torch_compile: bool = False,
) -> dict[str, Any]:
    """Train with some settings, and measure the result.

    Args:
        work: where the trained models stay.
        train_data: the set.
        given: what `negguide.vlm.finetune` is told beside the others.
        seed: of the training.
        suites: what it is measured on.
        steps: of the optimiser, in all.
        images: that go through the model in a step, negative ones included.
        lr: the peak learning rate.
        torch_compile: compile the model, which computes the same up to rounding.
    """
    from negguide.vlm import Settings, finetune

    loss = loss_by_name(given["loss"])
    triplets = read_triplets(str(train_data))
    found = validate(triplets, load_model(TOYWORLD), loss.columns, needed_by=loss.name, name=str(train_data))
    found = replace(found, triplets=with_one_source_per_image(found.triplets))
    rows = len((as_pairs(found) if loss.siblings else found).triplets)
    # a negative image is one more that is seen, unless it is a row of its own
    batch_size = images // 2 if "negative_image" in loss.columns and not loss.siblings else images
    told = {**given, **schedule(rows, batch_size, steps)}
    if not told["curriculum"]:
        del told["curriculum_epochs"]
    settings = Settings(
        train_data=str(train_data),
        seed=seed,
        batch_size=batch_size,
        lr=lr,
        torch_compile=torch_compile,
        **told,
    )
    key = hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode()).hexdigest()[:12]
    outcome = finetune(settings, work / "runs" / key, resume="latest")
    results = evaluate(load_model(str(outcome.folder)), suites)
    return {
        "seed": seed,
        "steps": outcome.steps,
        "batch_size": batch_size,
        "images_seen": outcome.images_seen,
        "torch_compile": torch_compile,
        "data": json.loads((outcome.folder / "finetune.json").read_text())["data"],
        # by the name of its folder: where that lies is of no concern to a reader
        "results": {**results.to_dict(), "model": outcome.folder.name},
    }


def pooled(rows: Sequence[Mapping[str, Any]], suite: str, metric: str, category: str = "all") -> Rate:
    """Mean over the seeds; Wilson's interval over the items, widened to the worst and the best seed."""
    found = [Results.from_dict(row["results"]).row(suite, metric, category) for row in rows]
    values = [row.value for row in found]
    p, n = sum(values) / len(values), found[0].n
    low, high = wilson(p, n)
    return Rate(p, min(low, *values), max(high, *values), n)


def percent(rate: Rate) -> str:
    """As the tables have it."""
    return f"{100 * rate.value:.1f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def rows_of(
    path: Path,
    settings: Mapping[str, Any],
    suites: Sequence[Suite],
    seeds: int,
    jobs: Mapping[str, Callable[[int], dict[str, Any]]],
) -> list[dict[str, Any]]:
    """The start model and every job with every seed, written to ``path`` one after the other, seed by seed.

    What an earlier run with these settings left there, or another one beside this has written, is not made again.

    Args:
        path: of the result.
        settings: of the benchmark.
        suites: what the start model is measured on.
        seeds: how many.
        jobs: by the method's name, what trains and measures it with a seed.
    """
    every: dict[str, Callable[[int], dict[str, Any]]] = {START: partial(_start, suites), **jobs}
    for seed, name in product(range(seeds), every):
        if name == START and seed:
            continue
        # another run may fill the same file with other rows
        if (name, seed) in {(row["method"], row["seed"]) for row in _so_far(path, settings)}:
            continue
        print(f"{name}, seed {seed}")
        row = every[name](seed)
        write_json(path, settings, [*_so_far(path, settings), row])
        torch.manual_seed(0)
    return _so_far(path, settings)


def _so_far(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that an earlier run left, of those methods that are told the same now: a new one makes none anew."""
    if not path.exists():
        return []
    before = json.loads(path.read_text())["settings"].get("methods", {})
    now = json.loads(json.dumps(settings.get("methods", {})))
    rows = rows_so_far(path, {**settings, "methods": before} if "methods" in settings else settings)
    return [row for row in rows if before.get(row["method"]) == now.get(row["method"])]


def _start(suites: Sequence[Suite], seed: int) -> dict[str, Any]:
    """The row of the start model, which no seed changes."""
    found = evaluate(load_model(TOYWORLD), suites)
    row = {"method": START, "seed": seed, "steps": 0, "batch_size": 0, "images_seen": 0}
    return {**row, "results": found.to_dict()}
