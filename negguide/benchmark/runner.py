"""Draw what is missing in a folder, and have it judged; whatever is there already stays as it is.

A folder holds `settings.json` (what all images share), `images/COLUMN/ITEM-SEED.png`, `calls/COLUMN/ITEM-SEED.json`
(time, memory and the digests of the images; written after them, so a call whose record is there is whole), and
`judged/JUDGE.json`. A run may be killed at any time and started again; it may also be given more prompts, columns,
seeds (except in suites of kind diversity, whose images of one prompt are drawn together) and another judge. What was
drawn with other settings is never mixed in: such a run is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.benchmark.columns import CLASSIC, PLAIN, Column
from negguide.benchmark.generation import (
    Call,
    Generator,
    NotPossibleError,
    OutOfMemoryError,
    Prepare,
    Sampling,
    digest,
)
from negguide.benchmark.suites import DIVERSITY, OVERLAP, REFERENCE, Item, Suite
from negguide.image_files import read_image
from negguide.models import revision
from negguide.pictures import read_settings, save_json, save_png

SEEDS_OF_AN_ITEM = 1000
"""The seeds of item i begin at the first seed plus i times this."""
USUAL_SEEDS = {OVERLAP: 1, DIVERSITY: 4, REFERENCE: 2}
"""Images of each prompt, by kind of suite."""

Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""A progress bar: what goes on, and of how many parts; what it gives is called after each part."""


@contextmanager
def no_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """No progress bar."""
    yield lambda: None


@dataclass(frozen=True)
class Task:
    """A call with its place in the folder. `reference` is the plain image that the others stay away from."""

    column: Column
    item: Item
    seeds: tuple[int, ...]
    reference: bool = False

    def image(self, seed: int) -> str:
        """Path of an image below the folder."""
        return f"images/{self.folder}/{self.item.id}-{seed}.png"

    @property
    def record(self) -> str:
        """Path of its record below the folder."""
        return f"calls/{self.folder}/{self.item.id}-{self.seeds[0]}.json"

    @property
    def folder(self) -> str:
        """The column's name as that of a folder."""
        return self.column.name.replace(":", "-")


@dataclass
class Drawn:
    """What is in the folder: for each column the calls that are there, and why others are not.

    Attributes:
        done: {column name: {task: its record}}.
        reasons: {column name: why it cannot act on any item}.
        left_out: {column name: {item id: why}}, of columns that act on others; no image of these items is in `done`.
        guidance_scale: with which everything was drawn.
    """

    done: dict[str, dict[Task, dict[str, Any]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    guidance_scale: float | None = None


@dataclass(frozen=True)
class Run:
    """What is to be drawn, and where.

    Attributes:
        seeds: images of each prompt.
        seed: of the first image.

    Raises:
        ValueError: a number that is none, or too few images for what is compared.
    """

    sampling: Sampling
    suite: Suite
    columns: tuple[Column, ...]
    out: Path
    seeds: int
    seed: int

    def __post_init__(self) -> None:
        most = SEEDS_OF_AN_ITEM - 1
        least = 2 if self.suite.kind == DIVERSITY else 1
        if not least <= self.seeds <= most:
            raise ValueError(
                f"--seeds must be from {least} to {most} in a suite of kind {self.suite.kind}, got {self.seeds}"
            )
        if not 0 <= self.seed < 2**62:
            raise ValueError(f"--seed must be an integer from 0 to 2**62 - 1, got {self.seed}")

    def tasks(self) -> list[Task]:
        """All calls, item by item, so that a drift of the machine's speed falls on all columns."""
        found = []
        for number, item in enumerate(self.suite.items):
            first = self.seed + SEEDS_OF_AN_ITEM * number
            own = self.suite.kind == REFERENCE and not item.reference
            if own:
                found.append(Task(self.columns[0], item, (first,), reference=True))
            seeds = range(first + own, first + own + self.seeds)
            for column in self.columns:
                together = [tuple(seeds)] if self.suite.kind == DIVERSITY else [(seed,) for seed in seeds]
                found += [Task(column, item, chosen) for chosen in together]
        return found

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must not differ between the runs of a folder; of a hub model, once it is on this machine."""
        return {
            "command": "benchmark",
            "kind": self.suite.kind,
            **self.sampling.to_dict(),
            "seed": self.seed,
            "images_a_call": self.seeds if self.suite.kind == DIVERSITY else 1,
        }

    def objection(self, task: Task) -> str | None:
        """Why a task is not possible whatever the model; None when it may be."""
        return task.column.objection(task.item, len(task.seeds), self.suite.kind == REFERENCE)

    def call(self, task: Task) -> Call:
        """What a task asks of the pipeline."""
        item, column = task.item, task.column
        references = self.references(item) if column.key not in (PLAIN, CLASSIC) else []
        methods = column.methods(item, self.sampling.model, references)
        return Call(item.prompt, task.seeds, column.negative_prompt(item), methods)

    def references(self, item: Item) -> list[Image.Image]:
        """What the images of an item stay away from; empty in suites of another kind."""
        if self.suite.kind != REFERENCE:
            return []
        return [read_image(path) for path in self.reference_paths(item)]

    def reference_paths(self, item: Item) -> tuple[Path, ...]:
        """The item's files, or the plain image that was drawn for it."""
        if item.reference:
            return item.reference
        number = self.suite.items.index(item)
        first = self.seed + SEEDS_OF_AN_ITEM * number
        return (self.out / Task(self.columns[0], item, (first,), reference=True).image(first),)


def generate(run: Run, bar: Bar = no_bar, prepare: Prepare | None = None) -> Drawn:
    """Draw what is missing.

    Args:
        prepare: does to the loaded pipeline what the settings say of offloading and LoRAs.

    Raises:
        ValueError: the folder holds images of other settings, the model cannot be loaded, or it cannot draw even the
            plain images.
    """
    # of a hub model that is not on this machine, the revision is known once it is loaded
    generator = Generator(run.sampling, prepare) if revision(run.sampling.model) is None else None
    try:
        _check_folder(run)
        drawn = Drawn({column.name: {} for column in run.columns})
        missing = [task for task in run.tasks() if not _read(run, task, drawn)]
        if not missing:
            return _in_order(run, drawn)
        generator = generator or Generator(run.sampling, prepare)
        _check_pipeline(run, generator, drawn)
        save_json(run.settings, run.out / "settings.json")
        warm: set[str] = set()
        images = sum(len(task.seeds) for task in missing)
        with bar(f"drawing {images} image{'s' if images > 1 else ''}", images) as advance:
            for task in missing:
                if task.column.name not in drawn.reasons:
                    _draw(run, task, generator, drawn, warm)
                for _ in task.seeds:
                    advance()
        return _in_order(run, drawn)
    finally:
        if generator is not None:
            generator.close()


def _in_order(run: Run, drawn: Drawn) -> Drawn:
    """The same in the order of the tasks, whichever was there before, and items that lack an image left out whole."""
    tasks = run.tasks()
    left_out = {
        name: {item.id: reasons[item.id] for item in run.suite.items if item.id in reasons}
        for name, reasons in drawn.left_out.items()
    }
    drawn.done = {
        name: {
            task: done[task] for task in tasks if task in done and task.item.id not in left_out.get(name, {})
        }
        for name, done in drawn.done.items()
    }
    for name, reasons in left_out.items():
        if not drawn.done[name]:
            drawn.reasons.setdefault(name, next(iter(reasons.values())))
    drawn.left_out = {name: reasons for name, reasons in left_out.items() if name not in drawn.reasons}
    return drawn


def _check_pipeline(run: Run, generator: Generator, drawn: Drawn) -> None:
    if revision(run.sampling.model) != run.settings["revision"]:
        raise ValueError(
            f"--model {run.sampling.model}: the hub gave another version than that of "
            f"{run.settings['revision']}; start again"
        )
    if drawn.guidance_scale not in (None, generator.guidance_scale):
        raise ValueError(
            f"--out {run.out}: its images were drawn with the guidance scale {drawn.guidance_scale}, and the "
            f"pipeline now has {generator.guidance_scale}; give another folder"
        )
    drawn.guidance_scale = generator.guidance_scale


def _check_folder(run: Run) -> None:
    path = run.out / "settings.json"
    if not path.exists():
        return
    # as JSON, where tuples are lists
    old, new = read_settings(path), json.loads(json.dumps(run.settings))
    if old == new:
        return
    if old.get("command") != "benchmark":
        raise ValueError(f"--out {run.out}: it holds the settings of something else; give another folder")
    flat_old, flat_new = ({**s, **s.get("versions", {}), "versions": None} for s in (old, new))
    changed = [
        f"{name.replace('_', ' ')} was {flat_old.get(name)}, is {flat_new.get(name)}"
        for name in {**flat_old, **flat_new}
        if flat_old.get(name) != flat_new.get(name)
    ]
    raise ValueError(
        f"--out {run.out}: its images were drawn with other settings ({'; '.join(changed)}); give another folder, or "
        "the same settings to go on"
    )


def _stored(run: Run, task: Task, call: Call) -> dict[str, Any]:
    """Everything that decides the images of a call."""
    return {**run.settings, "column": task.column.name, "item": task.item.id, **call.to_dict()}


def _read(run: Run, task: Task, drawn: Drawn) -> bool:
    """Whether a task is done, or known not to be possible; remembers which.

    Raises:
        ValueError: its images were drawn with other settings, or were changed since.
    """
    objection = run.objection(task)
    if objection is not None:
        _note(task, drawn, objection)
        return True
    path = run.out / task.record
    needed = run.reference_paths(task.item) if run.suite.kind == REFERENCE and not task.reference else ()
    if not all(file.exists() for file in (path, *needed)):
        return False
    record = read_settings(path)
    expected = digest(_stored(run, task, run.call(task)))
    if record.get("settings") != expected:
        raise ValueError(
            f"--out {run.out}: {task.image(task.seeds[0])} was drawn from another prompt, negative or reference, or "
            "with other values of its method; give another folder"
        )
    if record.get("not_possible"):
        _note(task, drawn, record["not_possible"])
        return True
    for seed, sha256 in zip(task.seeds, record["images"], strict=True):
        image = run.out / task.image(seed)
        if not image.exists():
            return False
        if hashlib.sha256(image.read_bytes()).hexdigest() != sha256:
            raise ValueError(f"{image} was changed since it was drawn; delete it, and it is drawn again")
    drawn.done[task.column.name][task] = record
    drawn.guidance_scale = record["guidance_scale"]
    return True


def _note(task: Task, drawn: Drawn, reason: str) -> None:
    """Remember that a task is not possible."""
    drawn.left_out.setdefault(task.column.name, {})[task.item.id] = reason


def _draw(run: Run, task: Task, generator: Generator, drawn: Drawn, warm: set[str]) -> None:
    name = task.column.name
    call = run.call(task)
    stored = _stored(run, task, call)
    record: dict[str, Any] = {"guidance_scale": generator.guidance_scale, "settings": digest(stored)}
    try:
        measured = generator.draw(call)
    except NotPossibleError as error:
        if task.column.key == PLAIN:
            raise
        _note(task, drawn, str(error))
        if isinstance(error, OutOfMemoryError):
            # the other calls of the column are as large
            if not drawn.done[name]:
                drawn.reasons[name] = str(error)
        else:
            save_json({**record, "not_possible": str(error)}, run.out / task.record)
        return
    files = [
        save_png(image, run.out / task.image(seed), {**stored, "guidance_scale": generator.guidance_scale})
        for seed, image in zip(task.seeds, measured.images, strict=True)
    ]
    record |= {
        "images": [hashlib.sha256(content).hexdigest() for content in files],
        "seconds": measured.seconds,
        "peak_bytes": measured.peak_bytes,
        # the first call of a column compiles and allocates
        "first": name not in warm,
    }
    warm.add(name)
    save_json(record, run.out / task.record)
    drawn.done[name][task] = record
