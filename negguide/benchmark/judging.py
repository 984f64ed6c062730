"""What the judges say of the images of a folder: each image is asked about once, and a run may stop in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negguide.benchmark.columns import PLAIN
from negguide.benchmark.generation import digest
from negguide.benchmark.judges import Judge, Verdict
from negguide.benchmark.runner import Bar, Drawn, Run, Task, no_bar
from negguide.benchmark.similarity import Similarity
from negguide.benchmark.suites import DIVERSITY, REFERENCE, Check
from negguide.image_files import read_image
from negguide.pictures import file_name, read_settings, save_json

AT_ONCE = 16
"""Images that a judge sees together."""


@dataclass(frozen=True)
class Seen:
    """What was found on one image; `similarity` None where there is nothing to compare it with."""

    task: Task
    seed: int
    kept: Verdict
    removed: Verdict | None
    similarity: float | None


def ask(run: Run, drawn: Drawn, judge: Judge, bar: Bar = no_bar) -> dict[tuple[str, Check], Verdict]:
    """The verdicts on all images, {(path, check): verdict}; those of an earlier run are not asked for again."""
    asked = [
        (task.image(seed), sha256, check)
        for tasks in drawn.done.values()
        for task, record in tasks.items()
        if not task.reference
        for seed, sha256 in zip(task.seeds, record["images"], strict=True)
        for check in (task.item.keep, task.item.remove)
        if check is not None
    ]
    who = {"judge": judge.name, "revision": judge.revision}
    path = run.out / "judged" / f"{file_name(judge.name)}-{digest(who)[:8]}.json"
    stored = read_settings(path) if path.exists() else {}
    known: dict[str, Any] = stored.get("verdicts", {})
    if stored.get("remark"):
        # on verdicts that an earlier run asked for
        judge.remark = stored["remark"]
    found = {}
    with bar(f"judging {len(asked)} answers", len(asked)) as advance:
        for start in range(0, len(asked), AT_ONCE):
            # always the same images together: in a batch, the last digit may depend on the others
            chosen = asked[start : start + AT_ONCE]
            keys = [digest({"image": sha256, "check": vars(check)}) for _, sha256, check in chosen]
            if not set(keys) <= set(known):
                images = [read_image(run.out / image) for image, _, _ in chosen]
                verdicts = judge.verdicts(images, [check for _, _, check in chosen])
                for key, verdict in zip(keys, verdicts, strict=True):
                    known.setdefault(key, vars(verdict))
                save_json({**who, "remark": judge.remark, "verdicts": dict(sorted(known.items()))}, path)
            for key, (image, _, check) in zip(keys, chosen, strict=True):
                found[image, check] = Verdict(**known[key])
                advance()
    return found


def compare(
    run: Run,
    drawn: Drawn,
    verdicts: dict[tuple[str, Check], Verdict],
    similarity: Similarity,
    bar: Bar = no_bar,
) -> dict[str, list[Seen]]:
    """What was found on every image of every column."""
    paths = [
        run.out / task.image(seed) for tasks in drawn.done.values() for task in tasks for seed in task.seeds
    ]
    if run.suite.kind == REFERENCE:
        paths += [path for item in run.suite.items for path in item.reference]
    features = _features(paths, similarity, bar)
    seen: dict[str, list[Seen]] = {}
    for name, tasks in drawn.done.items():
        seen[name] = [
            Seen(
                task,
                seed,
                verdicts[task.image(seed), task.item.keep],
                None if task.item.remove is None else verdicts[task.image(seed), task.item.remove],
                _alike(run, task, seed, features),
            )
            for task in tasks
            if not task.reference
            for seed in task.seeds
        ]
    return seen


def _features(paths: Sequence[Path], similarity: Similarity, bar: Bar) -> dict[Path, Tensor]:
    distinct = list(dict.fromkeys(paths))
    found: dict[Path, Tensor] = {}
    with bar("comparing images", len(distinct)) as advance:
        for start in range(0, len(distinct), AT_ONCE):
            chosen = distinct[start : start + AT_ONCE]
            rows = similarity.features([read_image(path) for path in chosen])
            for path, row in zip(chosen, rows, strict=True):
                found[path] = row
                advance()
    return found


def _alike(run: Run, task: Task, seed: int, features: dict[Path, Tensor]) -> float | None:
    """The similarity of an image: to the others of its call, to the closest reference, or to the plain image."""
    own = features[run.out / task.image(seed)]
    if run.suite.kind == DIVERSITY:
        others = [features[run.out / task.image(other)] for other in task.seeds if other != seed]
        return float((torch.stack(others) @ own).mean())
    if run.suite.kind == REFERENCE:
        return float(torch.stack([features[path] for path in run.reference_paths(task.item)]).mv(own).max())
    if task.column.key == PLAIN:
        return None
    plain = Task(run.columns[0], task.item, task.seeds)
    other = features.get(run.out / plain.image(seed))
    return None if other is None else float(other @ own)
