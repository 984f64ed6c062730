"""A whole run: which shards are still to be made, by whom, and what is written when all are there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from negguide.mining.funnel import Funnel
from negguide.mining.item import Source
from negguide.mining.settings import Settings
from negguide.mining.shards import Mined, SetFolder, part_digest
from negguide.mining.sources import BadSource

Row = Source | BadSource


class ShardMiner(Protocol):
    """Makes a shard's items: `negguide.mining.block.Miner`, or `negguide.mining.text_only.TextMiner`."""

    def keeping(self, folder: Path, painted: Callable[[int], None]) -> ShardMiner:
        """The same miner, which goes on from what an earlier run has left in ``folder``."""
        ...

    def __call__(self, rows: Sequence[Row]) -> Mined: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        funnel: of the set so far, what earlier runs and other processes made included.
        made: shards that this process made.
        missing: shards that other processes are still making; 0 = the set is complete.
    """

    funnel: Funnel
    made: int
    missing: int


def run(
    out: Path | str,
    settings: Settings,
    source: Any,
    miner: ShardMiner,
    *,
    made_by: dict[str, Any],
    rank: int = 0,
    world: int = 1,
    begun: Callable[[int, int], None] = lambda number, pairs: None,
    done: Callable[[int], None] = lambda pairs: None,
    painted: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Make a set, or go on with it.

    Any number of processes may do so at once, on the same folder: each takes a shard that nobody has. Kill any of them
    at any moment; what it was making is made by another, or by the next run, from the batches that it has painted and
    from what a model has answered.

    Args:
        out: the folder of the set.
        settings: of the set.
        source: the input (`negguide.mining.sources.Input`): ``rows()`` gives all of it, in the same order every time.
        miner: makes a shard's items.
        made_by: the versions that make it, for set.json.
        rank, world: of how many processes this is which; it begins with its own share of the shards.
        begun: is told the number of a shard and of its pairs before it is made.
        done: is told the number of pairs of a shard that is there.
        painted: is told the number of images of a batch that was painted.

    Raises:
        ValueError: the folder was made with other settings or from another input; or what a model refuses.
        OSError: the disk is full, or a server fails; what is complete stays.
    """
    folder = SetFolder(out, settings, made_by)
    made = 0
    counted: set[int] = set()

    def go_through(mine: Callable[[int], bool]) -> int:
        """One pass over the input; returns how many shards are not there after it."""
        nonlocal made
        missing = 0
        for number, rows in parts(source, settings):
            if folder.complete(number):
                folder.check_part(number, part_digest(rows))
            elif mine(number):
                with folder.claim(number) as free:
                    if free:
                        begun(number, len(rows))
                        mined = miner.keeping(folder.memory(number), painted)(rows)
                        folder.write(number, mined, part_digest(rows))
                        made += 1
            if not folder.complete(number):
                missing += 1
            elif number not in counted:
                counted.add(number)
                done(len(rows))
        return missing

    missing = go_through(lambda number: number % world == rank)
    before = -1
    # what others were making when they died
    while missing and made != before:
        before = made
        missing = go_through(lambda number: True)
    funnel = folder.funnel()
    if not missing:
        folder.finish(funnel)
    return Outcome(funnel, made, missing)


def parts(source: Any, settings: Settings) -> Iterator[tuple[int, list[Row]]]:
    """The input cut into the shards' parts: (number, rows). Of rows with the same id, the first one counts."""
    rows = _unique(source)
    if settings.limit is not None:
        rows = islice(rows, settings.limit)
    number = 0
    while part := list(islice(rows, settings.shard_size)):
        yield number, part
        number += 1
    if not number:
        raise ValueError(f"--data {settings.data.get('name')} holds no pairs")


def _unique(source: Any) -> Iterator[Row]:
    # 8 bytes a row, however large the input
    seen: set[bytes] = set()
    for row in source.rows():
        mark = blake2b(row.id.encode(), digest_size=8).digest()
        yield BadSource(row.id, "duplicate id") if mark in seen else row
        seen.add(mark)


def place_among_processes() -> tuple[int, int, int]:
    """(rank, world, local rank) as `accelerate launch` and torchrun say them; (0, 1, 0) without.

    The environment is read and no process group is made: the processes share nothing but the folder, and one that
    dies does not stop the others.

    Raises:
        ValueError: the variables hold no such numbers.
    """
    try:
        rank, world, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    except ValueError as error:
        raise ValueError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from error
    if not 0 <= rank < world:
        raise ValueError(f"RANK={rank} must be at least 0 and below WORLD_SIZE={world}")
    return rank, world, local


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
