"""A set made by the actors of a Ray cluster: as many as there is room for, more when nodes join, fewer when some die.

An actor is a process like any other (`negguide.mining.run`): it shares nothing with the others but the set's storage,
so a killed one costs what it was making, and the bytes of the set are those of one process.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negguide.mining.claims import LEASE
from negguide.mining.run import Outcome, run
from negguide.mining.shards import MARKERS
from negguide.storage import location, names_in, on_this_machine, read_all

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from negguide.mining.build_text import Built
    from negguide.mining.verify.margins import Margins

RESTARTS = 3
"""How often an actor that died is started again in its place."""
_LOOK = 2.0
"""Seconds between two looks at what is done, and at whether there is room for another actor."""

_END = 30.0
"""Seconds that actors have to say what they painted, when the set is complete."""

Make = Callable[..., "Built"]


@dataclass(frozen=True)
class RayOptions:
    """How a set is made on Ray.

    Attributes:
        actors: how many make shards; None = as many as the cluster has room for, at any time.
        cpus, gpus: of each; gpus=None = 1 where the cluster has GPUs.
        judge_gpus: what the judge has of a GPU, in an actor of its own that all others ask; None = each has its own.

    Raises:
        ValueError: a number is out of range.
    """

    actors: int | None = None
    cpus: float = 1.0
    gpus: float | None = None
    judge_gpus: float | None = None

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise ValueError(f"--actors must be a whole number >= 1, got {self.actors}")
        if self.cpus <= 0:
            raise ValueError(f"--actor-cpus must be above 0, got {self.cpus}")
        for name, value in (("--actor-gpus", self.gpus), ("--judge-gpus", self.judge_gpus)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number >= 0, got {value}")


class RemoteJudge:
    """A judge that an actor holds; it scores as the one in this process would.

    Args:
        actor: of `_JudgeActor`.
        name, device: as `load_judge` takes them.
    """

    def __init__(self, actor: Any, name: str, device: str) -> None:
        import ray

        self.actor, self._named = actor, (name, device)
        self.name: str
        self.model: str
        self.margins: Margins
        self.name, self.model, self.margins = ray.get(actor.about.remote(name, device))

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """As `PairJudge.score`."""
        import ray

        scores: Tensor = ray.get(self.actor.score.remote(*self._named, list(images), list(captions)))
        return scores


class _JudgeActor:
    """Loads a judge when it is first asked, also after it has died and was started again."""

    def __init__(self) -> None:
        self.judges: dict[tuple[str, str], Any] = {}

    def _judge(self, name: str, device: str) -> Any:
        from negguide.mining.verify.judge import load_judge

        if (name, device) not in self.judges:
            self.judges[name, device] = load_judge(name, device)
        return self.judges[name, device]

    def about(self, name: str, device: str) -> tuple[str, str, Any]:
        judge = self._judge(name, device)
        return judge.name, judge.model, judge.margins

    def score(self, name: str, device: str, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        scores: Tensor = self._judge(name, device).score(images, captions)
        return scores


class _Worker:
    def __init__(self, make: Make, judge: Any) -> None:
        self.make, self.judge = make, judge
        self.built: Built | None = None

    def work(self, out: str, rank: int, world: int) -> tuple[Outcome, int]:
        """What a process of this rank does; gives also how many images it painted."""
        if self.built is None:
            more = {} if self.judge is None else {"judge_of": partial(RemoteJudge, self.judge)}
            self.built = self.make(**more)
        built, painted = self.built, Counter[str]()
        outcome = run(
            out,
            built.settings,
            built.source,
            built.miner,
            made_by=built.made_by,
            rank=rank,
            world=world,
            painted=lambda images: painted.update(images=images),
        )
        return outcome, painted.total()


def run_on_ray(
    out: Path | str,
    make: Make,
    options: RayOptions,
    *,
    done: Callable[[int], None] = lambda pairs: None,
    painted: Callable[[int], None] = lambda images: None,
    started: Callable[[Any], None] = lambda actor: None,
) -> Outcome:
    """Make a set, or go on with it, by the actors of the Ray cluster at RAY_ADDRESS, or of one on this machine.

    Args:
        out: as of `run`; with several machines, a folder that all of them see, or an address.
        make: loads the input and the models in each actor; with ``judge_of`` it takes the judge from that.
        options: how many actors, and what each has.
        done, painted: as of `run`.
        started: is given each actor's handle.

    Raises:
        ImportError: the package ray is missing.
        ValueError, OSError: as of `run`; or actors died until nothing more was made.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'negguide[ray]'") from error
    from ray.exceptions import RayActorError, RayTaskError

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    whole = ray.cluster_resources()
    gpus = min(1.0, whole.get("GPU", 0.0)) if options.gpus is None else options.gpus
    if options.actors is None and _room(whole, options, gpus) < 1:
        # it would be waited for without end
        raise ValueError(
            f"no actor with {options.cpus:g} CPUs and {gpus:g} GPUs"
            + ("" if options.judge_gpus is None else f" beside a judge with {options.judge_gpus:g}")
            + f" fits in the {whole.get('CPU', 0.0):g} CPUs and {whole.get('GPU', 0.0):g} GPUs of the Ray cluster; use "
            "a smaller --actor-gpus, or say with --actors how many are to be waited for"
        )
    place = location(out, "--out")
    where = str(place.absolute() if on_this_machine(place) else place)
    worker = ray.remote(_Worker).options(
        num_cpus=options.cpus, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS
    )

    judge = None
    if options.judge_gpus is not None:
        kind = ray.remote(_JudgeActor).options(
            num_cpus=1, num_gpus=options.judge_gpus, max_restarts=-1, max_task_retries=-1
        )
        judge = kind.remote()
    seen = _room(whole, options, gpus)
    world = seen if options.actors is None else options.actors
    at_work: dict[Any, Any] = {}
    begun = 0

    def begin() -> None:
        nonlocal begun
        actor = worker.remote(make, judge)
        started(actor)
        at_work[actor.work.remote(where, begun % world, world)] = actor
        begun += 1

    told: set[str] = set()

    def tell() -> None:
        new = [name for name in names_in(place / MARKERS) if name.endswith(".json") and name not in told]
        for content in read_all([place / MARKERS / name for name in new]):
            done(json.loads(content)["pairs"])
        told.update(new)

    last: Outcome | None = None
    lost = 0
    try:
        for _ in range(world):
            begin()
        while True:
            ready, _ = ray.wait(list(at_work), timeout=_LOOK)
            for reference in ready:
                actor = at_work.pop(reference)
                try:
                    outcome, images = ray.get(reference)
                    painted(images)
                    last = outcome if last is None or last.missing else last
                except RayTaskError as error:
                    # as one process raises it, without the trace of the actor's
                    raise (error.cause or error) from None
                except RayActorError:
                    lost += 1
                ray.kill(actor)
            tell()
            if last is not None and not last.missing:
                # the others see it too; those that were never begun are not waited for
                ended = ray.wait(list(at_work), num_returns=len(at_work), timeout=_END)[0] if at_work else []
                for reference in ended:
                    with suppress(RayActorError):
                        painted(ray.get(reference)[1])
                return last
            if at_work:
                # nodes that have joined
                before, seen = seen, _room(ray.cluster_resources(), options, gpus)
                for _ in range(seen - before if options.actors is None else 0):
                    begin()
                continue
            if lost > RESTARTS:
                raise OSError(
                    f"{lost} actors of Ray died, each after {RESTARTS} restarts; what is complete stays in {out}, and "
                    "the same command goes on from there; `ray logs` has what they said"
                )
            if last is not None and not last.made:
                # what a machine was making that is gone
                time.sleep(LEASE / 4)
            begin()
    finally:
        for actor in (*at_work.values(), *(() if judge is None else (judge,))):
            ray.kill(actor)


def _room(whole: Mapping[str, float], options: RayOptions, gpus: float) -> int:
    """How many actors a cluster with these resources has room for, with nothing else on it."""
    fits = (whole.get("CPU", 0.0) - (options.judge_gpus is not None)) / options.cpus
    if gpus:
        fits = min(fits, (whole.get("GPU", 0.0) - (options.judge_gpus or 0.0)) / gpus)
    # 0.9 / 0.3 is a little below 3
    return int(fits + 1e-9)
