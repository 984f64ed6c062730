"""Batches of rows, and of groups of siblings."""

import pytest

from negguide.vlm.sampler import GroupSampler, RandomSampler


def test_every_row_comes_once_an_epoch_and_each_epoch_has_its_own_order() -> None:
    sampler = RandomSampler(20, 6, seed=3)
    first = sampler.epoch(0)
    rows = [row for batch in first for row in batch]
    assert [len(batch) for batch in first] == [6, 6, 6] and len(set(rows)) == 18
    assert first == RandomSampler(20, 6, seed=3).epoch(0)
    assert first != sampler.epoch(1) and first != RandomSampler(20, 6, seed=4).epoch(0)


def test_a_batch_of_groups_holds_whole_groups_and_no_row_twice() -> None:
    groups = [row // 3 for row in range(60)]
    sampler = GroupSampler(groups, 12, group_size=3, share=0.5, seed=1)
    for batch in sampler.epoch(0):
        assert len(batch) == len(set(batch)) == 12
        sizes = [sum(groups[row] == group for row in batch) for group in {groups[row] for row in batch}]
        assert sum(size == 3 for size in sizes) >= 2
    assert sampler.epoch(0) == GroupSampler(groups, 12, group_size=3, share=0.5, seed=1).epoch(0)


def test_every_group_has_its_turn() -> None:
    groups = [row // 2 for row in range(40)]
    sampler = GroupSampler(groups, 10, share=1.0)
    pairs = {groups[row] for batch in sampler.epoch(0) for row in batch if batch.count(row) == 1}
    together = [
        group
        for batch in sampler.epoch(0)
        for group in set(groups)
        if sum(groups[r] == group for r in batch) == 2
    ]
    assert pairs == set(groups) and sorted(together) == sorted(set(groups))


def test_siblings_of_a_large_group_are_drawn_anew() -> None:
    groups = [0] * 30 + list(range(1, 31))
    sampler = GroupSampler(groups, 8, group_size=4, share=0.5)
    drawn = {frozenset(row for row in batch if row < 30) for batch in sampler.epoch(0)}
    assert len(drawn) > 1 and all(len(rows) >= 4 for rows in drawn)


def test_batches_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=3 is smaller than a group of 4"):
        GroupSampler([0, 0, 1, 1], 3, group_size=4)
    with pytest.raises(ValueError, match="no two rows of the set are siblings"):
        GroupSampler([0, 1, 2, 3], 4)
    with pytest.raises(ValueError, match="group_size=1 must be at least 2"):
        GroupSampler([0, 0], 2, group_size=1)
    with pytest.raises(ValueError, match=r"share=0 .* above 0"):
        GroupSampler([0, 0], 2, share=0)
    with pytest.raises(ValueError, match="batch_size=64 is larger than the set, which has 10 rows"):
        RandomSampler(10, 64, seed=0)
    with pytest.raises(ValueError, match="batch_size=1 must be at least 2"):
        RandomSampler(10, 1, seed=0)
