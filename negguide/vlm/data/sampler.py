"""Which rows are contrasted with each other: batches as a function of the seed and the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol


class Sampler(Protocol):
    """Gives the batches of an epoch, each for all processes together."""

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of epoch `number`, each a list of places of rows."""

    def rows(self, number: int) -> Sequence[int]:
        """The rows that epoch `number` is drawn from."""


class RandomSampler:
    """Every row at most once an epoch, in an order that is drawn for each epoch; what fills no batch is left out.

    Args:
        count: of rows.
        batch_size: of all processes together.
        seed: of the order.
        samples: rows that make an epoch, at most `count`; None = all.

    Raises:
        ValueError: the set is smaller than a batch or than an epoch, or a batch smaller than two.
    """

    def __init__(self, count: int, batch_size: int, seed: int, samples: int | None = None) -> None:
        self.samples = _check_size(count, batch_size, samples)
        self.count, self.batch_size, self.seed = count, batch_size, seed

    def __len__(self) -> int:
        return self.samples // self.batch_size

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of epoch `number`, each a list of places of rows."""
        order = list(range(self.count))
        random.Random(f"rows-{self.seed}-{number}").shuffle(order)
        return [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]

    def rows(self, number: int) -> Sequence[int]:
        """The rows that epoch `number` is drawn from: all."""
        return range(self.count)


class GroupSampler:
    """Batches that hold whole groups of siblings beside random rows: the hardness of the loss "grouped".

    A fraction of each batch is filled with groups: `group_size` rows (or all, where a group has fewer) of one source,
    in an order drawn for each epoch, every group in turn; the rest with random rows, those without siblings where the
    set has a batch of them. No row is twice in a batch.

    Args:
        groups: for every row, what it is a sibling by.
        batch_size: of all processes together.
        group_size: the most siblings of a group in one batch, at least 2.
        fraction: of a batch that is groups, in (0, 1].
        seed: of the order.
        samples: rows that make an epoch, at most as many as there are; None = all.

    Raises:
        ValueError: a batch that is smaller than a group, a set that is smaller than a batch or than an epoch, no
            siblings at all.
    """

    def __init__(
        self,
        groups: Sequence[Hashable],
        batch_size: int,
        *,
        group_size: int,
        fraction: float,
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        if group_size < 2:
            raise ValueError(f"group_size={group_size} must be at least 2: an image and a sibling")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction} of groups in a batch must be above 0 and at most 1")
        if batch_size < group_size:
            raise ValueError(
                f"batch_size={batch_size} is smaller than a group of {group_size}; give at least {group_size}"
            )
        self.samples = _check_size(len(groups), batch_size, samples)
        members: dict[Hashable, list[int]] = {}
        for row, group in enumerate(groups):
            members.setdefault(group, []).append(row)
        self.groups = [rows for rows in members.values() if len(rows) > 1]
        if not self.groups:
            raise ValueError("no two rows of the set are siblings; groups need rows with one source_id")
        self.count, self.batch_size, self.seed = len(groups), batch_size, seed
        self.group_size = group_size
        self.grouped = max(group_size, int(fraction * batch_size))
        alone = [rows[0] for rows in members.values() if len(rows) == 1]
        # a group that does not fit leaves any number of rows to fill, and no row may be in a batch twice
        self.singles = alone if len(alone) >= batch_size else list(range(self.count))

    def __len__(self) -> int:
        return self.samples // self.batch_size

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of epoch `number`, each a list of places of rows."""
        rng = random.Random(f"groups-{self.seed}-{number}")
        siblings, singles = self._siblings(rng), self._singles(rng)
        held: list[int] | None = None
        batches = []
        for _ in range(len(self)):
            batch: dict[int, None] = {}
            while True:
                group = held if held is not None else next(siblings)
                held = None
                if len(batch) + len(group) > self.grouped or batch.keys() & set(group):
                    held = group  # it opens the next batch
                    break
                batch |= dict.fromkeys(group)
            while len(batch) < self.batch_size:
                batch[next(singles)] = None
            order = list(batch)
            rng.shuffle(order)
            batches.append(order)
        return batches

    def rows(self, number: int) -> Sequence[int]:
        """The rows that epoch `number` is drawn from: all."""
        return range(self.count)

    def _siblings(self, rng: random.Random) -> Iterator[list[int]]:
        """Groups without end; of one that is too large, other siblings are drawn each time."""
        while True:
            order = list(self.groups)
            rng.shuffle(order)
            for group in order:
                yield rng.sample(group, min(self.group_size, len(group)))

    def _singles(self, rng: random.Random) -> Iterator[int]:
        while True:
            yield from rng.sample(self.singles, len(self.singles))


class Curriculum:
    """Another sampler, whose first epochs hold batches of some rows alone, as many batches as any other epoch.

    What is hard to see among everything else is learned first (curriculum learning, Bengio et al., ICML 2009). The
    chosen rows are gone through as often as it takes.

    Args:
        rest: of all rows.
        first: of the chosen rows, by their places among them.
        places: of the chosen rows in the set.
        epochs: how many hold them alone.
    """

    def __init__(self, rest: Sampler, first: Sampler, places: Sequence[int], epochs: int) -> None:
        self.rest, self.first, self.places, self.epochs = rest, first, tuple(places), epochs

    def __len__(self) -> int:
        return len(self.rest)

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of epoch `number`, each a list of places of rows."""
        if number >= self.epochs:
            return self.rest.epoch(number)
        per_pass, start = len(self.first), number * len(self)
        passes: dict[int, list[list[int]]] = {}
        batches = []
        for step in range(start, start + len(self)):
            turn, place = divmod(step, per_pass)
            if turn not in passes:
                passes = {turn: self.first.epoch(turn)}
            batches.append([self.places[row] for row in passes[turn][place]])
        return batches

    def rows(self, number: int) -> Sequence[int]:
        """The rows that epoch `number` is drawn from: the chosen ones at first."""
        return self.places if number < self.epochs else self.rest.rows(number)


def _check_size(count: int, batch_size: int, samples: int | None) -> int:
    """How many rows make an epoch."""
    if batch_size < 2:
        raise ValueError(f"batch_size={batch_size} must be at least 2: a contrast needs another row")
    if count < batch_size:
        raise ValueError(f"batch_size={batch_size} is larger than the set, which has {count} rows; give less")
    if samples is None:
        return count
    if not batch_size <= samples <= count:
        raise ValueError(
            f"train_num_samples={samples} must be at least a batch ({batch_size}) and at most the rows of the set "
            f"({count})"
        )
    return samples
