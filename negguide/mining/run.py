"""A whole run: which shards are still to be made, by whom, and what is written when all are there.

An input of several files is not read as a whole by any process: each begins with files of its own, and turns to those
of others when its own are done and theirs are not. What is complete is known from the markers, without the input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from negguide.mining.funnel import Funnel
from negguide.mining.item import Source
from negguide.mining.mined import Mined
from negguide.mining.originals import in_a_line
from negguide.mining.settings import Settings
from negguide.mining.shards import SetFolder, part_digest
from negguide.mining.sources import BadSource, Input

Row = Source | BadSource


class ShardMiner(Protocol):
    """Makes a shard's items: `negguide.mining.block.Miner`, or `negguide.mining.text_only.TextMiner`."""

    def keeping(self, painted: Path, answers: Path, told: Callable[[int], None]) -> ShardMiner:
        """The same miner, which goes on from what an earlier run has left in these folders."""
        ...

    def plan(self, rows: Sequence[Row]) -> Any:
        """What is to be made of a shard's rows; called in a thread of its own, while others are made."""
        ...

    def make(self, shards: Sequence[Any]) -> list[Mined]:
        """What comes of the plans of some shards that are made together."""
        ...


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
    shares = [_share(number, len(pieces), rank, world) for number in range(len(pieces))]
    work.go_through(
        [(piece, share) for piece, share in zip(pieces, shares, strict=True) if share is not None], check=True
    )
    before = -1
    # what others were making when they died
    while (left := [piece for piece in pieces if work.missing(piece)]) and work.made != before:
        before = work.made
        work.go_through([(piece, (0, 1)) for piece in left], check=False)
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


@dataclass(frozen=True)
class Group:
    """Parts of a piece whose shards are made together, by one process.

    Attributes:
        number: in the piece.
        names, rows: of the shards.
        last: there are no parts behind them.
    """

    number: int
    names: tuple[str, ...]
    rows: tuple[list[Row], ...]
    last: bool


def groups(source: Input, piece: Piece, settings: Settings) -> Iterator[Group]:
    """A piece cut into the groups of parts that are made together."""
    cut = parts(source, piece, settings.shard_size)
    number = 0
    while some := list(islice(cut, settings.group_size)):
        names = tuple(piece.name(part) for part, _, _ in some)
        yield Group(number, names, tuple(rows for _, rows, _ in some), some[-1][2])
        number += 1


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


@dataclass(frozen=True)
class _Planned:
    """A group that is planned and not yet painted; its claim is held until it is written."""

    group: Group
    shard_print: str | None
    miner: ShardMiner
    plans: list[Any]
    claim: ExitStack


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

    def go_through(self, shares: Sequence[tuple[Piece, tuple[int, int]]], check: bool) -> None:
        """Make the groups of pieces that are in the shares and not there.

        While one is painted and judged, the next is read and planned, and the one before is written.

        Args:
            shares: of each piece the groups of these numbers, as (remainder, divisor).
            check: also that what is there was made from this input; without it, pieces are left alone of which others
                make all that is missing.
        """
        planned = chain.from_iterable(self._planned(piece, share, check) for piece, share in shares)
        held: list[_Planned] = []
        with ThreadPoolExecutor(1) as planning, ThreadPoolExecutor(1) as writing:
            written: Future[None] | None = None
            following = planning.submit(next, planned, None)
            try:
                while (current := following.result()) is not None:
                    held.append(current)
                    following = planning.submit(next, planned, None)
                    for name, rows in zip(current.group.names, current.group.rows, strict=True):
                        self.begun(name, len(rows))
                    made = current.miner.make(current.plans)
                    if written is not None:
                        written.result()
                        del held[0]
                    written = writing.submit(self._write, current, made)
                    # what is written is not kept in memory by what waits for it
                    del current, made
                if written is not None:
                    written.result()
            finally:
                # what was planned ahead when something failed
                if following.exception() is None and (ahead := following.result()) is not None:
                    held.append(ahead)
                if written is not None:
                    written.exception()
                for one in held:
                    one.claim.close()

    def _planned(self, piece: Piece, share: tuple[int, int], check: bool) -> Iterator[_Planned]:
        """The groups of a piece that are this process's to make, one after the other, each with its plans."""
        shard_print = self.source.shard_print(piece.number)
        if not self.missing(piece) and shard_print is not None:
            if check:
                for part in range(self.counts[piece.number]):
                    self.folder.check_print(piece.name(part), shard_print)
            return
        if not check and not self.free(piece):
            return
        for group in groups(self.source, piece, self.settings):
            if piece.alone and group.last and not any(group.rows):
                raise ValueError(f"--data {self.settings.data.get('name')} holds no pairs")
            if group.last:
                self.counts[piece.number] = group.number * self.settings.group_size + len(group.names)
            if group.number % share[1] != share[0]:
                continue
            for name, rows in zip(group.names, group.rows, strict=True):
                if self.folder.complete(name):
                    if check:
                        self.folder.check_part(name, part_digest(rows))
                        self.folder.check_images(name, rows)
                        if shard_print is not None:
                            self.folder.check_print(name, shard_print)
                    self._tell(name)
            claim = ExitStack()
            if not claim.enter_context(self.folder.claim(group.names, group.last)):
                claim.close()
                continue
            try:
                with self.folder.local_memory(group.names[0]) as answers:
                    miner = self.miner.keeping(self.folder.memory(group.names[0]), answers, self.painted)
                    plans = [miner.plan(rows) for rows in group.rows]
            except BaseException:
                claim.close()
                raise
            yield _Planned(group, shard_print, miner, plans, claim)

    def _write(self, planned: _Planned, made: Sequence[Mined]) -> None:
        group = planned.group
        for number, (name, rows, mined) in enumerate(zip(group.names, group.rows, made, strict=True), 1):
            last = group.last and number == len(group.names)
            more = {"pairs": len(rows), "last": last, "input": planned.shard_print}
            more["originals"] = in_a_line(rows, mined.originals)
            self.made += self.folder.write(name, mined, part_digest(rows), **more)
            self._tell(name)
        self.folder.forget(group.names[0])
        planned.claim.close()

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
            if self.folder.complete(piece.name(part)):
                if self.folder.record(piece.name(part))["last"]:
                    return False
                part += 1
                continue
            # a group is claimed by the name of its first part
            part -= part % self.settings.group_size
            last = self.folder.claims.held(piece.name(part))
            if last is None:
                return True
            if last:
                return False
            part += self.settings.group_size

    def tell(self) -> None:
        """Tell of what others have made."""
        for name in self.folder.records():
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
