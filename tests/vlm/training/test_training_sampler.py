"""Batches of rows, and of groups of siblings."""

import pytest

from negguide.vlm.data.sampler import Curriculum, GroupSampler, RandomSampler


def test_every_row_comes_once_an_epoch_and_each_epoch_has_its_own_order() -> None:
    sampler = RandomSampler(20, 6, seed=3)
    first = sampler.epoch(0)
    rows = [row for batch in first for row in batch]
    assert [len(batch) for batch in first] == [6, 6, 6] and len(set(rows)) == 18
    assert first == RandomSampler(20, 6, seed=3).epoch(0)
    assert first != sampler.epoch(1) and first != RandomSampler(20, 6, seed=4).epoch(0)


def test_a_batch_of_groups_holds_whole_groups_and_no_row_twice() -> None:
    groups = [row // 3 for row in range(60)]
    sampler = GroupSampler(groups, 12, group_size=3, fraction=0.5, seed=1)
    for batch in sampler.epoch(0):
        assert len(batch) == len(set(batch)) == 12
        sizes = [sum(groups[row] == group for row in batch) for group in {groups[row] for row in batch}]
        assert sum(size == 3 for size in sizes) >= 2
    assert sampler.epoch(0) == GroupSampler(groups, 12, group_size=3, fraction=0.5, seed=1).epoch(0)


def test_every_group_has_its_turn() -> None:
    groups = [row // 2 for row in range(40)]
    sampler = GroupSampler(groups, 10, group_size=2, fraction=1.0)
    together = [
        group
        for batch in sampler.epoch(0)
        for group in set(groups)
        if sum(groups[r] == group for r in batch) == 2
    ]
    assert sorted(together) == sorted(set(groups))


def test_siblings_of_a_large_group_are_drawn_anew() -> None:
    groups = [0] * 30 + list(range(1, 31))
    sampler = GroupSampler(groups, 8, group_size=4, fraction=0.5)
    drawn = {frozenset(row for row in batch if row < 30) for batch in sampler.epoch(0)}
    assert len(drawn) > 1 and all(len(rows) >= 4 for rows in drawn)


def test_a_batch_is_filled_even_where_a_group_comes_round_again() -> None:
    # 20 sources with eight negatives each, and fewer plain pairs than a batch has rows
    groups = [source for source in range(20) for _ in range(9)] + list(range(100, 140))
    for batch in GroupSampler(groups, 64, group_size=2, fraction=0.5, seed=0).epoch(0):
        assert len(batch) == len(set(batch)) == 64


def test_an_epoch_may_be_shorter_than_the_set() -> None:
    sampler = RandomSampler(60, 6, seed=3, samples=20)
    assert len(sampler) == len(sampler.epoch(0)) == 3
    rows = {row for number in range(12) for batch in sampler.epoch(number) for row in batch}
    assert len(rows) > 50  # another choice each epoch
    groups = GroupSampler([row // 2 for row in range(60)], 6, group_size=2, fraction=0.5, samples=20)
    assert len(groups) == len(groups.epoch(0)) == 3
    for samples in (5, 61):
        with pytest.raises(ValueError, match=rf"train_num_samples={samples} must be at least a batch \(6\)"):
            RandomSampler(60, 6, seed=3, samples=samples)


def test_what_is_no_group_is_filled_with_rows_without_siblings() -> None:
    groups = [row // 2 for row in range(40)] + list(range(100, 130))
    batches = GroupSampler(groups, 10, group_size=2, fraction=0.6).epoch(0)
    assert all(sum(row >= 40 for row in batch) >= 4 for batch in batches)
    drawn = [row for batch in batches for row in batch if row >= 40]
    assert len(set(drawn)) == len(drawn) <= 30  # none comes again before all have come
    # too few of them: any row fills
    batches = GroupSampler(groups[:42], 10, group_size=2, fraction=0.6).epoch(0)
    assert all(len(set(batch)) == 10 for batch in batches)
    assert any(groups.count(groups[row]) > 1 for batch in batches for row in batch)


def test_a_curriculum_begins_with_the_chosen_rows_alone() -> None:
    rest, first = RandomSampler(60, 6, seed=3), RandomSampler(20, 6, seed=3)
    places = range(1, 60, 3)
    sampler = Curriculum(rest, first, places, epochs=2)
    assert len(sampler) == len(rest) == 10
    epochs = [sampler.epoch(number) for number in range(3)]
    assert all(len(epoch) == 10 and all(len(set(batch)) == 6 for batch in epoch) for epoch in epochs)
    # three batches are one pass over the chosen rows, and each pass has its own order
    chosen = [*epochs[0], *epochs[1]]
    for start in range(0, 18, 3):
        rows = [row for batch in chosen[start : start + 3] for row in batch]
        assert len(set(rows)) == 18 and set(rows) <= set(places)
    assert chosen[0] != chosen[3] and len({tuple(batch) for batch in chosen}) == 20
    assert epochs[2] == rest.epoch(2)


def test_batches_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=3 is smaller than a group of 4"):
        GroupSampler([0, 0, 1, 1], 3, group_size=4, fraction=0.5)
    with pytest.raises(ValueError, match="no two rows of the set are siblings"):
        GroupSampler([0, 1, 2, 3], 4, group_size=2, fraction=0.5)
    with pytest.raises(ValueError, match="group_size=1 must be at least 2"):
        GroupSampler([0, 0], 2, group_size=1, fraction=0.5)
    with pytest.raises(ValueError, match=r"fraction=0 .* above 0"):
        GroupSampler([0, 0], 2, group_size=2, fraction=0)
    with pytest.raises(ValueError, match="batch_size=64 is larger than the set, which has 10 rows"):
        RandomSampler(10, 64, seed=0)
    with pytest.raises(ValueError, match="batch_size=1 must be at least 2"):
        RandomSampler(10, 1, seed=0)
