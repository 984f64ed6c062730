"""The benchmark of mining measures what it says; its numbers are not asserted."""

from argparse import Namespace

import mining
import mining_fakes as fakes
import pytest
from mining_tables import goals

from negguide.mining.shards import read_set
from negguide.mining.sources import open_source
from negguide.toyworld import parse, render

ARGS = Namespace(
    pairs=2, variety_pairs=1, speed_pairs=1, turns=1, shard_size=2, batch_size=2, steps=4, threads=1
)


@pytest.fixture(scope="module")
def pipe(tiny_model):
    from negguide.models import load_pipeline

    pipe = load_pipeline(str(tiny_model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_right_means_that_each_image_shows_its_own_caption_alone(toyworld_judge):
    said, wrong = (
        "a brown bear in front view wearing a red hat in a room",
        "a brown bear in front view in a room",
    )
    one, other = (render(parse(caption), 64, seed=3) for caption in (said, wrong))
    pairs = [(one, other), (other, one), (one, one), (other, other)]
    assert mining.right(toyworld_judge, pairs, [(said, wrong)] * 4) == [True, False, False, False]
    assert mining.right(toyworld_judge, [], []) == []


def test_all_methods_paint_the_same_edits_from_the_same_noise():
    pairs = mining.planned(3)
    jobs = [[pair.job(method) for pair in pairs] for method in mining.LABELS]
    plain, classic, perp_neg = jobs
    assert classic == perp_neg and [j.seed for j in plain] == [j.seed for j in classic]
    assert [j.prompt for j in plain] == [j.prompt for j in classic] and not any(j.avoid for j in plain)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "set"
    fakes.mine(folder, source=open_source("toyworld:60"), controls=1.0)
    return mining.tells(folder), len(list(read_set(folder)))


def test_tells_are_those_of_the_best_probe_before_and_after_rebalancing(told):
    found, pairs = told
    as_mined, *balanced = found.values()
    assert as_mined["pairs"] == pairs > 40
    assert as_mined["captions"]["n"] == pairs and as_mined["captions"]["value"] > 0.55
    for choice in balanced:
        assert choice["pairs"] == 0 or choice["captions"]["value"] <= 0.55
    for group in ("control and negative", "original and negative"):
        last = balanced[-1]
        assert group not in last or last[group]["value"] <= 0.55


def test_goals_are_met_or_missed():
    rows = {
        "set": {"right": {"value": 0.99}, "written": {"value": 0.8}, "stopped_computing": 0.01},
        "speed": {"ratio": {"value": 3.2}},
    }
    rows["set"]["tells"] = {
        "rebalanced, painted originals": {
            "pairs": 50,
            "captions": {"value": 0.53},
            "original and negative": {"value": 0.56},
        }
    }
    lines = goals(rows)
    assert [line[-1] for line in lines] == ["met", "missed", "missed", "met", "met"]
    assert lines[2][2] == "56.0%" and lines[3][2] == "3.20"
    rows["set"] |= {"right": None, "tells": None}
    assert [line[2] for line in goals(rows) if not line[3]] == ["too few pairs"] * 2


def test_every_row_is_measured_and_shown(pipe, toyworld_judge, tmp_path, capsys):
    pairs = mining.planned(2)
    rows = []
    for method in mining.LABELS:
        accepted, right = mining.first_try(pipe, toyworld_judge, method, pairs, 2, 4)
        assert accepted.n == right.n == len(pairs)
        rows.append({"name": method, "accepted": accepted.to_dict(), "right": right.to_dict()})
    made = mining.the_set(pipe, toyworld_judge, ARGS)
    assert made["funnel"]["sources"]["read"] == 2 and made["images"] >= 2
    # at the worst, the batch that was on its way is painted again
    assert 0 < made["stopped_images"] <= ARGS.batch_size / made["images"]
    # of two pairs nothing can be told
    assert made["tells"] is None and made["peak_memory"] > 100
    rows.append({"name": "set", **made})
    fast = mining.speed(pipe, pairs, ARGS)
    assert fast["ratio"]["value"] == pytest.approx(fast["batches"]["value"] / fast["loop"]["value"])
    rows.append({"name": "speed", **fast})
    for name, pushed in (("without NegToMe", False), ("with NegToMe", True)):
        rows.append({"name": name, **mining.variety(pipe, toyworld_judge, pushed, ARGS)})
    assert rows[-1]["distance"] != rows[-2]["distance"]
    mining.show(rows, tmp_path)
    shown = capsys.readouterr().out
    assert "too few pairs" in shown
    for text in ("classic negative prompt", "written pairs right", "one at a time", "with NegToMe"):
        assert text in shown
    assert (tmp_path / "mining.png").exists()
