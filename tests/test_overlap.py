"""overlap.py: its suites say what they claim, its baselines are what was published, and its figures measure that."""

import copy
import math
from itertools import pairwise
from types import SimpleNamespace

import dng
import numpy as np
import overlap
import overlap_report
import pytest
import report
import suites
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image
from suites import SUITES, Case, Fact, Suite, unwanted

from negguide import Negative
from negguide.toyworld import Character, Scene, parse


@pytest.fixture(scope="module")
def models():
    return report.models()


@pytest.fixture(scope="module")
def exact():
    """In float32: bfloat16 rounds otherwise where the batch has another size."""
    return report.negguide.from_pipe(report.toyworld.load_pipeline())


def pixels(drawn):
    return [np.asarray(image).astype(int) for image in drawn.images]


def test_kept_and_removed_are_told_apart():
    case = suites.first()[0]
    assert (case.prompt, case.negatives) == ("a bear wearing glasses", ("black glasses",))
    red = Scene((Character("bear", "brown", "front", glasses="red"),), "snow")
    black = Scene((Character("bear", "brown", "front", glasses="black"),), "snow")
    bare = Scene((Character("bear", "brown", "front"),), "snow")
    cat = Scene((Character("cat", "brown", "front", glasses="black"),), "snow")
    assert [(case.kept(s), case.removed(s)) for s in (red, black, bare, cat)] == [
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]


@pytest.mark.parametrize(
    ("prompt", "negative", "facts"),
    [
        ("a bear wearing glasses", "black glasses", [Fact("glasses", "black")]),
        ("a bear wearing glasses", "a bear wearing black glasses", [Fact("glasses", "black")]),
        ("a bear wearing glasses", "a bear wearing a hat", [Fact("hat", "any")]),
        ("two bears", "two brown bears", [Fact("fur", "brown")]),
        ("a bear in back view", "a bear in front view", [Fact("view", "front")]),
        ("a bear on a beach", "in the snow", [Fact("background", "snow")]),
        ("a bear", "a cat", [Fact("kind", "cat")]),
        (
            "a bear to the right of a cat",
            "a bear to the right of a brown cat",
            [Fact("fur", "brown", "cat")],
        ),
        ("a bear", "a brown bear in the snow", [Fact("fur", "brown"), Fact("background", "snow")]),
    ],
)
def test_a_negative_is_against_what_it_says_and_the_prompt_does_not(prompt, negative, facts):
    assert list(unwanted(prompt, negative)) == facts


def test_a_negative_that_says_nothing_of_its_own_is_refused():
    with pytest.raises(ValueError, match="negative='a bear' says nothing that prompt='a bear wearing a hat'"):
        unwanted("a bear wearing a hat", "a bear")


def test_of_two_characters_the_one_that_the_negative_names_counts():
    case = suites.one("a bear to the left of a cat", "a bear to the left of a brown cat")
    assert case.removed(parse("a brown bear to the left of a grey cat"))
    assert not case.removed(parse("a grey bear to the left of a brown cat"))


def test_each_of_several_negatives_is_told():
    case = Case("a bear", ("brown fur", "a hat", "in the snow"))
    assert case.gone(parse("a grey bear wearing a red hat on a beach")) == [True, False, True]
    assert case.together == "brown fur and a hat in the snow"


def test_the_first_suite_is_twenty_pairs_whose_negatives_overlap():
    cases = suites.first()
    assert len(set(cases)) == 20
    for case in cases:
        assert set(case.prompt.split()) & set(case.negatives[0].split())


def test_heavy_negatives_say_the_prompt_and_one_thing_more():
    cases = suites.heavy()
    assert len(set(cases)) == len(cases) >= 40
    for case in cases:
        (negative,) = case.negatives
        assert len(unwanted(case.prompt, negative)) == 1
        missing = [word for word in case.prompt.split() if word not in negative.split()]
        # another view cannot be said beside the prompt's
        assert missing in ([], ["back"])


@pytest.mark.parametrize(("name", "least"), [("first-several", 8), ("several", 20)])
def test_sets_of_negatives_differ(name, least):
    cases = SUITES[name].cases()
    for numbers in suites.by_count(cases).values():
        assert len({frozenset(cases[i].negatives) for i in numbers}) == len(numbers) >= least
    assert set(suites.by_count(cases)) == {2, 4}


@pytest.mark.parametrize(("name", "least"), [("first-absent", 12), ("absent", 40)])
def test_absent_negatives_stand_beside_a_present_one(name, least):
    cases = SUITES[name].cases()
    assert len(set(cases)) == len(cases) >= least
    for case in cases:
        assert len(case.negatives) == len(unwanted(case.prompt, case.negatives[0])) == 1
        assert case.with_present.negatives == (case.present,) != case.negatives


def test_what_is_reported_shares_no_case_and_no_seed_with_what_is_chosen_on():
    cases = [(case.prompt, frozenset(case.negatives)) for suite in SUITES.values() for case in suite.cases()]
    assert len(set(cases)) == len(cases)
    sets = [
        frozenset(case.negatives) for name in ("first-several", "several") for case in SUITES[name].cases()
    ]
    assert len(set(sets)) == len(sets)
    spans = sorted(
        (suite.seeds(0, 1)[0], suite.seeds(len(suite.cases()) - 1, suites.SEEDS_PER_CASE)[-1])
        for suite in SUITES.values()
    )
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    with pytest.raises(ValueError, match="images=1001"):
        SUITES["heavy"].seeds(0, 1001)


def test_methods_are_chosen_by_name_or_with_a_weight():
    assert overlap.chosen("perp-neg:2.5,perp-neg-auto") == [("perp-neg", 2.5), ("perp-neg-auto", "auto")]
    assert overlap.chosen("perp-neg") == [("perp-neg", weight) for weight in (1.0, 2.0, 3.0, 4.0)]
    with pytest.raises(SystemExit, match="perpneg is none of"):
        overlap.chosen("perpneg")
    with pytest.raises(SystemExit, match="must be a number"):
        overlap.chosen("perp-neg:much")


def test_every_method_draws_something_else(models):
    pipe, _ = models
    # of fewer steps economy leaves none out
    few = overlap.Sampling(1, steps=6)
    images = {
        name: overlap.draw(pipe, name, suites.first()[:1], weight, [0], few).images[0].tobytes()
        for name in ("plain", *overlap.WEIGHTS)
        for weight in ["auto" if "auto" in overlap.WEIGHTS.get(name, ()) else 2.0]
    }
    assert len(set(images.values())) == 1 + len(overlap.WEIGHTS)


def test_a_weight_of_nothing_is_plain(exact):
    few = overlap.Sampling(1, steps=3)
    plain, none = (
        pixels(overlap.draw(exact, name, suites.first()[:1], 0.0, [0], few))[0]
        for name in ("plain", "perp-neg")
    )
    assert np.abs(plain - none).max() <= 1


@pytest.mark.parametrize("method", ["negative-prompt", "perp-neg", "dng", "nag"])
def test_a_case_is_drawn_as_it_is_alone(exact, method):
    cases = [suites.first()[0], suites.heavy()[0]]
    seeds = [[3, 4], [5, 6]]
    few = overlap.Sampling(2, steps=2)
    together = overlap.draw_all(exact, method, cases, 2.0, seeds, few)
    alone = [
        overlap.draw_all(exact, method, [case], 2.0, [own], few)
        for case, own in zip(cases, seeds, strict=True)
    ]
    for a, b in zip(pixels(together), [one for drawn in alone for one in pixels(drawn)], strict=True):
        assert np.abs(a - b).max() <= 2
    assert torch.allclose(together.latents, torch.cat([drawn.latents for drawn in alone]), atol=1e-3)


def test_a_weight_of_one_is_the_classic_negative_prompt(models):
    pipe, _ = models
    case = Case("a bear wearing glasses", ("black glasses", "brown fur"))
    few = overlap.Sampling(1, steps=3, guidance_scale=4.0)
    weighted = pixels(overlap.draw(pipe, "negative-prompt", [case], 1.0, [0], few))[0]
    usual = pipe(
        case.prompt,
        negative_prompt="black glasses and brown fur",
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert np.abs(weighted - np.asarray(usual).astype(int)).max() <= 1


def test_figures_of_one_several_and_absent_negatives(models):
    def row(kind, cases, method, weight):
        suite = Suite("small", "Small", kind, lambda: cases, 77, 2)
        measurement = overlap.Measurement(*models, suite, overlap.Sampling(2, steps=2))
        return measurement.row(method, weight, len(cases[0].negatives))

    plain = row("removed", suites.first()[:2], "plain", 0.0)
    assert set(plain) == {"method", "weight", "kept", "removed"}
    assert plain["kept"]["n"] == plain["removed"]["n"] == 4
    several = row("several", [Case("a bear", ("brown fur", "a hat"))], "perp-neg", 1.0)
    assert several["negatives"] == 2
    assert (several["removed"]["n"], several["each"]["n"]) == (2, 4)
    assert several["removed"]["value"] <= several["each"]["value"]
    hatless = [Case("a grey bear", ("a hat",), "front view")]
    same = row("absent", hatless, "plain", 0.0)
    assert (same["unchanged"]["value"], same["distance"]["value"], same["relative"]) == (1.0, 0.0, 0.0)
    moved = row("absent", hatless, "perp-neg", 2.0)
    assert moved["distance"]["value"] > 0
    assert moved["relative"] == pytest.approx(moved["distance"]["value"] / moved["present_distance"]["value"])


def test_pictures_of_plain_guidance_that_show_what_is_absent_do_not_count(models, monkeypatch):
    pipe, _ = models
    hat = Scene((Character("bear", "grey", "front", hat="red"),), "snow")
    bare = Scene((Character("bear", "grey", "front"),), "snow")
    judge = SimpleNamespace(read=lambda images: [hat, bare])
    suite = Suite("small", "Small", "absent", lambda: [Case("a bear", ("a hat",), "front view")], 77, 2)
    row = overlap.Measurement(pipe, judge, suite, overlap.Sampling(2, steps=2)).row("perp-neg", 1.0, 1)
    assert (row["unchanged"]["n"], row["distance"]["n"], row["present_distance"]["n"]) == (1, 1, 2)


def test_a_plot_has_a_panel_for_each_number_of_negatives(tmp_path):
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    rows = [
        {"method": method, "weight": weight, "negatives": count, "kept": rate, "removed": rate, "each": rate}
        for method, weight in (("plain", 0.0), ("perp-neg-auto", "auto"), ("dng", 5.0), ("dng", 12.0))
        for count in (2, 4)
    ]
    overlap_report.plot(rows, tmp_path / "two.png", "Several", "several")
    overlap_report.plot(rows[::2], tmp_path / "one.png", "Several", "several")
    one, two = (Image.open(tmp_path / f"{name}.png").width for name in ("one", "two"))
    assert two > 1.5 * one


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_posterior_of_dng_is_the_published_update(kind):
    """Against compute_posterior_DNG written out with DDPM's own step, for a latent without noise added."""
    options = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": kind, "clip_sample": False}
    scheduler = DDIMScheduler(**options, timestep_spacing="trailing")
    before = copy.deepcopy(scheduler.__dict__)
    steps = dng.reverse_steps(scheduler, 5)
    assert len(steps) == 4 and scheduler.num_inference_steps == before["num_inference_steps"]

    kept = DDPMScheduler(**options).alphas_cumprod.double()
    scheduler.set_timesteps(5)
    t, s = (int(one) for one in scheduler.timesteps[1:3])
    a, b = kept[t], kept[s]
    torch.manual_seed(0)
    x, guided, uncond, negative = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64)

    def noise(prediction):
        return prediction if kind == "epsilon" else a.sqrt() * prediction + (1 - a).sqrt() * x

    def mean(prediction):
        step = a / b
        return (x - (1 - step) / (1 - a).sqrt() * noise(prediction)) / step.sqrt()

    def square(difference):
        return difference.flatten(1).square().sum(dim=1)

    variance = (1 - b) / (1 - a) * (1 - a / b)
    away = square(mean(guided) - mean(negative)) - square(mean(guided) - mean(uncond))
    # small enough for no clamp
    expected = 0.1 * torch.exp((-1e-3 * away + 2e-4) / (2 * variance))

    posterior = dng.Posterior(steps, prior=0.1, temperature=1e-3, offset=2e-4)
    posterior.taken = 1
    posterior.odds(negative[None])
    posterior.update(guided, uncond, negative[None])
    assert torch.allclose(posterior.log.exp(), expected[None], rtol=1e-6)
    assert not torch.allclose(posterior.log.exp(), torch.full_like(expected, 0.1), rtol=1e-3)


def test_dng_takes_away_by_the_odds_of_each_image_and_clamps_them():
    torch.manual_seed(0)
    u, c = torch.randn(2, 3, 2, 4, 4)
    n = torch.randn(2, 3, 2, 4, 4)
    posterior = dng.Posterior([dng.ReverseStep(0.005, 1.0)], prior=0.2, temperature=1.0, highest=0.7)
    method = dng.DynamicNegativeGuidance(Negative("a hat"), Negative("a scarf"), posterior=posterior)
    first = method.guide(u, c, n, torch.tensor([2.0, 3.0]), 5.0)
    assert torch.allclose(first, u + 5 * (c - u) - 0.25 * (2 * (n[0] - u) + 3 * (n[1] - u)), atol=1e-5)
    p = posterior.log.exp()
    assert p.shape == (2, 3) and p.max() <= 0.7 + 1e-6 and len(p.unique()) > 1
    weights = torch.tensor([[2.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
    second = method.guide(u, c, n, weights, 5.0)
    odds = (weights * p / (1 - p))[..., None, None, None]
    assert torch.allclose(second, u + 5 * (c - u) - (odds * (n - u)).sum(dim=0), atol=1e-4)
    with pytest.raises(ValueError, match="one call of 2 steps"):
        method.guide(u, c, n, weights, 5.0)


def test_dng_of_a_call_starts_from_the_prior_and_refuses_what_it_cannot_do():
    posterior = dng.Posterior([], prior=0.01)
    odds = posterior.odds(torch.zeros(1, 2, 3, 4, 4))
    assert odds.flatten().tolist() == pytest.approx([0.01 / 0.99] * 2)
    assert math.exp(posterior.log[0, 0]) == pytest.approx(0.01)
    method = dng.DynamicNegativeGuidance("a hat", posterior=dng.Posterior([]))
    u = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="mask"):
        method.guide(u, u, u[None], torch.ones(1), 5.0, torch.ones(1, 1, 1, 4, 4))
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        dng.reverse_steps(DDIMScheduler(prediction_type="sample"), 4)
