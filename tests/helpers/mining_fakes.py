"""A painter that paints what it is told without any model, for tests of everything around it; and a run of it.

As a program it makes a set, slowly enough to be killed: `python mining_fakes.py OUT [seconds for each call]`.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.image_files import read_image
from negguide.mining.block import Miner
from negguide.mining.edits import make_planner
from negguide.mining.item import Source
from negguide.mining.render.job import Job
from negguide.mining.run import Outcome, run
from negguide.mining.settings import Settings
from negguide.mining.sources import BadSource, Input, open_source
from negguide.storage import location
from negguide.toyworld import judge
from negguide.toyworld.judge import Judge
from negguide.toyworld.language import parse
from negguide.toyworld.pair_judge import WorldJudge
from negguide.toyworld.render import render


class Artist:
    """Draws the prompt's scene; of every ``slips`` seeds one is a beach with nobody on it. It keeps the jobs."""

    def __init__(self, slips: int = 3, seconds: float = 0.0) -> None:
        self.slips, self.seconds = slips, seconds
        self.jobs: list[Job] = []
        self.calls = 0

    def __call__(self, jobs: Sequence[Job]) -> list[Image.Image]:
        self.calls += 1
        time.sleep(self.seconds)
        self.jobs += jobs
        return [self.draw(job) for job in jobs]

    def draw(self, job: Job) -> Image.Image:
        if job.seed % self.slips == 0:
            return Image.effect_noise((64, 64), job.seed % 97 + 1).convert("RGB")
        return render(parse(job.prompt), 64, seed=job.seed % 2**31)

    def batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        return [list(range(start, min(start + 2, len(jobs)))) for start in range(0, len(jobs), 2)]

    def refusal(self, job: Job) -> str | None:
        return "the prompt is too long for the model" if len(job.prompt) > 500 else None


class LightJudge(WorldJudge):
    """The judge of the toy world, loaded without the imports that its pipelines need."""

    def __init__(self) -> None:
        self.device, self.batch_size, self.net = (
            "cpu",
            64,
            Judge.load(Path(judge.__file__).parent / "weights/judge"),
        )


class Rows(Input):
    """An input that holds these rows."""

    name, licence, world = "rows", None, "toyworld"

    def __init__(self, rows: Sequence[Source | BadSource]) -> None:
        self.held = list(rows)

    def rows(self) -> Any:
        return iter(self.held)


def settings(**changes: Any) -> Settings:
    values = {
        "data": {"name": "toyworld:20"},
        "planner": {"backend": "rules"},
        "model": "artist",
        "judge": "toyworld",
        "absolute_margin": 0.5,
        "shard_size": 5,
        "shards_together": 1,
        "batch_size": 4,
        "retries": 3,
        "positives": 0,
    }
    return Settings(**{**values, **changes})


def miner(chosen: Settings, artist: Any = None, **parts: Any) -> Miner:
    planner = make_planner("rules", world="toyworld")
    return Miner(chosen, planner, artist or Artist(), parts.pop("judge", None) or LightJudge(), **parts)


def mine(
    out: Path, source: Any = None, artist: Any = None, report: Callable[..., Any] = print, **changes: Any
) -> Outcome:
    where = {name: changes.pop(name) for name in ("rank", "world") if name in changes}
    chosen = settings(**changes)
    source = open_source("toyworld:20") if source is None else source
    return run(out, chosen, source, miner(chosen, artist), made_by={"negguide": "test"}, **where)


def files_of(folder: Path | str) -> dict[str, bytes]:
    """Every file of a set by its name, wherever the set lies."""
    place: Any = location(folder)
    found = [path for path in place.rglob("*") if path.is_file()]
    return {
        str(path).removeprefix(str(place)).lstrip("/"): path.read_bytes() for path in sorted(found, key=str)
    }


def picture(file: Any) -> Image.Image:
    """The stored image, as it is stored."""
    image = Image.open(io.BytesIO(file.read_bytes()))
    image.load()
    return image


def sources(count: int, **changes: Any) -> list[Source]:
    """The first ``count`` scenes of the toy world with one character, so that every edit can be drawn."""
    rows = [row for row in open_source("toyworld:60").rows() if isinstance(row, Source)]
    single = [row for row in rows if " to the " not in row.caption and "pip" not in row.caption]
    return [replace(row, **changes) for row in single[:count]]


def corrupt() -> Image.Image:
    return read_image(b"\x89PNG\r\n\x1a\nnothing", name="broken.png")


if __name__ == "__main__":
    import os

    mine(
        Path(sys.argv[1]),
        artist=Artist(seconds=float(sys.argv[2])),
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
    )
