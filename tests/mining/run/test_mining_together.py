"""Shards of a group share batches; planning and writing go on while others are painted."""

import threading
from dataclasses import replace
from pathlib import Path

import mining_fakes as fakes
import pytest

from negguide.mining.block import Miner
from negguide.mining.mined import Mined
from negguide.mining.run import run
from negguide.mining.shards import SetFolder, read_set
from negguide.mining.sources import open_source


class Batches(fakes.Artist):
    """Paints batches of four and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __call__(self, jobs):
        self.sizes.append(len(jobs))
        return super().__call__(jobs)

    def batches(self, jobs):
        return [list(range(start, min(start + 4, len(jobs)))) for start in range(0, len(jobs), 4)]


def test_retries_of_several_shards_share_batches(tmp_path: Path) -> None:
    alone, together = Batches(), Batches()
    first = fakes.mine(tmp_path / "alone", artist=alone)
    second = fakes.mine(tmp_path / "together", artist=together, shards_together=4)
    # a painter whose images do not depend on their batch: the same pairs
    assert [item for item, _ in read_set(tmp_path / "alone")] == [
        item for item, _ in read_set(tmp_path / "together")
    ]
    assert first.funnel.to_dict() == second.funnel.to_dict() and second.made == 4
    assert sum(alone.sizes) == sum(together.sizes) == second.funnel.images
    partial = [sum(size < 4 for size in artist.sizes) for artist in (alone, together)]
    assert partial[1] < partial[0] / 2 and len(together.sizes) < len(alone.sizes)


def test_a_group_that_is_broken_off_paints_nothing_again_and_ends_the_same(tmp_path: Path) -> None:
    class Stops(Batches):
        def __call__(self, jobs):
            if len(self.sizes) == 5:
                raise KeyboardInterrupt
            return super().__call__(jobs)

    fakes.mine(tmp_path / "whole", artist=Batches(), shards_together=2)
    stops, rest = Stops(), Batches()
    with pytest.raises(KeyboardInterrupt):
        fakes.mine(tmp_path / "set", artist=stops, shards_together=2)
    assert not SetFolder(tmp_path / "set", fakes.settings(shards_together=2), {}).claims.any_held()
    outcome = fakes.mine(tmp_path / "set", artist=rest, shards_together=2)
    assert sum(stops.sizes) + sum(rest.sizes) == outcome.funnel.images
    # one of a group is lost: it is made again, the other stays as it is
    (tmp_path / "set" / "markers" / "00000002.json").unlink()
    assert fakes.mine(tmp_path / "set", artist=Batches(), shards_together=2).made == 1
    assert fakes.files_of(tmp_path / "set") == fakes.files_of(tmp_path / "whole")


def test_the_next_shard_is_planned_and_the_last_written_while_one_is_painted(tmp_path: Path) -> None:
    seen: dict[str, set[int]] = {"plan": set(), "make": set()}
    planned, order = threading.Event(), []

    class Watched(Miner):
        def keeping(self, painted, answers, told):
            return self

        def plan(self, rows):
            seen["plan"].add(threading.get_ident())
            order.append("plan")
            if order.count("plan") == 2:
                planned.set()
            return super().plan(rows)

        def make(self, shards):
            seen["make"].add(threading.get_ident())
            # the next is planned before this one is painted
            assert planned.wait(60)
            order.append("make")
            return super().make(shards)

    chosen = fakes.settings()
    kept = fakes.miner(chosen)
    miner = Watched(chosen, kept.planner, kept.painter, kept.judge)
    outcome = run(tmp_path / "set", chosen, open_source("toyworld:15"), miner, made_by={})
    assert (outcome.made, outcome.missing) == (3, 0)
    assert order[:2] == ["plan", "plan"] and len(seen["make"]) == 1 and not seen["plan"] & seen["make"]


def test_what_fails_while_a_shard_is_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: SetFolder, name: str, mined: Mined, part: str, **more: object) -> bool:
        raise OSError("the disk is full")

    monkeypatch.setattr(SetFolder, "write", fails)
    with pytest.raises(OSError, match="the disk is full"):
        fakes.mine(tmp_path / "set")
    assert not SetFolder(tmp_path / "set", fakes.settings(), {}).claims.any_held()


def test_photos_are_not_held_open_by_the_shards_that_wait(tmp_path: Path) -> None:
    from negguide.mining.item import StoredImage

    rows = [replace(row, stored=StoredImage(lambda: b"")) for row in fakes.sources(3)]
    planned = fakes.miner(fakes.settings()).plan(rows)
    assert planned.pairs and all(pair.original is None for pair in planned.pairs)
    changing = fakes.miner(fakes.settings(mode="edit")).plan(rows)
    assert all(pair.original is not None for pair in changing.pairs)
