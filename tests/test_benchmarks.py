"""The benchmarks run and measure what they say; their numbers are not asserted."""

import cost
import diversity
import match_reuse
import numpy as np
import pytest
import reference
import report
import torch
import views
from PIL import Image

from negguide import NegToMe
from negguide._utils.stats import share
from negguide.toyworld import Character, Scene, parse
from negguide.toyworld.domain import EMBEDDED, TOYWORLD_DEFAULTS


@pytest.fixture(scope="module")
def models():
    return report.models()


def test_subtraction_takes_the_whole_negative_away():
    u, n = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 3, 4, 4)
    expected = 0.5 * (n[0] - u) + 2 * (n[1] - u)
    assert torch.allclose(report.subtraction(u, n, torch.tensor([0.5, 2.0])), expected, atol=1e-6)


def test_a_run_goes_on_only_where_settings_and_weights_are_the_same(tmp_path):
    path, settings = tmp_path / "rows.json", {"steps": 3, "weights": (1.0, 2.0)}
    assert report.rows_so_far(path, settings) == []
    report.write_json(path, settings, [{"method": "plain"}])
    assert report.rows_so_far(path, settings) == [{"method": "plain"}]
    assert report.rows_so_far(path, {**settings, "steps": 4}) == []
    path.write_text(path.read_text().replace('"weights": "', '"weights": "other '))
    assert report.rows_so_far(path, settings) == []


def test_entropy_and_distance_know_their_extremes():
    def batch(*furs):
        return [Scene((Character("bear", fur, "front"),), "snow") for fur in furs]

    assert diversity.entropy(batch("brown", "brown", "brown", "brown")) == 0
    assert diversity.entropy(batch("brown", "grey", "white", "black")) == pytest.approx(1)
    assert diversity.entropy(batch("brown", "brown", "white", "white")) == pytest.approx(0.5)
    assert diversity.distance(torch.eye(3)) == pytest.approx(1)
    assert diversity.distance(torch.ones(3, 1)) == pytest.approx(0)


def test_diversity_and_reference_measure_with_and_without(models, monkeypatch):
    pipe, judge = models
    monkeypatch.setattr(diversity, "steps_of", lambda name: 2)
    monkeypatch.setattr(reference, "steps_of", lambda name: 2)
    prompts = ["a bear"] * diversity.BATCH
    method = NegToMe("others", **{**TOYWORLD_DEFAULTS.negtome, "stop": 1.0})
    plain = diversity.measure(pipe, judge, prompts, prompts, 0, None)
    pushed = diversity.measure(pipe, judge, prompts, prompts, 0, method)
    assert plain[1].value != pushed[1].value
    result = reference.measure(pipe, judge, "plain", 2)
    assert result["similarity"].n == result["fidelity"].n == 10


def test_the_reference_rows_draw_something_else(models, monkeypatch):
    pipe, _ = models
    monkeypatch.setattr(reference, "steps_of", lambda name: 4)
    target = report.toyworld.render(reference.reference("snow"))
    rows = [{}, *({"negative_guidance": NegToMe(target, **own)} for own in reference.methods(pipe).values())]
    images = {np.asarray(reference.draw(pipe, "snow", [0], row)[0]).tobytes() for row in rows}
    assert len(images) == len(rows)


def test_shared_matches_leave_a_search_for_so_many_modules_of_equally_many_tokens():
    step = match_reuse.Step(1e12, [(1024, 1280)] * 5 + [(4096, 640)] * 3, 8, {})
    assert match_reuse.searches(step, 1) == step.modules
    assert match_reuse.searches(step, 2) == [(1024, 1280)] * 3 + [(4096, 640)] * 2
    assert match_reuse.searches(step, 100) == [(1024, 1280), (4096, 640)]
    # 8 rows, 1024 tokens against those of three other images
    assert match_reuse.search_flops(step, [(1024, 1280)]) == 2 * 8 * 1024 * 3 * 1024 * 1280


def test_views_draws_the_asked_for_number(models, monkeypatch):
    pipe, _ = models
    monkeypatch.setattr(views, "STEPS", 2)
    for method in ("plain", "negative prompt", "subtraction", "Perp-Neg"):
        assert len(views.draw(pipe, method, "a bear in back view", 1.0, [0, 1])) == 2


def test_cost_measures_time_memory_and_what_is_removed(models, monkeypatch):
    pipe, judge = models
    monkeypatch.setattr(cost, "STEPS", 4)
    monkeypatch.setattr(cost, "IMAGES", 2)
    monkeypatch.setattr(cost, "steps_of", lambda name: 2)
    case = next(case for case in cost.cases(EMBEDDED["toyworld"]) if case.name == "Perp-Neg K=4, whole run")
    guidance = case.method(case.texts)
    assert [n.weight for n in guidance.negatives] == list(cost.FOUR.values())
    whole, inner = cost.run(pipe, guidance)
    assert whole > inner > 0
    assert len(cost.ratios(pipe, guidance, 2)) == 2
    assert cost.peak_bytes(pipe, guidance) > cost.peak_bytes(pipe, None)
    kept, removed = cost.judged(pipe, judge, case, 1)
    assert kept.n == removed.n == 20


def test_the_four_things_of_cost_are_told_apart():
    bare = parse("a grey bear wearing red glasses on a beach")
    assert cost.none_left(bare, 4)
    for text in (
        "a grey bear wearing black glasses on a beach",
        "a brown bear wearing red glasses on a beach",
        "a grey bear wearing red glasses in the snow",
        "a grey bear wearing red glasses and a scarf on a beach",
    ):
        assert not cost.none_left(parse(text), 4)
    for text in cost.FOUR:
        parse(text)


def test_a_plot_has_a_panel_for_every_figure(tmp_path):
    bars = {
        name: {"kept": share([True, True, False]), "removed": share([True])} for name in ("plain", "Perp-Neg")
    }
    report.plot_rates(tmp_path / "one.png", "Views", {k: {"kept": v["kept"]} for k, v in bars.items()})
    report.plot_rates(tmp_path / "two.png", "Views", bars)
    one, two = (Image.open(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert two.width > 1.5 * one.width
    low, high = two.convert("L").getextrema()
    assert low < 60 < 250 < high
