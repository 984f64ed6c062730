"""View words, fractions and weights at cameras: the published formulas, by hand."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from negguide import Negative, PerpNeg
from negguide.views import (
    PRESETS,
    Decay,
    Halves,
    Preset,
    Ramp,
    ViewPrompt,
    find_preset,
    view_negatives,
    view_perp_neg,
    view_prompts,
    view_text,
    wrap_azimuth,
)


def weights(azimuth: float, preset: Preset | str) -> dict[str, float]:
    return dict(view_prompts(azimuth, preset=preset).negatives)


def fractions(azimuth: float, preset: Preset | str = "threestudio") -> dict[str, float]:
    return dict(view_prompts(azimuth, preset=preset).positive)


@pytest.mark.parametrize(
    ("azimuth", "positive", "negative"),
    [
        # 4 exp(-.5 x) - 2.426 of the own view's closeness x; exp(-.5 r) + .967 and - .606 behind the side
        (0, {"front": 1.0}, {"side": 1.574}),
        (45, {"front": 0.5, "side": 0.5}, {"front": 0.6892, "side": 0.6892}),
        (60, {"front": 1 / 3, "side": 2 / 3}, {"front": 0.9599, "side": 0.4401}),
        (90, {"side": 1.0}, {"front": 1.5735}),
        (135, {"side": 0.5, "back": 0.5}, {"front": 1.7458, "side": 0.1728}),
        (180, {"back": 1.0}, {"front": 1.967, "side": 0.394}),
    ],
)
def test_threestudio_is_four_shifted_exponentials(azimuth: float, positive: dict, negative: dict) -> None:
    assert fractions(azimuth) == pytest.approx(positive)
    assert weights(azimuth, "threestudio") == pytest.approx(negative, abs=1e-4)


@pytest.mark.parametrize(
    ("azimuth", "negative"),
    [
        (0, {"side": 2.0}),  # r = 1 > .8: no front
        (45, {"front": 2 * math.exp(-1), "side": 2 * math.exp(-5)}),
        (81, {"front": 2 * math.exp(-0.2)}),  # r = .1 < .2: no side
        (90, {"front": 2.0}),
        (99, {"front": 2.0}),  # r = .9 > .8: no side
        (162, {"front": 2.0, "side": math.exp(-2)}),
        (180, {"front": 2.0, "side": 1.0}),
    ],
)
def test_stable_dreamfusion_decays_with_steps_at_the_ends(azimuth: float, negative: dict) -> None:
    assert weights(azimuth, "stable-dreamfusion") == pytest.approx(negative)
    assert fractions(azimuth, "stable-dreamfusion") == fractions(azimuth)


@pytest.mark.parametrize("azimuth", [0, 30, 90, 120, 180])
def test_the_authors_command_weighs_both_views_alike_everywhere(azimuth: float) -> None:
    assert weights(azimuth, "paper") == {"front": 1.5, "side": 1.5}
    assert fractions(azimuth, "paper") == fractions(azimuth)


@pytest.mark.parametrize(
    ("azimuth", "view", "negative"),
    [
        (0, "front", {}),
        (44, "front", {}),
        (45, "side", {}),
        (60, "side", {"front": 1 / 3}),
        (90, "side", {"front": 1.0}),
        (135, "side", {"front": 2.5}),
        (150, "back", {"front": 3.0}),
        (180, "back", {"front": 3.0}),
    ],
)
def test_toyworld_has_the_nearest_word_and_the_front_as_a_ramp(
    azimuth: float, view: str, negative: dict
) -> None:
    assert fractions(azimuth, "toyworld") == {view: 1.0}
    assert weights(azimuth, "toyworld") == pytest.approx(negative)


@pytest.mark.parametrize("preset", PRESETS)
def test_mirrored_azimuths_and_full_turns_are_the_same(preset: str) -> None:
    for azimuth in (0, 7, 45, 90, 133, 180):
        at = view_prompts(azimuth, preset=preset)
        assert view_prompts(-azimuth, preset=preset) == at
        assert view_prompts(azimuth + 720, preset=preset) == at
        assert sum(fraction for _, fraction in at.positive) == pytest.approx(1)
        assert all(weight > 0 for _, weight in at.negatives)


def test_azimuths_wrap_above_minus_180() -> None:
    given = (0, 180, -180, 181, 540, -539, 360, 1e-300, -1e-300)
    assert [wrap_azimuth(a) for a in given] == [0, 180, 180, -179, 180, -179, 0, 1e-300, -1e-300]


@pytest.mark.parametrize("preset", ["threestudio", "paper"])
def test_shares_and_weights_do_not_jump(preset: str) -> None:
    turns = [step / 4 for step in range(721)]
    for before, after in pairwise(turns):
        for part in (fractions, weights):
            one, other = part(before, preset), part(after, preset)
            for view in set(one) | set(other):
                assert abs(one.get(view, 0) - other.get(view, 0)) < 0.01


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_is_its_cameras_one_by_one(preset: str) -> None:
    azimuths, elevations = [0, 100, -170.5, 400], [0, 10, 80, -5]
    singles = tuple(view_prompts(a, e, preset=preset) for a, e in zip(azimuths, elevations, strict=True))
    assert view_prompts(azimuths, elevations, preset=preset) == singles
    assert view_prompts(torch.tensor(azimuths), torch.tensor(elevations), preset=preset) == singles
    assert view_prompts([], preset=preset) == ()
    assert view_prompts(torch.tensor(30.0), preset=preset) == view_prompts(30, preset=preset)


def test_cameras_from_overhead_have_no_negatives() -> None:
    above = ViewPrompt((("overhead", 1.0),))
    assert view_prompts([90, 90], [60, 61]) == (view_prompts(90), above)
    assert view_prompts(90, 80, preset="paper") == view_prompts(90, preset="paper")
    assert view_prompts(90, 80, preset=replace(PRESETS["paper"], overhead_above=70)) == above


def test_presets_are_values_that_can_be_changed() -> None:
    mine = replace(PRESETS["threestudio"], positive="nearest", negatives=(("front", lambda turn: turn / 90),))
    assert view_prompts([0, 45, 180], preset=mine) == (
        ViewPrompt((("front", 1.0),)),
        ViewPrompt((("side", 1.0),), (("front", 0.5),)),
        ViewPrompt((("back", 1.0),), (("front", 2.0),)),
    )
    assert find_preset(mine) is mine
    assert PRESETS["threestudio"].positive == "interpolated"


def test_what_rounding_leaves_of_a_curve_is_no_negative() -> None:
    assert 0 < PRESETS["threestudio"].weight("front", 0) < 1e-3
    assert "front" not in weights(0, "threestudio")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"azimuth": math.nan}, "azimuth must be finite, got nan"),
        ({"azimuth": [0, math.inf]}, "azimuth must be finite, got inf"),
        ({"azimuth": 0, "elevation": math.nan}, "elevation must be finite, got nan"),
        ({"azimuth": 0, "elevation": 91}, "elevation must be from -90 to 90 degrees, got 91"),
        ({"azimuth": [0, 1], "elevation": [0]}, r"one for each azimuth \(2\), got 1"),
        ({"azimuth": 0, "elevation": [0]}, "elevation must be one number"),
        ({"azimuth": torch.zeros(2, 2)}, r"azimuth must be .* got a tensor of shape \[2, 2\]"),
        ({"azimuth": 0, "preset": "threestudios"}, "preset must be one of threestudio, .*'threestudios'"),
    ],
)
def test_wrong_values_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view_prompts(**arguments)


@pytest.mark.parametrize("azimuth", ["90", True, None, [0, "1"]])
def test_what_is_no_number_is_refused(azimuth: object) -> None:
    with pytest.raises(TypeError, match="azimuth must be a number"):
        view_prompts(azimuth)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="preset must be a Preset or one of"):
        view_prompts(0, preset=3)  # type: ignore[call-overload]


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_curve_with_a_wrong_weight_is_refused_with_its_place(weight: float) -> None:
    wrong = replace(PRESETS["toyworld"], negatives=(("front", lambda turn: weight if turn > 90 else 0.0),))
    assert view_prompts(90, preset=wrong).negatives == ()
    with pytest.raises(
        ValueError, match=rf"'front' in the preset 'toyworld' gives {weight:g} at 120 degrees"
    ):
        view_prompts(-120, preset=wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(()), "points of Ramp"),
        (lambda: Ramp(((90, 1), (45, 0))), "rising turns"),
        (lambda: Ramp(((0, -1),)), "finite weights >= 0"),
        (lambda: Decay(1, end=2), "end of Decay"),
        (lambda: Decay(math.nan), "a of Decay"),
        (lambda: Halves("back", Decay(1), Decay(1)), "view of Halves"),  # type: ignore[arg-type]
        (lambda: replace(PRESETS["paper"], positive="mixed"), "positive must be"),
        (lambda: replace(PRESETS["paper"], negatives=(("left", Ramp(((0, 1),))),)), "got 'left'"),
        (lambda: replace(PRESETS["paper"], negatives=(("front", 1.0),)), "must be a function"),
        (lambda: replace(PRESETS["paper"], front_within=120.0), "front_within"),
        (lambda: replace(PRESETS["paper"], overhead_above=100.0), "overhead_above"),
    ],
)
def test_wrong_curves_and_presets_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_texts_are_those_that_the_model_knows() -> None:
    assert view_text("a bear", "side") == "a bear, side view"
    assert view_text(" a DSLR photo of a bear. ", "overhead") == "a DSLR photo of a bear, overhead view"
    toy = {
        "a bear": "a bear in back view",
        "pip in the snow": "pip in back view in the snow",
        "a bear with brown fur": "a bear with brown fur in back view",
        "two cats wearing a red hat at night": "two cats in back view wearing a red hat at night",
    }
    assert {prompt: view_text(prompt, "back", model="toyworld") for prompt in toy} == toy


@pytest.mark.parametrize(
    ("prompt", "view", "model", "message"),
    [
        ("a bear", "overhead", "toyworld", "'overhead' is not in the toy world; it has front, side, back"),
        ("a bear in side view", "back", "toyworld", "says a view already"),
        ("a bear to the left of a cat", "back", "toyworld", "one kind of character"),
        ("black glasses", "back", "toyworld", "one kind of character"),
        ("a unicorn", "back", "toyworld", "does not know 'unicorn'"),
        (" . ", "back", "", "prompt must say what is seen"),
        ("a bear", "left", "", "view must be one of front, side, back, overhead, got 'left'"),
    ],
)
def test_texts_that_cannot_be_are_refused(prompt: str, view: str, model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view_text(prompt, view, model=model)  # type: ignore[arg-type]


def test_each_camera_has_negatives_of_its_own() -> None:
    views = view_prompts([0, 60, 180], preset="toyworld")
    found = view_perp_neg("a bear", views, model="toyworld", joint=True)
    assert found == PerpNeg.per_prompt(
        [],
        Negative(
            "a bear in front view", weight=view_prompts(60, preset="toyworld").negatives[0][1], stop=1.0
        ),
        Negative("a bear in front view", weight=3.0, stop=1.0),
        joint=True,
    )
    assert view_negatives("a bear", views[2], stop=0.5) == [Negative("a bear, front view", 3.0, stop=0.5)]
    assert view_perp_neg("a bear", views[:1]) is None


def test_the_table_of_the_documentation_is_that_of_the_presets() -> None:
    text = (Path(__file__).parents[2] / "docs" / "text-to-3d.md").read_text()
    (head,) = re.findall(r"^\| preset \| 0 \|.*$", text, re.MULTILINE)
    turns = [float(cell) for cell in head.strip("| ").split(" | ")[1:]]
    for preset in PRESETS:
        rows = re.findall(rf"^\| `{preset}` \| ([\d./ |]+) \|$", text, re.MULTILINE)
        assert len(rows) == 1, preset
        for turn, cell in zip(turns, rows[0].split(" | "), strict=True):
            held = weights(turn, preset)
            said = [f"{held[view]:.2f}" if view in held else "0" for view in ("front", "side")]
            assert cell == " / ".join(said), (preset, turn)
