"""Where the time of `negguide mine` goes: in the image model, in the judge, or outside of both.

    python benchmarks/mining_time.py --pairs 1000

A whole run on pairs of the toy world, with the embedded model and judge, into a folder. Timed are the calls of the
painter and of the judge, in the thread that waits for them; the rest of the run is outside: reading and planning as far
as they are waited for, PNG encoding, what is kept in case of a stop, writing, claims and markers. Loading the models,
and the card and audit of the finished set, are not in it. *Full* are the painter's batches of `--batch-size`, with
shards made alone and together.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from report import STEPS, arguments, models, print_table, rows_so_far, write_json
from torch import Tensor

from negguide.mining.block import Miner
from negguide.mining.edits import make_planner
from negguide.mining.render.job import Job
from negguide.mining.render.pipeline import PipelinePainter
from negguide.mining.run import run
from negguide.mining.settings import Settings
from negguide.mining.sources import open_source
from negguide.toyworld.domain import TOYWORLD_DEFAULTS
from negguide.toyworld.pair_judge import WorldJudge

GOAL = 0.1
"""The largest part of a run outside the image model and the judge."""


@dataclass
class Timed:
    """A painter, and how long it painted in batches of which size."""

    painter: PipelinePainter
    seconds: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def __call__(self, jobs: Sequence[Job]) -> list[Image.Image]:
        began = time.perf_counter()
        images = self.painter(jobs)
        self.seconds += time.perf_counter() - began
        self.sizes.append(len(jobs))
        return images

    def batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        return self.painter.batches(jobs)

    def refusal(self, job: Job) -> str | None:
        return self.painter.refusal(job)


class TimedJudge(WorldJudge):
    """The judge, and how long it looked."""

    seconds = 0.0

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        began = time.perf_counter()
        scores = super().score(images, captions)
        self.seconds += time.perf_counter() - began
        return scores


def measured(pipe: Any, together: int, args: Any) -> dict[str, Any]:
    """One run; the numbers of `GOAL` among them."""
    painter = Timed(
        PipelinePainter(
            pipe,
            steps=args.steps,
            guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
            batch_size=args.batch_size,
        )
    )
    planner, judge = make_planner("rules", world="toyworld"), TimedJudge()
    source = open_source(f"toyworld:{args.pairs}")
    settings = Settings(
        data=source.description,
        planner=planner.description,
        model="toyworld",
        judge="toyworld",
        steps=args.steps,
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        batch_size=args.batch_size,
        absolute_margin=WorldJudge.margins.absolute_margin,
        shard_size=args.shard_size,
        shards_together=together,
        controls=args.controls,
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        outcome = run(
            Path(folder) / "set", settings, source, Miner(settings, planner, painter, judge), made_by={}
        )
        seconds = time.perf_counter() - began
    return {
        "name": f"{together} shards together",
        "seconds": seconds,
        "painting": painter.seconds / seconds,
        "judging": judge.seconds / seconds,
        "outside": 1 - (painter.seconds + judge.seconds) / seconds,
        "images": outcome.funnel.images,
        "pairs": outcome.funnel.total("written"),
        "batches": len(painter.sizes),
        "full": sum(size == args.batch_size for size in painter.sizes),
    }


def main() -> None:
    args = arguments(
        __doc__ or "", pairs=1000, shard_size=64, batch_size=16, steps=STEPS, controls=0.25, together="1,4"
    )
    pipe, _ = models()
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    path = args.out / "mining_time.json"
    rows = rows_so_far(path, settings)
    done = {row["name"] for row in rows}
    for together in map(int, args.together.split(",")):
        if f"{together} shards together" not in done:
            rows.append(measured(pipe, together, args))
            write_json(path, settings, rows)
    print_table(
        f"{args.pairs} pairs of the toy world, {args.threads} threads; goal: at most {GOAL:.0%} outside",
        ("", "seconds", "painting", "judging", "outside", "images", "batches", "of them full"),
        [
            (
                row["name"],
                f"{row['seconds']:.0f}",
                *(f"{row[name]:.1%}" for name in ("painting", "judging", "outside")),
                *(row[name] for name in ("images", "batches", "full")),
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
