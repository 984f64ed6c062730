"""Actors of Ray make the set that one process makes, also when one of them is killed."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import mining_fakes as fakes
import pytest

from negguide.mining.build_text import Built
from negguide.mining.on_ray import RayOptions, run_on_ray
from negguide.mining.sources import open_source

ray = pytest.importorskip("ray")
PAIRS = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # the actors import this file, by its name from the root, and what it imports
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, sys.path)])
    # more than this machine may have: an actor that waits for a core that is never free would hang
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()


def make(seconds: float, started: str | None = None, judge_of: Any = None) -> Built:
    """A miner whose painter needs some time for each call, and that says in a file which process it is."""
    if started is not None:
        Path(started, str(os.getpid())).touch()
    chosen = fakes.settings(shard_size=2)
    judge = None if judge_of is None else judge_of("toyworld", "cpu")
    miner = fakes.miner(chosen, fakes.Artist(seconds=seconds), judge=judge)
    return Built(open_source(f"toyworld:{PAIRS}"), chosen, miner, {"negguide": "test"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "whole"
    fakes.mine(folder, open_source(f"toyworld:{PAIRS}"), shard_size=2)
    return folder


def test_a_killed_actor_changes_no_byte(cluster: None, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "started").mkdir()
    killed: list[int] = []

    def kill() -> None:
        """Kill an actor in the middle of a shard, when another shard is there."""
        give_up = time.monotonic() + 300
        while time.monotonic() < give_up and not killed:
            time.sleep(0.05)
            if (tmp_path / "set" / "markers").is_dir() and any((tmp_path / "set" / "markers").iterdir()):
                claims = (tmp_path / "set" / ".claims").glob("0*")
                # a claim may go while it is read
                with suppress(OSError, ValueError):
                    killed.append(json.loads(next(claims, Path("none")).read_bytes())["process"])
                    os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done: list[int] = []
    outcome = run_on_ray(
        tmp_path / "set",
        partial(make, 0.3, str(tmp_path / "started")),
        RayOptions(actors=2),
        done=done.append,
    )
    killer.join()
    # both were at work
    assert {str(killed[0])} < {path.name for path in (tmp_path / "started").iterdir()}
    assert outcome.missing == 0 and sum(done) == PAIRS == outcome.funnel.sources["read"]
    assert fakes.files_of(tmp_path / "set") == fakes.files_of(whole)


def test_the_judge_may_have_an_actor_of_its_own(cluster: None, whole: Path, tmp_path: Path) -> None:
    painted: list[int] = []
    outcome = run_on_ray(
        tmp_path / "set", partial(make, 0.0), RayOptions(judge_gpus=0.0), painted=painted.append
    )
    assert outcome.funnel.images == sum(painted)
    assert fakes.files_of(tmp_path / "set") == fakes.files_of(whole)


def refused(**more: Any) -> Built:
    raise ValueError("--steps must be a whole number >= 1, got 0")


def test_what_an_actor_refuses_is_said_as_by_one_process(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--steps must be a whole number >= 1, got 0$"):
        run_on_ray(tmp_path / "set", refused, RayOptions(actors=1))
    with pytest.raises(
        ValueError, match=r"no actor with 1 CPUs and 1 GPUs fits in the 4 CPUs and 0 GPUs of the Ray"
    ):
        run_on_ray(tmp_path / "set", refused, RayOptions(gpus=1.0))
    for changes, message in (
        ({"actors": 0}, "--actors must be"),
        ({"judge_gpus": -1.0}, "--judge-gpus must be"),
    ):
        with pytest.raises(ValueError, match=message):
            RayOptions(**changes)


def test_an_actor_is_begun_for_each_place_that_the_cluster_has() -> None:
    from negguide.mining.on_ray import _room

    cluster = {"CPU": 16.0, "GPU": 4.0}
    assert _room(cluster, RayOptions(), 1.0) == 4
    assert _room(cluster, RayOptions(judge_gpus=0.2), 1.0) == 3
    assert _room(cluster, RayOptions(judge_gpus=1.0), 0.5) == 6
    assert _room({"CPU": 4.0}, RayOptions(judge_gpus=0.0), 0.0) == 3
    assert _room({"CPU": 4.0, "GPU": 1.0}, RayOptions(judge_gpus=0.2), 1.0) == 0
    assert _room({"CPU": 4.0, "GPU": 1.0}, RayOptions(judge_gpus=0.1), 0.3) == 3
