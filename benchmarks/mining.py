"""Hard-negative sets of the toy world: how many edits come out right, at what speed, and how varied.

    python benchmarks/mining.py

- *First try*: every planned edit is painted once, with the classic prompt alone, with the classic negative prompt, and
  with Perp-Neg, from the same noise. *Accepted* is what the pair judge keeps, *right* the share whose four cells are
  right by the scene that the judge reads: each image shows its own caption and not the other one.
- *Set*: a whole run with Perp-Neg, verification, tries again and a painted original for each pair; the share of planned
  edits that end as a written pair, and the share of written pairs that are right, beside the first row of the table
  above without any verification.
- *Tells*: what captions alone, and images alone, say about which is the negative, in that set as it is, rebalanced, and
  rebalanced with painted originals in the place of the originals: the best of all probes, tokens of the embedded CLIP
  and its features among them.
- *Speed*: images a second of the painter in batches, of the whole run, and of a loop that calls the pipeline once for
  each image; what it costs to stop in the middle, at the worst moment, and to go on; peak memory.
- *Variety*: several edits of one caption, painted without and with NegToMe among them; mean pairwise 1 - cosine of the
  judge's features.

The last table holds the goals of the project against what was measured. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diversity import distance
from mining_tables import GROUPS, LABELS, show
from PIL import Image
from report import STEPS, arguments, models, rows_so_far, write_json
from tqdm import tqdm

from negguide import Negative, NegToMe, PerpNeg
from negguide._utils.stats import Rate, mean, share
from negguide.image_files import read_image
from negguide.mining import audit as auditing
from negguide.mining.block import Miner
from negguide.mining.categories import CATEGORIES
from negguide.mining.edits import make_planner, plan
from negguide.mining.item import Edit, Source
from negguide.mining.render.job import Job
from negguide.mining.render.pipeline import PipelinePainter
from negguide.mining.run import run
from negguide.mining.settings import Settings, seed_of
from negguide.mining.shards import read_set
from negguide.mining.sources import open_source
from negguide.toyworld import ACCESSORIES, Scene, parse
from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.toyworld.judge import Judge
from negguide.toyworld.measure import agreement
from negguide.toyworld.pair_judge import WorldJudge
from negguide.toyworld.scene import ABSENT

GROUP = 4
"""Edits of one caption in the measurement of variety."""
CHOICES: dict[str, dict[str, Any]] = {
    "as mined": {},
    "rebalanced": {"balance": True},
    "rebalanced, painted originals": {"balance": True, "rendered": True},
}
"""Of the pairs in the measurement of tells, with what the audit is told."""


@dataclass(frozen=True)
class Pair:
    """A planned edit of a source."""

    source: Source
    edit: Edit
    original: Image.Image

    def job(self, method: str) -> Job:
        seed = seed_of(0, self.source.id, self.edit.caption)
        return Job(
            self.edit.prompt, seed, avoid="" if method == "plain" else self.edit.avoid, group=self.source.id
        )


def planned(count: int, per_item: int = 1) -> list[Pair]:
    """What is planned for the first ``count`` pairs of the toy world."""
    planner = make_planner("rules", world="toyworld")
    pairs = []
    for row in open_source(f"toyworld:{count}").rows():
        if isinstance(row, Source) and row.load is not None:
            rng = random.Random(seed_of(0, row.id, "plan"))
            edits, _ = plan(row.caption, planner, categories=CATEGORIES, per_item=per_item, rng=rng)
            pairs += [Pair(row, edit, row.load()) for edit in edits]
    return pairs


def painter(pipe: Any, method: str, batch_size: int, steps: int, **options: Any) -> PipelinePainter:
    return PipelinePainter(
        pipe,
        method=method,  # type: ignore[arg-type]
        steps=steps,
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        batch_size=batch_size,
        **options,
    )


def whole(caption: str) -> Scene:
    """The scene of a caption, in which what is not said to be worn is not worn; who an explorer is stays open."""
    scene = parse(caption, negation=True)
    if scene.explorer:
        return scene
    said = [
        replace(c, **{name: ABSENT for name in ACCESSORIES if getattr(c, name) is None})
        for c in scene.characters
    ]
    return replace(scene, characters=tuple(said))


def right(
    judge: Judge, images: Sequence[tuple[Image.Image, Image.Image]], captions: Sequence[tuple[str, str]]
) -> list[bool]:
    """For each pair: whether each image shows its own caption and not the other one, by what the judge reads."""
    if not images:
        return []
    originals, negatives = zip(*images, strict=True)
    outcomes = []
    for one, other, (said, wrong) in zip(
        judge.read(list(originals)), judge.read(list(negatives)), captions, strict=True
    ):
        cells = [
            all(agreement(whole(caption), seen).values())
            for seen in (one, other)
            for caption in (said, wrong)
        ]
        outcomes.append(cells == [True, False, False, True])
    return outcomes


def first_try(
    pipe: Any, judge: Judge, method: str, pairs: Sequence[Pair], batch_size: int, steps: int
) -> tuple[Rate, Rate]:
    """(accepted, right) of all edits, painted once."""
    negatives = painter(pipe, method, batch_size, steps)([pair.job(method) for pair in pairs])
    originals, captions = [p.original for p in pairs], [(p.source.caption, p.edit.caption) for p in pairs]
    scores = WorldJudge()
    cells = [
        scores.score(images, texts)
        for images in (originals, negatives)
        for texts in ([said for said, _ in captions], [wrong for _, wrong in captions])
    ]
    accepted = [
        not WorldJudge.margins.objections((float(a), float(b), float(c), float(d)))
        for a, b, c, d in zip(*cells, strict=True)
    ]
    outcomes = right(judge, list(zip(originals, negatives, strict=True)), captions)
    return share(accepted), share(outcomes)


class StoppedError(Exception):
    """What stops a run in the middle."""


@dataclass
class Stops:
    """A painter that stops the run when it has painted ``after`` images, before the last batch is kept."""

    painter: PipelinePainter
    after: int
    images: int = 0

    def __call__(self, jobs: Sequence[Job]) -> list[Image.Image]:
        images = self.painter(jobs)
        self.images += len(images)
        if self.after and self.images >= self.after:
            raise StoppedError
        return images

    def batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        return self.painter.batches(jobs)

    def refusal(self, job: Job) -> str | None:
        return self.painter.refusal(job)


def mine(
    folder: Path, pipe: Any, count: int, shard_size: int, batch_size: int, steps: int, stop_after: int = 0
) -> tuple[Any, int, float, float]:
    """A whole run; with ``stop_after`` it stops when so many images are painted.

    Returns (outcome, images, seconds, seconds of computing).
    """
    source = open_source(f"toyworld:{count}")
    planner = make_planner("rules", world="toyworld")
    settings = Settings(
        data=source.description,
        planner=planner.description,
        model="toyworld",
        judge="toyworld",
        steps=steps,
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        batch_size=batch_size,
        absolute_margin=WorldJudge.margins.absolute_margin,
        shard_size=shard_size,
        controls=1.0,
    )
    stops = Stops(painter(pipe, "perp-neg", batch_size, steps), stop_after)
    miner = Miner(settings, planner, stops, WorldJudge())
    start, computed = time.perf_counter(), time.process_time()
    outcome = None
    with suppress(StoppedError):
        outcome = run(folder, settings, source, miner, made_by={})
    return outcome, stops.images, time.perf_counter() - start, time.process_time() - computed


def tells(folder: Path) -> dict[str, Any] | None:
    """{choice: how many pairs, and the best probe of each group}; None for a set that is too small to be judged."""
    if not auditing.large_enough(auditing.read_pairs(folder)):
        return None
    found: dict[str, Any] = {}
    for choice, options in CHOICES.items():
        audit = auditing.audit(folder, tokenizer=TOYWORLD, features=TOYWORLD, **options)
        of_choice = audit.mined if audit.rebalanced is None else audit.rebalanced
        found[choice] = {"pairs": of_choice.pairs}
        for group, verdicts in {"captions": of_choice.text, **of_choice.images}.items():
            if group in GROUPS and verdicts:
                best = max(verdicts, key=lambda name: verdicts[name].accuracies[auditing.OVERALL].value)
                accuracy = verdicts[best].accuracies[auditing.OVERALL]
                found[choice][group] = {"probe": best, **accuracy.to_dict()}
    return found


def the_set(pipe: Any, judge: Judge, args: Any) -> dict[str, Any]:
    """A whole run, and the same one stopped in the middle and gone on with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        made = (pipe, args.pairs, args.shard_size, args.batch_size, args.steps)
        outcome, images, seconds, computed = mine(folder, *made)
        peak = peak_memory()
        funnel = outcome.funnel
        rows = list(read_set(folder))
        pictures: list[tuple[Image.Image, Image.Image]] = []
        captions = []
        for item, where in rows:
            files = item.files(where)
            pictures.append((read_image(files["image"]), read_image(files["negative_image"])))
            captions.append((item.caption, item.negative_caption))
        _, _, nothing, _ = mine(folder, *made)
        stopped = Path(name) / "stopped"
        _, before, _, first = mine(stopped, *made, stop_after=images // 2)
        _, after, _, second = mine(stopped, *made)
        told = tells(folder) if rows else None
    kept, lost = funnel.total("written"), funnel.total("planned") - funnel.total("written")
    return {
        "written": share([True] * kept + [False] * lost).to_dict(),
        "right": share(right(judge, pictures, captions)).to_dict() if pictures else None,
        "funnel": funnel.to_dict(),
        "seconds": seconds,
        "images": images,
        "nothing_to_do": nothing / seconds,
        "stopped_images": (before + after - images) / images,
        "stopped_computing": (first + second - computed) / computed,
        "tells": told,
        "peak_memory": peak,
    }


def speed(pipe: Any, pairs: Sequence[Pair], args: Any) -> dict[str, Any]:
    """Images a second of the painter and of a loop, in alternation."""
    jobs = [pair.job("perp-neg") for pair in pairs]
    batched = painter(pipe, "perp-neg", args.batch_size, args.steps)

    def in_batches() -> None:
        batched(jobs)

    def one_at_a_time() -> None:
        for job in jobs:
            pipe(
                job.prompt,
                num_inference_steps=args.steps,
                guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
                generator=torch.Generator().manual_seed(job.seed),
                negative_guidance=PerpNeg(Negative(job.avoid)) if job.avoid else None,
            )

    rates: dict[str, list[float]] = {"batches": [], "loop": []}
    calls: list[tuple[str, Callable[[], None]]] = [("batches", in_batches), ("loop", one_at_a_time)]
    for turn in range(args.turns):
        for name, call in calls if turn % 2 else calls[::-1]:
            start = time.perf_counter()
            call()
            rates[name].append(len(jobs) / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(rates["batches"], rates["loop"], strict=True)]
    return {
        **{name: mean(values).to_dict() for name, values in rates.items()},
        "ratio": mean(ratios).to_dict(),
    }


def variety(pipe: Any, judge: Judge, pushed: bool, args: Any) -> dict[str, Any]:
    """Mean pairwise distance of the images of one caption, and how many of them are right."""
    pairs = [p for p in planned(args.variety_pairs * 2, GROUP) if p.edit.category != "negation"]
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.source.id, []).append(pair)
    chosen = [group for group in groups.values() if len(group) >= 2][: args.variety_pairs]
    method = NegToMe("others", **TOYWORLD_DEFAULTS.negtome) if pushed else None
    draw = painter(pipe, "perp-neg", args.batch_size, args.steps, diversify=method)
    images = draw([pair.job("perp-neg") for group in chosen for pair in group])
    features, distances, at = judge.embed(images), [], 0
    for group in chosen:
        distances.append(distance(features[at : at + len(group)]))
        at += len(group)
    flat = [pair for group in chosen for pair in group]
    outcomes = right(
        judge,
        [(pair.original, image) for pair, image in zip(flat, images, strict=True)],
        [(pair.source.caption, pair.edit.caption) for pair in flat],
    )
    return {"distance": mean(distances).to_dict(), "right": share(outcomes).to_dict()}


def peak_memory() -> float:
    """Of this process, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    args = arguments(
        "Hard-negative sets of the toy world.",
        pairs=200,
        variety_pairs=40,
        speed_pairs=32,
        turns=3,
        shard_size=32,
        batch_size=16,
        steps=STEPS,
    )
    pipe, judge = models()
    pairs = planned(args.pairs)
    work: dict[str, Callable[[], dict[str, Any]]] = {}
    for method in LABELS:
        work[method] = lambda method=method: dict(  # type: ignore[misc]
            zip(
                ("accepted", "right"),
                (
                    rate.to_dict()
                    for rate in first_try(pipe, judge, method, pairs, args.batch_size, args.steps)
                ),
                strict=True,
            )
        )
    work["set"] = lambda: the_set(pipe, judge, args)
    work["speed"] = lambda: speed(pipe, pairs[: args.speed_pairs], args)
    work["without NegToMe"] = lambda: variety(pipe, judge, False, args)
    work["with NegToMe"] = lambda: variety(pipe, judge, True, args)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    path = args.out / "mining.json"
    rows = rows_so_far(path, settings)
    done = {row["name"] for row in rows}
    for name in tqdm([name for name in work if name not in done], desc="mining"):
        rows.append({"name": name, **work[name]()})
        write_json(path, settings, rows)
    show(rows, args.out)


if __name__ == "__main__":
    main()
