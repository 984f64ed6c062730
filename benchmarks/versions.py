"""What a guided and an idle call cost now, over what they cost at an earlier commit.

    python benchmarks/versions.py --before COMMIT

The package at that commit is unpacked beside this one under another name, so that both run in one process, on one
model, in turn: pairs of calls, and the median of their ratios with its quartiles. The embedded model draws.
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import negguide
from negguide.toyworld import load_pipeline

EARLIER = "negguide_before"
PROMPT = "a bear wearing glasses"
IMAGES = 2


def unpacked(commit: str, folder: Path) -> Any:
    """The package at `commit`, under a name of its own."""
    archive = subprocess.run(
        ["git", "archive", commit, "negguide"],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    (folder / "negguide").rename(folder / EARLIER)
    for path in (folder / EARLIER).rglob("*.py"):
        path.write_text(re.sub(r"\bnegguide\b", EARLIER, path.read_text()))
    sys.path.insert(0, str(folder))
    return importlib.import_module(EARLIER)


def cases(package: Any) -> dict[str, dict[str, Any]]:
    """{name: arguments of the call} in the words of one version."""
    late = package.Negative("black glasses", start=0.9, stop=1.0)
    return {
        "plain call of a guided pipeline": {},
        "Perp-Neg, one negative": {"negative_guidance": package.PerpNeg("black glasses")},
        "NegToMe among the images": {"negative_guidance": package.NegToMe("others", stop=0.5)},
        "NAG": {"negative_guidance": package.NAG("black glasses")},
        "Perp-Neg whose window has not come": {"negative_guidance": package.PerpNeg(late)},
    }


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(commit: str, pairs: int, steps: int) -> dict[str, list[float]]:
    """{case: the ratio now / before of each pair}; which of the two begins a pair changes from pair to pair."""
    base = load_pipeline()
    base.set_progress_bar_config(disable=True)
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        before = unpacked(commit, Path(folder))
        pipes = {package: package.from_pipe(base) for package in (negguide, before)}
        names = list(cases(negguide))
        for name in names:

            def draw(package: Any, name: str = name) -> Any:
                return pipes[package](
                    PROMPT,
                    num_inference_steps=steps,
                    num_images_per_prompt=IMAGES,
                    output_type="latent",
                    generator=torch.Generator().manual_seed(0),
                    **cases(package)[name],
                )

            for package in pipes:
                draw(package)
            ratios[name] = []
            for pair in range(pairs):
                order = (negguide, before) if pair % 2 else (before, negguide)
                seconds = {package: timed(partial(draw, package)) for package in order}
                ratios[name].append(seconds[negguide] / seconds[before])
    return ratios


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.pairs < 7:
        parser.error(f"--pairs must be at least 7, got {arguments.pairs}")
    torch.set_num_threads(arguments.threads)
    print(
        f"| call, {IMAGES} images, {arguments.steps} steps | time over {arguments.before} (median, quartiles) |"
    )
    print("|---|---|")
    for name, values in measure(arguments.before, arguments.pairs, arguments.steps).items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"| {name} | {middle:.3f} [{low:.3f}, {high:.3f}] |")


if __name__ == "__main__":
    main()
