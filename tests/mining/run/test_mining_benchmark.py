"""The benchmark of mining measures what it says; its numbers are not asserted."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from negguide.toyworld import parse, render

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
ARGS = Namespace(
    pairs=2, variety_pairs=1, speed_pairs=1, turns=1, shard_size=2, batch_size=2, steps=4, threads=1
)


@pytest.fixture(scope="module")
def mining():
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("mining_benchmark", BENCHMARKS / "mining.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mining_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipe(tiny_model):
    from negguide.models import load_pipeline

    pipe = load_pipeline(str(tiny_model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_right_means_that_each_image_shows_its_own_caption_alone(mining, toyworld_judge):
    said, wrong = (
        "a brown bear in front view wearing a red hat in a room",
        "a brown bear in front view in a room",
    )
    one, other = (render(parse(caption), 64, seed=3) for caption in (said, wrong))
    pairs = [(one, other), (other, one), (one, one), (other, other)]
    assert mining.right(toyworld_judge, pairs, [(said, wrong)] * 4) == [True, False, False, False]
    assert mining.right(toyworld_judge, [], []) == []


def test_all_methods_paint_the_same_edits_from_the_same_noise(mining):
    pairs = mining.planned(3)
    jobs = [[pair.job(method) for pair in pairs] for method in mining.LABELS]
    plain, classic, perp_neg = jobs
    assert classic == perp_neg and [j.seed for j in plain] == [j.seed for j in classic]
    assert [j.prompt for j in plain] == [j.prompt for j in classic] and not any(j.avoid for j in plain)


def test_every_row_is_measured_and_shown(mining, pipe, toyworld_judge, tmp_path, capsys):
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
    rows.append({"name": "set", **made, "peak_memory": mining.peak_memory()})
    fast = mining.speed(pipe, pairs, ARGS)
    assert fast["ratio"]["value"] == pytest.approx(fast["batches"]["value"] / fast["loop"]["value"])
    rows.append({"name": "speed", **fast})
    for name, pushed in (("without NegToMe", False), ("with NegToMe", True)):
        rows.append({"name": name, **mining.variety(pipe, toyworld_judge, pushed, ARGS)})
    assert rows[-1]["distance"] != rows[-2]["distance"]
    mining.show(rows, tmp_path)
    shown = capsys.readouterr().out
    for text in ("classic negative prompt", "written pairs right", "one at a time", "with NegToMe"):
        assert text in shown
    assert (tmp_path / "mining.png").exists()
