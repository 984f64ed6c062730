"""benchmarks/vlm.py makes its sets, trains its rows and judges its bars; its numbers are not asserted."""

import json
import math
import re
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import vlm
import vlm_ablation
import vlm_rows
import vlm_sets
from PIL import Image
from suite_files import BLUE, RED, item, picture

from negguide._utils.devices import fast_bfloat16
from negguide._utils.stats import Rate, wilson
from negguide.toyworld import parse
from negguide.toyworld.edits import meaning
from negguide.toyworld.scene import held_out
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.evaluation.evaluate import evaluate, make_suite
from negguide.vlm.evaluation.results import Results
from negguide.vlm.losses import registered_losses
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return vlm.rendered_set(tmp_path_factory.mktemp("vlm") / "renders", vlm.parts(20, 12, 8))


def test_rendered_pairs_are_of_the_training_split_and_different(renders):
    triplets = read_triplets(str(renders))
    assert len(triplets) > 24 and len({t.source for t in triplets}) >= 10  # of some nothing can be edited
    assert {t.category for t in triplets if f"{renders / 'order'}/" in t.image.name} == {"relation", "swap"}
    assert "attribute" in {t.category for t in triplets if f"{renders / 'details'}/" in t.image.name}
    assert "negation" in {t.category for t in triplets if f"{renders / 'presence'}/" in t.image.name}
    for triplet in triplets:
        before, after = (parse(text, negation=True) for text in (triplet.caption, triplet.negative_caption))
        assert meaning(before) != meaning(after) and not held_out(before)
        assert triplet.image.read() != triplet.negative_image.read()
        for text in triplet.positive_captions:
            assert text != triplet.caption and meaning(parse(text, negation=True)) == meaning(before)


def test_a_set_that_is_there_is_not_made_again(renders, monkeypatch):
    monkeypatch.setattr("negguide.toyworld.render", None)
    before = (renders / "presence" / "metadata.jsonl").stat().st_mtime_ns
    assert vlm.rendered_set(renders, vlm.parts(20, 12, 8)) == renders
    assert (renders / "presence" / "metadata.jsonl").stat().st_mtime_ns == before


def test_plain_prompting_paints_the_same_items_again(tmp_path, monkeypatch):
    # two parts, whose items have the same numbers
    items = [item(0, "object", prompt="a brown cat in a meadow", seed=seed) for seed in range(2)]
    shards = [tmp_path / "mined" / name / "data" / "00000" for name in ("order", "others")]
    for one, shard in zip(items, shards, strict=True):
        shard.mkdir(parents=True)
        (shard.parents[1] / "set.json").write_text("{}")
        (shard / "metadata.jsonl").write_text(json.dumps(one.row()) + "\n")
        (shard / "shard.json").write_text("{}")
        picture(shard / one.image_file_name, RED)
        picture(shard / one.negative_image_file_name, BLUE)
    monkeypatch.setattr(vlm_sets, "STEPS", 2)
    triplets = read_triplets(str(vlm.plain_set(tmp_path / "plain", tmp_path / "mined")))
    assert [(t.caption, t.negative_caption) for t in triplets] == [
        (i.caption, i.negative_caption) for i in items
    ]
    for triplet, original, shard in zip(triplets, items, shards, strict=True):
        assert triplet.image.read() == (shard / original.image_file_name).read_bytes()
        painted = Image.open(triplet.negative_image.name)
        assert painted.size == (64, 64) and painted.getpixel((0, 0)) != BLUE
    assert triplets[0].negative_image.read() != triplets[1].negative_image.read()


def test_a_row_is_trained_and_measured(renders, tmp_path):
    suites = [make_suite(name, limit=2) for name in vlm.SUITES]
    row = vlm.tuned(
        tmp_path, renders, vlm.TEXT, 0, suites, steps=5, images=8, lr=1e-3, curriculum="", warmup=1
    )
    assert row["steps"] >= 1 and row["method"] == vlm.TEXT
    parts = ("", "/retrieval", "/zero-shot")
    assert {entry["suite"] for entry in row["results"]["rows"]} == {
        f"{suite}{part}" for suite in ("toyworld", "toyworld-2") for part in parts
    }
    assert {name for name, *_ in vlm.FIGURES.values()} == {f"toyworld-2{part}" for part in parts}
    json.dumps(row)


def test_every_row_sees_the_same_number_of_images(renders, tmp_path, monkeypatch):
    monkeypatch.setattr(vlm, "rendered_set", lambda folder, asked: renders)
    sets = vlm.make_sets(tmp_path, vlm.parts(20, 12, 8), {"parts": "small"}, 60, renders=True)
    assert sets.keys() == vlm.METHODS.keys() - {vlm.PLAIN}
    suite = make_suite("toyworld", limit=1)
    rows = [
        vlm.tuned(
            *(tmp_path, train_data, method, 0, [suite]),
            steps=5,
            images=8,
            lr=1e-4,
            curriculum="",
            warmup=1,
            precision="fp32",
        )
        for method, train_data in sets.items()
    ]
    assert {row["steps"] for row in rows} == {5} and {row["images_seen"] for row in rows} == {40}
    assert [row["batch_size"] for row in rows] == [4 if row["method"] == vlm.IMAGE else 8 for row in rows]
    assert vlm.images_seen(rows)[1:] == ("0.0%", "yes")
    assert vlm.images_seen([*rows, {**rows[0], "images_seen": 41}])[1:] == ("2.5%", "no")
    # each row says what it was trained on
    data = {row["method"]: row["data"] for row in rows}
    assert data[vlm.KEEPING_ALONE] == data[vlm.KEEPING_TEXT] != data[vlm.KEEPING] != data[vlm.BOTH]


def test_half_of_what_the_controls_draw_is_further_pairs(renders, tmp_path):
    negatives = read_triplets(str(renders))
    even = read_triplets(
        str(vlm.keeping_set(tmp_path / "even", renders, 4 * len(negatives), even_for="relation"))
    )
    kept = [triplet for triplet in even if triplet.id.startswith("kept-")]
    assert len(kept) == len(even) / 2 == 4 * len(negatives)
    assert not any(triplet.negative_caption or triplet.negative_image for triplet in kept)
    often = Counter((t.source, t.caption, t.negative_caption) for t in even if t not in kept)
    once = Counter((t.source, t.caption, t.negative_caption) for t in negatives)
    assert often == {key: 4 * count for key, count in once.items()}
    # in the curriculum as well, which takes rows by category
    first = [triplet for triplet in even if triplet.category == "relation"]
    assert 0 < len(first) == 2 * sum(triplet in kept for triplet in first)
    assert {triplet.category for triplet in kept} == {"relation", "kept"}
    # the same further pairs as beside the siblings
    siblings = read_triplets(str(vlm.keeping_set(tmp_path / "one", renders, 4 * len(negatives))))
    assert [t.caption for t in siblings if t.id.startswith("kept-")] == [t.caption for t in kept]
    assert len(siblings) == 5 * len(negatives)


@pytest.mark.parametrize(("rows", "batch_size"), [(9929, 78), (9929, 39), (49929, 78), (12090, 78), (78, 78)])
def test_steps_are_divided_into_epochs_that_the_set_can_fill(rows, batch_size):
    found = vlm_rows.schedule(rows, batch_size, 1500)
    per_epoch = found["train_num_samples"] // batch_size
    assert per_epoch * found["epochs"] == 1500 and found["train_num_samples"] <= rows
    assert found["curriculum_epochs"] * per_epoch == 300  # a fifth, whatever the set


def test_steps_that_cannot_be_divided_are_refused():
    for rows, batch_size, steps in ((100, 92, 1501), (91, 92, 1500)):
        with pytest.raises(ValueError, match=f"steps={steps} must be a multiple of 5"):
            vlm_rows.schedule(rows, batch_size, steps)


def test_a_set_of_another_recipe_has_another_folder(tmp_path):
    small, large = vlm.parts(20, 12, 8), vlm.parts(20, 12, 9)
    folders = {
        vlm.set_folder(tmp_path, "mined", made_of)
        for made_of in (vlm.recipe(small), vlm.recipe(small), vlm.recipe(large), vlm.recipe(small, even=True))
    }
    assert len(folders) == 3
    changed = {**small, "order": replace(small["order"], categories=("relation",))}
    assert vlm.set_folder(tmp_path, "mined", vlm.recipe(changed)) not in folders
    for folder in folders:
        assert json.loads((folder / "recipe.json").read_text())["positives"] == vlm_sets.POSITIVES


def test_a_shortened_run_of_the_benchmark_goes_the_right_way(clip, tmp_path):
    """The whole one takes an hour; this is what CI can do of it."""
    renders = vlm.rendered_set(tmp_path / "renders", vlm.parts(400, 100, 50))
    suite = make_suite("toyworld", limit=25)
    before = evaluate(clip, [suite])
    # too short for a curriculum
    short: dict[str, Any] = {"steps": 120, "images": 36, "lr": 3e-4, "curriculum": "", "warmup": 8}
    precision = "amp_bf16" if fast_bfloat16("cpu") else "fp32"
    row = vlm.tuned(tmp_path, renders, vlm.BOTH, 0, [suite], precision=precision, **short)
    after = Results.from_dict(row["results"])
    gains = {
        metric: after.row("toyworld", metric).value - before.row("toyworld", metric).value
        for metric in ("text", "group")
    }
    assert gains["text"] > 0 and gains["group"] > 0, gains


def test_seeds_are_pooled_and_the_interval_holds_them_all(clip):
    results = evaluate(clip, [make_suite("toyworld", limit=2)])

    def row(value):
        changed = [
            replace(r, value=value) if r.key == ("toyworld", "group", "all") else r for r in results.rows
        ]
        return {"results": replace(results, rows=tuple(changed)).to_dict()}

    rate = vlm.pooled([row(0.5), row(0.75)], "toyworld", "group")
    assert (rate.value, rate.n) == (0.625, 16)
    # Wilson's interval of 10 out of 16
    assert (round(rate.low, 3), round(rate.high, 3)) == (0.386, 0.815)
    assert vlm.pooled([row(0.25), row(1.0)], "toyworld", "group").high == 1.0


def rates(**groups):
    names = (vlm.START, vlm.TEXT, vlm.IMAGE, vlm.BOTH, vlm.KEEPING, vlm.PLAIN)
    return {
        name: {
            figure: Rate(value, value - 0.03, value + 0.03, 1000)
            for figure, value in dict.fromkeys(
                vlm.FIGURES, groups[name.split(",")[0].replace(" ", "_")]
            ).items()
        }
        for name in names
    }


def test_the_bars_are_judged_by_intervals_and_points():
    found = rates(start_model=0.5, text_negatives=0.7, image_negatives=0.79, both=0.82)
    found[vlm.KEEPING] |= {
        "retrieval R@1": Rate(0.495, 0.4, 0.6, 500),
        "zero-shot": Rate(0.48, 0.4, 0.6, 500),
        "hard positives": Rate(0.5, 0.4, 0.6, 500),
    }
    met = {asked: (value, verdict) for asked, value, verdict in vlm.verdicts(found)}
    assert met["group: both above text negatives"] == ("+12.0 points", "yes")
    assert met["group: both above image negatives"] == ("+3.0 points", "better, intervals overlap")
    assert met[f"group: both above {vlm.PLAIN}"] == ("+0.0 points", "no")
    assert met["group: both 30 points over the start"] == ("+32.0 points", "yes")
    assert met[f"retrieval R@1: {vlm.KEEPING} loses at most 1 points"] == ("-0.5 points", "yes")
    assert met[f"zero-shot: {vlm.KEEPING} loses at most 1 points"] == ("-2.0 points", "no")
    assert met[f"hard positives: {vlm.KEEPING} loses at most 0 points"] == ("+0.0 points", "yes")


def test_a_plot_has_a_panel_for_every_figure(tmp_path):
    found = rates(start_model=0.5, text_negatives=0.7, image_negatives=0.79, both=0.82)
    vlm.plot(tmp_path / "rows.png", "Title", found, columns=3)
    two = {name: {"text": row["text"], "group": row["group"]} for name, row in found.items()}
    vlm.plot(tmp_path / "two.png", "Title", two, columns=2)
    rows, pair = (Image.open(tmp_path / f"{name}.png") for name in ("rows", "two"))
    assert rows.width > pair.width and rows.height > 1.5 * pair.height


WHAT_ALL_ROWS_SHARE = {
    *(
        "train_data",
        "images",
        "model",
        "seed",
        "epochs",
        "train_num_samples",
        "batch_size",
        "lr",
        "wd",
        "warmup",
    ),
    *("grad_clip_norm", "precision", "val_fraction", "val_every", "curriculum_epochs"),
}
WHAT_CHANGES_NO_RESULT = {"accum_freq", "grad_checkpointing", "torch_compile", "workers", "save_every"}


def test_every_option_has_a_row_that_changes_it_and_every_row_can_be_trained():
    told = {**vlm_ablation.told(), **{name: vlm_ablation.settings_of(name) for name in vlm.METHODS}}
    changed = set()
    for name, given in told.items():
        more = {"curriculum_epochs": 1} if given["curriculum"] else {}
        settings = Settings("set", epochs=5, **given, **more)
        changed |= {e.name for e in fields(Settings) if getattr(settings, e.name) != e.default}
        row = vlm_ablation.ROWS.get(name)
        assert (
            row is None
            or any(given.get(key) != value for key, value in told[row.base].items())
            or (given.keys() > told[row.base].keys())
        ), name
    options = {entry.name for entry in fields(Settings)}
    assert options - changed - WHAT_ALL_ROWS_SHARE == WHAT_CHANGES_NO_RESULT
    # of the losses, those of a sigmoid need a model that no row has
    losses = {given["loss"] for given in told.values()}
    assert registered_losses().keys() - losses == {"siglip", "negsiglip"}


def test_a_row_of_the_ablation_is_its_base_with_something_changed():
    assert vlm_ablation.methods() == (vlm.BOTH, vlm.KEEPING)
    base, row = (vlm_ablation.settings_of(n) for n in (vlm.BOTH, "refreshed by a quarter"))
    assert row == {**base, "refresh_negatives": 100, "refresh_fraction": 0.25}
    triplet = vlm_ablation.settings_of("triplet, rank margin")
    assert (triplet["loss"], triplet["rank_margin"]) == ("triplet", 0.1) and "group_size" not in triplet
    assert vlm_ablation.method_of("anti-forgetting, false negatives halved") == vlm.KEEPING
    assert list(vlm_ablation.told())[:2] == [vlm.BOTH, vlm.KEEPING]


def test_static_and_refreshed_rows_see_the_same_images(renders, tmp_path, monkeypatch, capsys):
    rows = {"refreshed": vlm_ablation.Row(vlm.BOTH, {"refresh_negatives": 2})}
    monkeypatch.setattr(vlm_ablation, "ROWS", rows)
    monkeypatch.setattr(vlm_ablation, "EVERY", {"curriculum": "", "precision": "fp32", "val_fraction": 0.0})
    path, suite = tmp_path / "ablation.json", make_suite(vlm.SUITES[-1], limit=1)
    training = {"steps": 5, "images": 8, "lr": 1e-4}
    vlm_ablation.run(path, {}, tmp_path, {vlm.BOTH: renders}, [suite], 1, training)
    found = json.loads(path.read_text())["rows"]
    assert [row["method"] for row in found] == [vlm.START, vlm.BOTH, "refreshed"]
    assert [row["images_seen"] for row in found] == [0, 40, 40] and [row["steps"] for row in found] == [
        0,
        5,
        5,
    ]
    assert re.search(r"refreshed +.*both", capsys.readouterr().out)
    logs = [Log(log).lines() for log in (tmp_path / "runs").glob("*/log.jsonl")]
    assert sorted(sum("exchanged" in line for line in lines) for lines in logs) == [0, 3]


def test_a_new_method_makes_no_row_anew_and_one_that_is_told_otherwise_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(vlm_rows, "_start", lambda _suites, seed: {"method": vlm.START, "seed": seed})
    made = []

    def fill(steps, methods):
        def job(name, seed):
            made.append(name)
            return {"method": name, "seed": seed, "told": methods[name]}

        jobs = {name: partial(job, name) for name in methods}
        settings = {"steps": steps, "methods": methods}
        return vlm_rows.rows_of(tmp_path / "rows.json", settings, [], 1, jobs)

    fill(5, {"a": {"lr": 1.0}, "b": {"lr": 1.0}})
    fill(5, {"a": {"lr": 1.0}, "b": {"lr": 2.0}, "c": {"lr": 3.0}})
    assert made == ["a", "b", "b", "c"]
    rows = fill(5, {"a": {"lr": 1.0}, "b": {"lr": 2.0}, "c": {"lr": 3.0}})
    assert made == ["a", "b", "b", "c"] and [row["method"] for row in rows] == [vlm.START, "a", "b", "c"]
    assert [row["told"]["lr"] for row in rows[1:]] == [1.0, 2.0, 3.0]
    # all else is of all rows
    fill(10, {"a": {"lr": 1.0}})
    assert made[4:] == ["a"]


def test_a_change_is_the_mean_over_common_seeds_with_the_interval_of_two_proportions(
    clip, tmp_path, monkeypatch
):
    results = evaluate(clip, [make_suite(name, limit=2) for name in vlm.SUITES])
    n = results.row("toyworld-2", "group").n

    def row(seed, value, method=vlm.BOTH):
        changed = [
            replace(r, value=value) if r.key == ("toyworld-2", "group", "all") else r for r in results.rows
        ]
        told = replace(results, rows=tuple(changed)).to_dict()
        return {"method": method, "seed": seed, "results": told}

    base = [row(0, 0.5), row(1, 0.25)]
    both = vlm_ablation.change([row(1, 0.5), row(0, 0.5)], base, "group")
    assert both.value == 0.125 and both.low < 0.0 and both.high > 0.25
    # one seed is no certainty: Newcombe's interval from the two of Wilson
    one = vlm_ablation.change([row(0, 0.75)], base, "group")
    (low, high), (base_low, base_high) = wilson(0.75, n), wilson(0.5, n)
    assert one.value == 0.25
    assert one.low == pytest.approx(0.25 - math.hypot(0.75 - low, base_high - 0.5))
    assert one.high == pytest.approx(0.25 + math.hypot(high - 0.75, 0.5 - base_low))
    assert vlm_ablation.change([row(2, 0.5)], base, "group") is None

    rows = [row(0, 0.0), row(0, 1.0, "focal"), row(0, 0.1, "Dice"), row(0, 0.1, "Dice, focal")]
    lines = {line[0]: line for line in vlm_ablation.table(rows)}
    assert [line[5] for line in lines.values()] == ["", "yes", "no", "no"]
    assert lines["focal"][3] == vlm.BOTH and lines["Dice, focal"][3] == "Dice"
    assert lines["focal"][4].startswith("+100.0 [") and lines["Dice, focal"][4].startswith("+0.0 [-")
    vlm_ablation.plot(tmp_path / "changes.png", rows)
    with Image.open(tmp_path / "changes.png") as drawn:
        assert drawn.width > 1000
    vlm_ablation.plot(tmp_path / "none.png", rows[:1])
    assert not (tmp_path / "none.png").exists()
