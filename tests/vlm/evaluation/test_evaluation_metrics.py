"""Metrics against examples worked out by hand, at ties and at chance."""

import math

import pytest
import torch

from negguide._utils.stats import wilson
from negguide.vlm.evaluation.metrics import (
    STUDENT95,
    choice_correct,
    difference,
    group_correct,
    hard_positives_correct,
    image_correct,
    macro,
    mean,
    proportion,
    retrieved,
    text_correct,
)


def pairs(*matrices):
    """Rows are images, columns captions."""
    return torch.tensor(matrices, dtype=torch.float32)


def test_text_image_and_group_on_examples_by_hand():
    scores = pairs(
        [[0.9, 0.1], [0.2, 0.8]],  # everything right
        [[0.5, 0.1], [0.6, 0.8]],  # captions are told apart, but caption 0 prefers image 1
        [[0.5, 0.6], [0.1, 0.7]],  # images are told apart, but image 0 prefers caption 1
        [[0.1, 0.9], [0.8, 0.2]],  # everything wrong
    )
    assert text_correct(scores).tolist() == [True, True, False, False]
    assert image_correct(scores).tolist() == [True, False, True, False]
    assert group_correct(scores).tolist() == [True, False, False, False]


def test_any_tie_loses():
    equal = pairs([[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.9], [0.1, 0.95]], [[0.9, 0.1], [0.9, 0.95]])
    assert text_correct(equal).tolist() == [False, False, True]
    assert image_correct(equal).tolist() == [False, True, False]
    assert not group_correct(equal).any()
    same = torch.tensor([[0.3, 0.3, 0.1], [0.3, 0.2, 0.1]])
    assert choice_correct(same, torch.tensor([0, 0])).tolist() == [False, True]
    assert choice_correct(same, torch.tensor([1, 2])).tolist() == [False, False]


def test_swapping_both_images_and_captions_changes_nothing():
    scores = torch.rand(200, 2, 2, generator=torch.Generator().manual_seed(0))
    for metric in (text_correct, image_correct, group_correct):
        assert torch.equal(metric(scores), metric(scores.flip(1, 2)))
    assert torch.equal(text_correct(scores), image_correct(scores.mT))


def test_chance_is_a_quarter_a_quarter_and_a_sixth():
    scores = torch.rand(60_000, 2, 2, generator=torch.Generator().manual_seed(1))
    for metric, chance in ((text_correct, 1 / 4), (image_correct, 1 / 4), (group_correct, 1 / 6)):
        assert abs(metric(scores).float().mean() - chance) < 0.006
    options = torch.rand(60_000, 4, generator=torch.Generator().manual_seed(2))
    assert abs(choice_correct(options, torch.full((60_000,), 2)).float().mean() - 1 / 4) < 0.006
    three = torch.rand(60_000, 4, generator=torch.Generator().manual_seed(3))
    hard = hard_positives_correct(three[:, 0], three[:, 1:3], three[:, 3])
    assert abs(hard.float().mean() - 1 / 4) < 0.006


def test_options_that_an_item_does_not_have_are_never_chosen():
    scores = torch.tensor([[0.1, 0.0, -torch.inf], [0.1, 0.2, -torch.inf]])
    assert choice_correct(scores, torch.tensor([0, 0])).tolist() == [True, False]


def test_retrieval_ranks_by_the_best_relevant_entry():
    scores = torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.9, 0.5, 0.1, 0.2], [0.9, 0.5, 0.1, 0.2]])
    relevant = torch.tensor(
        [[True, False, False, False], [False, True, True, False], [False, False, True, False]]
    )
    assert retrieved(scores, relevant, 1).tolist() == [True, False, False]
    assert retrieved(scores, relevant, 2).tolist() == [True, True, False]
    assert retrieved(scores, relevant, 4).tolist() == [True, True, True]


def test_a_wrong_entry_with_the_same_score_goes_first():
    scores, relevant = torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([[True, False, False]])
    assert retrieved(scores, relevant, 1).tolist() == [False]
    assert retrieved(scores, relevant, 2).tolist() == [True]
    both = torch.tensor([[True, True, False]])
    assert retrieved(scores, both, 1).tolist() == [True]


def test_retrieval_refuses_a_query_without_an_answer():
    with pytest.raises(ValueError, match="relevant has a query without anything relevant"):
        retrieved(torch.rand(2, 3), torch.tensor([[True, False, False], [False, False, False]]), 1)


def test_hard_positives_need_the_caption_and_every_paraphrase():
    caption, negative = torch.tensor([0.9, 0.9, 0.2, 0.9, 0.9]), torch.full((5,), 0.5)
    paraphrases = torch.tensor([[0.8, 0.7], [0.8, 0.4], [0.8, 0.8], [0.5, 0.9], [0.6, torch.inf]])
    assert hard_positives_correct(caption, paraphrases, negative).tolist() == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_model_that_only_knows_other_words_is_caught():
    # it scores 1 for the very words of the caption and less for anything else, whatever it means
    n = 100
    words = torch.rand(n, 2, generator=torch.Generator().manual_seed(4)) * 0.9
    caption, negative, paraphrase = torch.ones(n), words[:, 0], words[:, 1:]
    assert (caption > negative).all()
    assert 0.35 < hard_positives_correct(caption, paraphrase, negative).float().mean() < 0.65


def test_wilsons_interval_has_its_known_values():
    # 8 of 10: Wilson 95% is (0.4901, 0.9433)
    eight = proportion([True] * 8 + [False] * 2)
    assert (eight.value, eight.n) == (0.8, 10)
    assert (round(eight.low, 4), round(eight.high, 4)) == (0.4902, 0.9433)
    none = proportion([False] * 10)
    assert none.low == 0 and round(none.high, 4) == 0.2775
    assert proportion(torch.ones(5, dtype=torch.bool)).high == 1


def test_a_mean_has_students_interval():
    m = mean([1.0, 2.0, 3.0], bounds=(-10, 10))
    # t of 2 degrees of freedom is 4.3027, and s is 1
    assert m.value == 2 and m.n == 3
    assert (round(m.low, 4), round(m.high, 4)) == (
        round(2 - 4.3027 / 3**0.5, 4),
        round(2 + 4.3027 / 3**0.5, 4),
    )
    assert mean([1.0, 2.0, 3.0], bounds=(0, 3)).high == 3
    many = torch.linspace(-0.1, 0.1, 1001, dtype=torch.float64)
    assert math.isclose(mean(many).high, 1.959964 * float(many.std()) / math.sqrt(1001), rel_tol=1e-6)


def test_the_quantiles_of_small_samples_are_students():
    stats = pytest.importorskip("scipy.stats")
    assert [round(float(stats.t.ppf(0.975, n + 1)), 4) for n in range(29)] == list(STUDENT95)


def test_equal_values_do_not_say_that_all_are():
    # a share of z² / (n + z²) may be other: 0.7935 of a single one
    one = mean([0.1])
    assert (one.value, one.n) == (0.1, 1)
    assert (round(one.low, 3), round(one.high, 3)) == (-1.566, 1.608)
    many = mean([0.1] * 1000)
    assert (round(many.low, 4), round(many.high, 4)) == (0.092, 0.1073)
    # of ones it is what Wilson says
    assert mean([1.0] * 9, bounds=(0, 1)).low == pytest.approx(proportion([True] * 9).low)
    assert difference(mean([0.3]), mean([0.1])).low < 0 < difference(mean([0.3]), mean([0.1])).high


def outcomes(text):
    """ "++-" is right, right, wrong."""
    return torch.tensor([c == "+" for c in text])


def test_a_mean_over_groups_by_hand():
    both = macro(outcomes("++++-"), ["a", "a", "a", "b", "b"])
    assert both.value == 0.75 and both.n == 5
    # two and two more: 5/7 and 3/6; the variance is a quarter of 10/49/3 + 1/4/2
    q, variance = (5 / 7 + 3 / 6) / 2, (10 / 49 / 3 + 1 / 4 / 2) / 4
    assert (both.low, both.high) == pytest.approx(wilson(0.75, q * (1 - q) / variance))


def test_a_mean_over_groups_of_one_item_is_unsure():
    seven = macro(outcomes("++++---"), list("abcdefg"))
    assert seven.value == pytest.approx(4 / 7) and seven.low < 0.3 and seven.high > 0.8
    # nothing is won by one right item of seven
    change = difference(macro(outcomes("+++++--"), list("abcdefg")), seven)
    assert change.value == pytest.approx(1 / 7) and change.low < -0.25 and change.high > 0.5


def test_a_mean_over_groups_without_an_error_is_as_unsure_as_all_items_together():
    all_right, together = macro(outcomes("+" * 14), list("abcdefg") * 2), proportion([True] * 14)
    assert (all_right.value, all_right.high) == (1, 1) and all_right.low == pytest.approx(together.low)
    none = macro(outcomes("-" * 14), list("abcdefg") * 2)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(1 - together.low)


@pytest.mark.parametrize("text", ["+", "-", "+-", "+" * 30 + "-" * 11])
def test_a_mean_over_one_group_is_a_proportion(text):
    one, known = macro(outcomes(text), ["a"] * len(text)), proportion(outcomes(text))
    assert (one.value, one.low, one.high) == pytest.approx((known.value, known.low, known.high))


def test_one_rare_group_makes_the_mean_over_groups_unsure():
    groups = ["common"] * 1000 + ["rare"]
    found = macro(outcomes("+" * 1001), groups)
    # were the rare one right in a fifth of the cases, the mean would be 0.6
    assert found.value == 1 and found.low < 0.6
    assert macro(outcomes("+" * 1000 + "-"), groups).high > 0.85


@pytest.mark.parametrize(
    ("rates", "sizes"),
    [([0.6] * 7, [1] * 7), ([0.9] * 7, [2] * 7), ([0.5, 0.95] * 8, [1, 2, 5, 10, 20, 50, 100, 400] * 2)],
)
def test_the_interval_of_a_mean_over_groups_holds_the_truth_in_95_of_100_draws(rates, sizes):
    generator = torch.Generator().manual_seed(0)
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    each = torch.tensor(rates).repeat_interleave(torch.tensor(sizes))
    held = 0
    for _ in range(400):
        found = macro(torch.rand(len(each), generator=generator) < each, groups)
        held += found.low <= sum(rates) / len(rates) <= found.high
    assert held / 400 > 0.92


def test_no_interval_has_zero_width_and_each_holds_its_value():
    for n in (1, 2, 3, 7, 30, 1000):
        for right in {0, 1, n // 2, n - 1, n}:
            flags = outcomes("+" * right + "-" * (n - right))
            for found in (
                proportion(flags),
                macro(flags, [str(i) for i in range(n)]),
                macro(flags, [str(i % 3) for i in range(n)]),
                mean(flags.double(), bounds=(0, 1)),
            ):
                assert 0 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 1e-3
                change = difference(found, found)
                assert change.low < 0 < change.high


def test_the_interval_of_a_difference_is_newcombes():
    # 56/70 against 48/80, the example of the paper: 0.2 with 0.0524 to 0.3339
    first, second = proportion([True] * 56 + [False] * 14), proportion([True] * 48 + [False] * 32)
    d = difference(first, second)
    assert (round(d.value, 4), round(d.low, 4), round(d.high, 4)) == (0.2, 0.0524, 0.3339)
    assert difference(first, first).value == 0


def test_wrong_shapes_and_nothing_to_count_are_refused():
    with pytest.raises(ValueError, match=r"scores has shape \[4, 3, 2\]"):
        text_correct(torch.rand(4, 3, 2))
    with pytest.raises(ValueError, match="at least two options"):
        choice_correct(torch.rand(4, 1), torch.zeros(4, dtype=torch.int64))
    for empty in (
        lambda: proportion([]),
        lambda: mean([]),
        lambda: macro(torch.zeros(0, dtype=torch.bool), []),
    ):
        with pytest.raises(ValueError, match="is empty"):
            empty()


def test_what_is_no_number_is_wrong_in_every_metric():
    nan, inf = float("nan"), float("inf")
    for value in (nan, inf):
        every = torch.full((4, 4), value)
        assert not retrieved(every, torch.eye(4, dtype=torch.bool), 1).any()
        assert not choice_correct(every, torch.zeros(4, dtype=torch.long)).any()
        assert not group_correct(torch.full((3, 2, 2), value)).any()
        assert not hard_positives_correct(every[0], every, every[0]).any()
    # one of a gallery, right or wrong, and a query with nothing but right entries
    relevant = torch.tensor([[True, False], [True, False], [True, True]])
    scores = torch.tensor([[nan, 0.1], [0.9, nan], [nan, nan]])
    assert retrieved(scores, relevant, 1).tolist() == [False, False, False]
    assert retrieved(scores, relevant, 5).tolist() == [False, True, False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_score_that_is_not_finite_makes_its_item_wrong(value):
    right = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    for i in range(2):
        for j in range(2):
            broken = right.clone()
            broken[i, j] = value
            both = torch.stack((right, broken))
            for metric in (text_correct, image_correct, group_correct):
                assert metric(both).tolist() == [True, False]
    # of a choice, the right option; -inf as another one is an option that is not there
    scores = torch.tensor([[value, 0.1, -torch.inf], [0.9, 0.1, -torch.inf]])
    assert choice_correct(scores, torch.tensor([0, 0])).tolist() == [False, True]
    one = torch.tensor([value])
    fine = torch.tensor([0.5])
    assert not hard_positives_correct(one, fine[:, None] + 0.1, fine).any()
    assert not hard_positives_correct(fine + 0.1, fine[:, None] + 0.1, one).any()
    gallery, relevant = (
        torch.tensor([[value, 0.1], [0.9, value]]),
        torch.tensor([[True, False], [True, False]]),
    )
    assert retrieved(gallery, relevant, 1).tolist() == [False, False]
