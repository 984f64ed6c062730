"""Several processes read an input once between them."""

import threading
from collections import Counter
from pathlib import Path

import mining_fakes as fakes
import pytest

from negguide.mining.mined import Mined
from negguide.mining.run import parts, pieces_of, run
from negguide.mining.sources import Input


class Files(Input):
    """An input of several files that counts how often each is opened."""

    name, licence, world = "files", None, "toyworld"

    def __init__(self, count: int, rows: int = 2) -> None:
        self.held = [fakes.sources(rows, load=None) for _ in range(count)]
        self.opened: Counter[int] = Counter()

    @property
    def shards(self) -> int:
        return len(self.held)

    def shard_print(self, shard: int) -> str:
        return f"file {shard}"

    def shard_rows(self, shard):
        self.opened[shard] += 1
        yield from self.held[shard]

    def rows(self):
        for shard in range(self.shards):
            yield from self.shard_rows(shard)


class Together:
    """A miner of which all processes make one shard at a time, in step."""

    def __init__(self, processes: int) -> None:
        self.barrier = threading.Barrier(processes)

    def keeping(self, painted, answers, told):
        return self

    def plan(self, rows):
        mined = Mined()
        mined.funnel.sources["read"] += len(rows)
        return mined

    def make(self, shards):
        self.barrier.wait(60)
        return list(shards)


def in_threads(out: Path, source: Files, world: int, size: int) -> None:
    chosen, miner = fakes.settings(shard_size=size), Together(world)
    failed: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            run(out, chosen, source, miner, made_by={}, rank=rank, world=world)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed


@pytest.mark.parametrize("world", [1, 4])
def test_reading_grows_with_the_input_and_not_with_the_processes(tmp_path: Path, world: int) -> None:
    source = Files(8)
    in_threads(tmp_path / "set", source, world, size=2)
    assert source.opened == dict.fromkeys(range(8), 1)
    # what is complete is known without the input
    again = Files(8)
    outcome = run(
        tmp_path / "set", fakes.settings(shard_size=2), again, Together(1), made_by={}, rank=1, world=2
    )
    assert (outcome.made, outcome.missing) == (0, 0) and not again.opened
    assert outcome.funnel.sources["read"] == 16


def test_fewer_files_than_processes_are_shared(tmp_path: Path) -> None:
    source = Files(2, rows=8)
    in_threads(tmp_path / "set", source, 4, size=2)
    assert source.opened == {0: 2, 1: 2}
    assert sum(name.startswith("markers/") for name in fakes.files_of(tmp_path / "set")) == 8


def test_what_a_dead_process_leaves_is_read_by_another(tmp_path: Path) -> None:
    source = Files(4)
    outcome = run(
        tmp_path / "set", fakes.settings(shard_size=2), source, Together(1), made_by={}, rank=1, world=2
    )
    assert (outcome.made, outcome.missing) == (4, 0)
    assert source.opened == dict.fromkeys(range(4), 1)


def test_a_changed_file_is_seen_without_reading_it(tmp_path: Path) -> None:
    chosen = fakes.settings(shard_size=2)
    run(tmp_path / "set", chosen, Files(2), Together(1), made_by={})
    source = Files(2)
    source.shard_print = lambda shard: "another"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="--data has changed since shard 00000000-00000000"):
        run(tmp_path / "set", chosen, source, Together(1), made_by={})
    assert not source.opened


def test_a_limit_counts_rows_over_files() -> None:
    source = Files(4, rows=3)
    pieces = pieces_of(source, 7)
    assert [(piece.number, piece.limit) for piece in pieces] == [(0, 7), (1, 4), (2, 1)]
    assert [len(rows) for piece in pieces for _, rows, _ in parts(source, piece, 2)] == [2, 1, 2, 1, 1]
    assert [last for _, _, last in parts(source, pieces[0], 3)] == [True]


def test_a_file_without_rows_has_an_empty_shard(tmp_path: Path) -> None:
    source = Files(2)
    source.held[1] = []
    outcome = run(tmp_path / "set", fakes.settings(shard_size=2), source, Together(1), made_by={})
    assert (outcome.made, outcome.missing) == (2, 0)
    empty = Files(2, rows=0)
    with pytest.raises(ValueError, match="holds no pairs"):
        run(tmp_path / "none", fakes.settings(shard_size=2), empty, Together(1), made_by={})
