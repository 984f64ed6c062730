import math

import pytest
import torch
from PIL import Image

from negguide._utils.stats import mean, share
from negguide.toyworld.judge import Judge, to_pixels
from negguide.toyworld.language import parse
from negguide.toyworld.measure import agreement
from negguide.toyworld.scene import Character, Scene


def test_share_gives_wilsons_interval():
    rate = share([True] * 8 + [False] * 2)
    # By hand: p = .8, n = 10, z = 1.96.
    z, p, n = 1.959964, 0.8, 10
    centre = (p + z * z / 20) / (1 + z * z / 10)
    half = z / (1 + z * z / 10) * math.sqrt(p * (1 - p) / n + z * z / 400)
    assert (rate.value, rate.n) == (0.8, 10)
    assert rate.low == pytest.approx(centre - half)
    assert rate.high == pytest.approx(centre + half)


def test_a_share_of_ones_keeps_an_interval_below_one():
    rate = share([True] * 200)
    assert rate.high == pytest.approx(1.0)
    assert 0.97 < rate.low < 1


def test_mean_brackets_its_value_and_narrows_with_more_values():
    few, many = mean([0.0, 1.0] * 10), mean([0.0, 1.0] * 1000)
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 5


@pytest.mark.parametrize("function", [share, mean])
def test_nothing_to_measure_is_an_error(function):
    with pytest.raises(ValueError, match="empty"):
        function([])


SEEN = Scene((Character("bear", "brown", "front", hat="red"),), "snow")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a bear", {"count": True, "kind0": True}),
        ("a white bear wearing a red hat", {"count": True, "kind0": True, "fur0": False, "hat0": True}),
        ("a bear wearing a hat", {"count": True, "kind0": True, "hat0": True}),
        ("a bear wearing a blue hat", {"count": True, "kind0": True, "hat0": False}),
        ("two bears", {"count": False, "kind0": False, "kind1": False}),
        ("a cat in back view at night", {"background": False, "count": True, "kind0": False, "view0": False}),
        ("in the snow", {"background": True}),
    ],
)
def test_agreement_judges_exactly_what_was_said(text, facts):
    assert agreement(parse(text), SEEN) == facts


def test_agreement_reads_pairs_by_their_place():
    seen = Scene((Character("bear", "brown", "front"), Character("cat", "grey", "side")), "snow", "left")
    assert all(agreement(parse("a grey cat to the right of a bear"), seen).values())
    assert not all(agreement(parse("a cat to the left of a bear"), seen).values())


def test_the_judge_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    judge = Judge().eval()
    images = [Image.effect_noise((64, 64), 60 + 10 * i).convert("RGB") for i in range(5)]
    whole = judge.embed(images)
    assert torch.allclose(whole, judge.embed(images, batch_size=2), atol=1e-5)
    assert torch.allclose(whole.norm(dim=1), torch.ones(5), atol=1e-5)
    assert judge.read(images) == judge.read(images, batch_size=1)


def test_the_judge_survives_saving(tmp_path):
    torch.manual_seed(0)
    judge = Judge(width=8).eval()
    judge.save(tmp_path)
    again = Judge.load(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(again.features(x), judge.features(x), atol=0.02)


def test_pixels_need_an_image():
    with pytest.raises(ValueError, match="images is empty"):
        to_pixels([])
