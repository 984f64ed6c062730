"""A whole run: which shards are still to be made, by whom, and what is written when all are there.

An input of several files is not read as a whole by any process: each begins with files of its own, and turns to those
of others when its own are done and theirs are not. What is complete is known from the markers, without the input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from negguide.mining.funnel import Funnel
from negguide.mining.item import Source
from negguide.mining.mined import Mined
from negguide.mining.settings import Settings
from negguide.mining.shards import SetFolder, part_digest
from negguide.mining.sources import BadSource, Input

Row = Source | BadSource


class ShardMiner(Protocol):
    """Makes a shard's items: `negguide.mining.block.Miner`, or `negguide.mining.text_only.TextMiner`."""

    def keeping(self, painted: Path, answers: Path, told: Callable[[int], None]) -> ShardMiner:
        """The same miner, which goes on from what an earlier run has left in these folders."""
        ...

    def __call__(self, rows: Sequence[Row]) -> Mined: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        funnel: of the set so far, what earlier runs and other processes made included.
        made: shards that this process made.
        missing: shards that other processes are still making, as far as they are known; 0 = the set is complete.
    """

    funnel: Funnel
    made: int
    missing: int


def run(
    out: Path | str,
    settings: Settings,
    source: Input,
    miner: ShardMiner,
    *,
    made_by: dict[str, Any],
    rank: int = 0,
    world: int = 1,
    begun: Callable[[str, int], None] = lambda name, pairs: None,
    done: Callable[[int], None] = lambda pairs: None,
    painted: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Make a set, or go on with it.

    Any number of processes may do so at once, on the same folder: each takes a shard that nobody has. Kill any of them
    at any moment; what it was making is made by another, or by the next run, from the batches that it has painted and
    from what a model has answered.

    Args:
        out: the folder of the set, or an address.
        settings: of the set.
        source: the input.
        miner: makes a shard's items.
        made_by: the versions that make it, for set.json.
        rank, world: of how many processes this is which; it begins with its own share of the shards.
        begun: is told the name of a shard and the number of its pairs before it is made.
        done: is told the number of pairs of a shard that is there.
        painted: is told the number of images of a batch that was painted.

    Raises:
        ValueError: the folder was made with other settings or from another input; or what a model refuses.
        OSError: the disk is full, or a server fails; what is complete stays.
    """
    work = _Work(SetFolder(out, settings, made_by), settings, source, miner, begun, done, painted)
    pieces = pieces_of(source, settings.limit)
    for number, piece in enumerate(pieces):
        if (share := _share(number, len(pieces), rank, world)) is not None:
            work.go_through(piece, share, check=True)
    before = -1
    # what others were making when they died
    while (left := [piece for piece in pieces if work.missing(piece)]) and work.made != before:
        before = work.made
        for piece in left:
            if work.free(piece):
                work.go_through(piece, (0, 1), check=False)
    missing = sum(work.missing(piece) for piece in pieces)
    work.tell()
    funnel = work.folder.funnel()
    if not missing:
        if not funnel.sources["read"]:
            raise ValueError(f"--data {settings.data.get('name')} holds no pairs")
        work.folder.finish(funnel)
    return Outcome(funnel, work.made, missing)


@dataclass(frozen=True)
class Piece:
    """A shard of the input, as far as it is read.

    Attributes:
        number: of the shard in the input.
        limit: how many of its rows are read; None = all.
        alone: it is the whole input.
    """

    number: int
    limit: int | None
    alone: bool

    def name(self, part: int) -> str:
        """Of the shard of the set that is made from the part of this number."""
        return f"{part:08d}" if self.alone else f"{self.number:08d}-{part:08d}"


def pieces_of(source: Input, limit: int | None) -> list[Piece]:
    """The shards of the input that are read; with a limit, rows are counted up to it, images unopened."""
    alone = source.shards == 1
    if alone or limit is None:
        return [Piece(number, limit, alone) for number in range(source.shards)]
    pieces = []
    for number in range(source.shards):
        rows = sum(1 for _ in islice(source.shard_rows(number), limit))
        pieces.append(Piece(number, limit, alone))
        limit -= rows
        if not limit:
            break
    return pieces


def _share(number: int, pieces: int, rank: int, world: int) -> tuple[int, int] | None:
    """Which part of a piece is a process's own, as (remainder, divisor) of the parts' numbers; None = no part of it.

    With fewer pieces than processes, several share a piece.
    """
    if pieces >= world:
        return (0, 1) if number % world == rank else None
    if rank % pieces != number:
        return None
    return rank // pieces, len(range(number, world, pieces))


def parts(source: Input, piece: Piece, size: int) -> Iterator[tuple[int, list[Row], bool]]:
    """A piece cut into the parts of the shards: (number, rows, whether it is the last).

    Of rows with the same id, the first one counts. A piece without rows has one part, without rows.
    """
    rows = islice(_unique(source.shard_rows(piece.number)), piece.limit)
    number = 0
    following = next(rows, None)
    while True:
        part = [] if following is None else [following, *islice(rows, size - 1)]
        following = next(rows, None)
        yield number, part, following is None
        if following is None:
            return
        number += 1


def _unique(rows: Iterator[Row]) -> Iterator[Row]:
    # 8 bytes a row, however large the file
    seen: set[bytes] = set()
    for row in rows:
        mark = blake2b(row.id.encode(), digest_size=8).digest()
        yield BadSource(row.id, "duplicate id") if mark in seen else row
        seen.add(mark)


@dataclass
class _Work:
    """What a process knows of the set while it makes its part of it.

    Attributes:
        made: shards that it made.
        counts: by piece: how many parts it has, where that is known.
        told: shards whose pairs ``done`` was told.
    """

    folder: SetFolder
    settings: Settings
    source: Input
    miner: ShardMiner
    begun: Callable[[str, int], None]
    done: Callable[[int], None]
    painted: Callable[[int], None]
    made: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def go_through(self, piece: Piece, share: tuple[int, int], check: bool) -> None:
        """Make the parts of a piece that are in the share and not there.

        Args:
            share: those of these numbers, as (remainder, divisor).
            check: also that what is there was made from this input.
        """
        shard_print = self.source.shard_print(piece.number)
        if not self.missing(piece) and shard_print is not None:
            if check:
                self._check_print(piece, shard_print)
            return
        for part, rows, last in parts(self.source, piece, self.settings.shard_size):
            name = piece.name(part)
            if piece.alone and last and not part and not rows:
                raise ValueError(f"--data {self.settings.data.get('name')} holds no pairs")
            if last:
                self.counts[piece.number] = part + 1
            if self.folder.complete(name):
                if check:
                    self.folder.check_part(name, part_digest(rows))
            elif part % share[1] == share[0]:
                self._make(name, rows, last, shard_print)
            if self.folder.complete(name):
                self._tell(name)

    def _make(self, name: str, rows: list[Row], last: bool, shard_print: str | None) -> None:
        with self.folder.claim(name, last) as free:
            if not free:
                return
            self.begun(name, len(rows))
            with self.folder.local_memory(name) as answers:
                miner = self.miner.keeping(self.folder.memory(name), answers, self.painted)
                mined = miner(rows)
            more = {"pairs": len(rows), "last": last, "input": shard_print}
            self.folder.write(name, mined, part_digest(rows), **more)
            self.made += 1

    def _check_print(self, piece: Piece, shard_print: str) -> None:
        for part in range(self.counts[piece.number]):
            name = piece.name(part)
            if self.folder.record(name)["input"] != shard_print:
                self.folder.refuse_input(name)

    def missing(self, piece: Piece) -> int:
        """How many of its parts are not there; at least 1 where it is not known how many it has."""
        there = 0
        while self.folder.complete(piece.name(there)):
            if self.folder.record(piece.name(there))["last"]:
                self.counts[piece.number] = there + 1
                return 0
            there += 1
        if piece.number not in self.counts:
            return 1
        return sum(not self.folder.complete(piece.name(part)) for part in range(self.counts[piece.number]))

    def free(self, piece: Piece) -> bool:
        """Whether it may have a part that is neither there nor being made, as far as is known without reading it."""
        part = 0
        while True:
            name = piece.name(part)
            if self.folder.complete(name):
                last = bool(self.folder.record(name)["last"])
            else:
                held = self.folder.claims.held(name)
                if held is None:
                    return True
                last = held
            if last:
                return False
            part += 1

    def tell(self) -> None:
        for name in self.folder.names():
            self._tell(name)

    def _tell(self, name: str) -> None:
        if name not in self.told:
            self.told.add(name)
            self.done(self.folder.record(name)["pairs"])


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
