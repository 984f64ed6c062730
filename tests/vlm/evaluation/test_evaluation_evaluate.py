"""Asking a model: the figures of a model that is known to the last score, files, tables and pictures."""

import io
import json
from dataclasses import replace

import pytest
from known_features import Known
from PIL import Image
from rich.console import Console

from negguide.vlm.evaluation.evaluate import evaluate, make_suite, pair_scores
from negguide.vlm.evaluation.plot import plot_results
from negguide.vlm.evaluation.results import Results, Row, comparison, comparison_tables
from negguide.vlm.evaluation.suites.base import Choice, Choices, Pair, Pairs, Retrieval, Suite, ZeroShot
from negguide.vlm.models import load_model


def shades(*values):
    return [Image.new("RGB", (4, 4), (value, 0, 0)) for value in values]


def figures(results):
    return {(row.suite, row.metric, row.category): (round(row.value, 4), row.n) for row in results.rows}


def test_pairs_by_category_with_hard_positives():
    model = Known(
        {1: [1, 0], 2: [0, 1]},
        {
            "a": [1, 0],
            "b": [0, 1],
            "a, said well": [0.9, 0],
            "a, said badly": [0.1, 0.3],
            "mixed": [0.5, 0.2],
        },
    )
    images = shades(1, 2)
    part = Pairs(
        images,
        (
            Pair((0, 1), ("a", "b"), "good", ("a, said well",)),
            Pair((0, 1), ("a", "mixed"), "good", ("a, said well", "a, said badly")),  # 0.1 is below 0.5
            Pair((0, 1), ("b", "a"), "bad", ("mixed",)),
            Pair((0, 1), ("a", "b"), "bad"),
        ),
    )
    # rows: images, columns: captions
    assert pair_scores(model, part)[1].tolist() == [[1.0, 0.5], [0.0, pytest.approx(0.2)]]
    found = figures(evaluate(model, [Suite("s", "1", {"": part})]))
    assert found[("s", "text", "all")] == (0.75, 4)
    assert found[("s", "image", "all")] == (0.5, 4)  # caption "mixed" prefers the first image
    assert found[("s", "group", "good")] == (0.5, 2) and found[("s", "group", "bad")] == (0.5, 2)
    assert found[("s", "hard positives", "all")] == (0.3333, 3)
    assert found[("s", "hard positives", "good")] == (0.5, 2)
    assert found[("s", "paraphrase failures", "all")] == (0.3333, 3)
    # captions 1, 1, 0 against the means of their paraphrases 0.9, 0.5, 0.5
    assert found[("s", "paraphrase gap", "all")] == (round((0.1 + 0.5 - 0.5) / 3, 4), 3)
    assert len(model.asked) == len(set(model.asked)) + 3  # each text once (and three of them by pair_scores)


def test_choices_with_different_numbers_of_options_and_a_mean_of_categories():
    model = Known({1: [1, 0]}, {"yes": [1, 0], "no": [0, 1], "half": [0.5, 0], "same": [1, 0]})
    items = (
        Choice(0, ("yes", "no"), 0, "x"),
        Choice(0, ("no", "yes", "half"), 1, "x"),
        Choice(0, ("no", "half"), 0, "x"),
        Choice(0, ("yes", "same"), 0, "y"),  # a tie
    )
    found = figures(evaluate(model, [Suite("c", "1", {"": Choices(shades(1), items, macro=1)})]))
    assert found[("c", "accuracy", "all")] == (0.5, 4)
    assert found[("c", "accuracy", "x")] == (0.6667, 3) and found[("c", "accuracy", "y")] == (0.0, 1)
    assert found[("c", "mean of categories", "all")] == (0.3333, 4)
    few = figures(evaluate(model, [Suite("c", "1", {"": Choices(shades(1), items, macro=2)})]))
    assert few[("c", "mean of categories", "all")] == (0.6667, 3)
    part = Choices(shades(1), items, macro=1, left_out=frozenset("x"))
    left = figures(evaluate(model, [Suite("c", "1", {"": part})]))
    assert left[("c", "mean of categories", "all")] == (0.0, 1)


def test_retrieval_both_ways_with_several_captions_an_image():
    model = Known(
        {1: [1, 0, 0], 2: [0, 1, 0], 3: [0, 0, 1]},
        {"one": [1, 0, 0], "uno": [0.4, 0.6, 0], "two": [0, 1, 0.2], "three": [0.3, 0.2, 0.1]},
    )
    part = Retrieval(shades(1, 2, 3), ("one", "uno", "two", "three"), (0, 0, 1, 2))
    found = figures(evaluate(model, [Suite("r", "1", {"": part})]))
    assert found[("r", "text to image R@1", "all")] == (0.5, 4)
    assert found[("r", "text to image R@5", "all")] == (1.0, 4)
    assert found[("r", "image to text R@1", "all")] == (round(2 / 3, 4), 3)
    one_way = figures(evaluate(model, [Suite("r", "1", {"": replace(part, both=False)})]))
    assert {metric for _, metric, _ in one_way} == {"text to image R@1", "text to image R@5"}


def test_zero_shot_averages_the_prompts_of_a_class():
    model = Known(
        {1: [1, 0], 2: [0, 1]}, {"cat": [1, 0], "a cat": [0.6, 0.8], "dog": [0.6, 0.8], "a dog": [0, 1]}
    )
    part = ZeroShot(shades(1, 2, 1), (0, 1, 1), (("cat", "a cat"), ("dog", "a dog")))
    found = figures(evaluate(model, [Suite("z", "1", {"": part})]))
    assert found == {("z", "accuracy", "all"): (0.6667, 3)}


def test_texts_that_are_cut_are_counted_and_said():
    model = Known({1: [1, 0]}, {"one two three four five six": [1, 0], "no": [0, 1]})
    items = (Choice(0, ("one two three four five six", "no"), 0, "x"),) * 2
    results = evaluate(model, [Suite("c", "1", {"part": Choices(shades(1), items)})])
    assert results.notes == ("c/part: 1 of 2 texts are longer than 5 tokens; their end was cut off",)


@pytest.mark.parametrize("broken", ["image", "text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["pairs", "choices", "retrieval", "zero-shot"])
def test_a_model_without_finite_scores_has_no_figures(kind, value, broken):
    model = Known(
        {1: [1, value if broken == "image" else 0], 2: [0, 1]},
        {"a": [1, value if broken == "text" else 0], "b": [0, 1]},
    )
    images = shades(1, 2)
    part = {
        "pairs": Pairs(images, (Pair((0, 1), ("a", "b"), "x"),)),
        "choices": Choices(images, (Choice(0, ("a", "b"), 0, "x"),)),
        "retrieval": Retrieval(images, ("a", "b"), (0, 1)),
        "zero-shot": ZeroShot(images, (0, 1), (("a",), ("b",))),
    }[kind]
    message = rf"model='known' gives features that are not finite .* for 1 of 2 {broken}s of s/part"
    with pytest.raises(ValueError, match=message):
        evaluate(model, [Suite("s", "1", {"part": part})])


def test_two_suites_of_one_name_are_refused():
    suite = Suite("c", "1", {})
    with pytest.raises(ValueError, match=r"suites \['c', 'c'\] have a name twice"):
        evaluate(Known({}, {}), [suite, suite])


def test_a_suite_with_the_name_of_a_part_of_another_is_refused():
    images = shades(1)
    part = Choices(images, (Choice(0, ("a", "b"), 0, "x"),))
    with pytest.raises(
        ValueError, match=r"suites \['s', 's/x'\]: 's/x' is the name of one and of a part of another"
    ):
        evaluate(Known({}, {}), [Suite("s", "1", {"x": part}), Suite("s/x", "1", {"": part})])


def test_a_category_of_the_name_of_the_total_is_refused_before_anything_is_encoded():
    choices = (Choice(0, ("a", "b"), 0, "all"), Choice(0, ("a", "b"), 0, "x"))
    pairs = (Pair((0, 0), ("a", "b"), "x"), Pair((0, 0), ("a", "b"), "all"))
    for part in (Choices(shades(1), choices), Pairs(shades(1), pairs)):
        with pytest.raises(
            ValueError, match="suite 's/p' has a category 'all', which is the name of the figure over"
        ):
            evaluate(Known({}, {}), [Suite("s", "1", {"p": part})])
    # where there is no other one, it is the total
    model = Known({1: [1, 0]}, {"a": [1, 0], "b": [0, 1]})
    found = figures(evaluate(model, [Suite("s", "1", {"": Choices(shades(1), choices[:1])})]))
    assert found == {("s", "accuracy", "all"): (1.0, 1)}


def test_figures_of_one_item_each_are_never_significant_and_can_be_stored():
    model = Known({1: [1, 0]}, {"a": [1, 0], "b": [0, 1], "a, said well": [0.9, 0]})
    items = tuple(Choice(0, ("a", "b"), 0, f"category {i}") for i in range(7))
    pairs = (Pair((0, 0), ("a", "b"), "x", ("a, said well",)),)

    def measured(*parts):
        return evaluate(model, [Suite(f"s{i}", "1", {"": part}) for i, part in enumerate(parts)])

    good = measured(Choices(shades(1), items, macro=1), Pairs(shades(1), pairs))
    wrong = tuple(replace(item, answer=int(i < 2)) for i, item in enumerate(items))
    before = measured(Choices(shades(1), wrong, macro=1), Pairs(shades(1), pairs))
    for row in good.rows:
        assert row.low < row.high and row.low <= row.value <= row.high, row
    assert Results.from_dict(json.loads(json.dumps(good.to_dict(), allow_nan=False))) == good
    changes = {new.key: change for _, new, change in comparison(before, good)}
    macro_change = changes[("s0", "mean of categories", "all")]
    assert macro_change.value == pytest.approx(2 / 7) and macro_change.low < 0
    assert all(change.low < 0 < change.high for change in changes.values())
    tables = comparison_tables(before, good)
    shown = [
        segment.style for table in tables for segment in Console(width=80).render(table) if segment.style
    ]
    assert not any(style.color and style.color.name in ("green", "red") for style in shown)
    text = text_of(good.tables(), 80)
    assert "0.100 [-1.566,1.608]" in text and "100 [65,100]" in text


def test_a_figure_that_is_there_twice_is_refused():
    row = Row("s", "accuracy", "all", 0.5, 0.4, 0.6, 10)
    with pytest.raises(
        ValueError, match="rows hold 'accuracy' of 'all' in suite 's' 2 times; a figure is listed once"
    ):
        Results("m", None, (row, replace(row, value=0.6)))
    stored = Results("m", None, (row,)).to_dict()
    stored["rows"] *= 2
    with pytest.raises(ValueError, match="a figure is listed once"):
        Results.from_dict(stored)


@pytest.fixture(scope="module")
def results(clip):
    return evaluate(clip, [make_suite("toyworld", limit=5)], limit=5)


def test_the_embedded_model_answers_its_own_suite(results, clip):
    assert results.suites == {"toyworld": "1"} and results.revision == clip.revision
    categories = [row.category for row in results.rows if row.metric == "group"]
    assert categories == [
        "all",
        "object",
        "attribute",
        "count",
        "relation",
        "swap",
        "add",
        "remove",
        "negation",
    ]
    for metric in ("text", "image", "group", "hard positives"):
        row = results.row("toyworld", metric)
        assert 0 <= row.low <= row.value <= row.high <= 1 and row.n == 40
    group, text = results.row("toyworld", "group"), results.row("toyworld", "text")
    assert group.value <= text.value
    assert results.row("toyworld/retrieval", "text to image R@1").value >= 0.8
    assert results.row("toyworld/zero-shot", "accuracy").n == 5
    with pytest.raises(KeyError, match="no figure 'speed'"):
        results.row("toyworld", "speed")


def test_a_suite_does_not_change_the_model_or_its_mode(tiny_folders):
    model = load_model(str(tiny_folders["clip"]))
    model.model.train()
    suite = make_suite("toyworld", limit=2)
    first = evaluate(model, [suite], batch_size=3)
    assert model.model.training
    assert all(p.grad is None for p in model.model.parameters())
    # captions of the world are longer than this model reads
    assert any("texts are longer than 24 tokens" in text for text in first.notes)
    again = evaluate(model, [suite], batch_size=64)
    for before, after in zip(first.rows, again.rows, strict=True):
        assert after.key == before.key and after.value == pytest.approx(before.value, abs=1e-5)


def test_results_come_back_from_their_file(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    results.save(path)
    assert Results.from_dict(json.loads(path.read_text())) == results
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    with pytest.raises(ValueError, match="these are no results of negguide evaluate"):
        Results.from_dict({"rows": [{"metric": "text"}]})


def test_an_interrupted_save_leaves_the_old_file(results, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.save(path)
    before = path.read_text()
    monkeypatch.setattr("pathlib.Path.replace", lambda self, target: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        replace(results, model="other").save(path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def shifted(results, by):
    rows = tuple(
        replace(row, value=row.value + by, low=row.low + by, high=row.high + by)
        if row.metric == "group"
        else row
        for row in results.rows
    )
    return replace(results, model="tuned", rows=rows)


def text_of(tables, width=160):
    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def test_a_comparison_shows_each_change(results):
    after = shifted(results, -0.2)
    changes = {new.key: d for _, new, d in comparison(results, after)}
    assert changes[("toyworld", "group", "all")].value == pytest.approx(-0.2)
    assert changes[("toyworld", "text", "all")].value == 0
    text = text_of(comparison_tables(results, after))
    assert "toyworld: tuned, percent, and points more than toyworld" in text
    assert " -20.0 " in text and " +0.0 " in text and "toyworld/retrieval" in text


def test_results_of_other_questions_are_not_compared(results):
    for other in (
        replace(results, limit=6),
        replace(results, suites={"toyworld": "2"}),
        replace(results, rows=results.rows[1:]),
        replace(results, rows=(replace(results.rows[0], n=7), *results.rows[1:])),
    ):
        with pytest.raises(ValueError, match="results of other items cannot be compared"):
            comparison(results, other)
        with pytest.raises(ValueError, match="results of other items cannot be compared"):
            plot_results([results, other])


def test_tables_name_every_category_and_fold_what_is_too_long(results):
    text = text_of(results.tables())
    for word in ("text", "hard positives", "negation", "text to image R@5", "toyworld/zero-shot"):
        assert word in text
    many = tuple(Row("aro", "accuracy", f"relation {i}", 0.5, 0.4, 0.6, 10) for i in range(48))
    folded = text_of(replace(results, rows=many).tables())
    assert "relation 16" in folded and "relation 17" not in folded and "… 31 more in the JSON" in folded


def test_tables_are_whole_at_80_columns(results):
    rows = list(results.rows)
    for part, metrics in (
        ("visual_genome_attribution", ("accuracy", "mean of categories")),
        ("coco_order", ("accuracy",)),
    ):
        rows += [Row(f"aro/{part}", metric, "all", 1.0, 0.99999, 1.0, 28748) for metric in metrics]
    rows += [Row("crepe", "accuracy", c, 0.5, 0.4, 0.6, 1406) for c in ("all", "standing in front of")]
    # every figure as long as it can be
    wide = replace(results, rows=tuple(replace(row, value=0.999, low=0.998, high=1.0) for row in rows))
    for tables in (wide.tables(), comparison_tables(wide, shifted(wide, 0.5))):
        narrow, broad = (
            [line.rstrip() for line in text_of(tables, width).splitlines() if "percent" not in line]
            for width in (80, 300)
        )
        for word in (
            "hard positives",
            "paraphrase failures",
            "standing in front of",
            "text to image R@5",
            "28748",
        ):
            assert sum(word in line for line in narrow) >= 1, word
        # no cell is broken in two, except headings
        assert [line.split() for line in narrow if any(c.isdigit() for c in line)] == [
            line.split() for line in broad if any(c.isdigit() for c in line)
        ]


def ink(image, color):
    return sum(count for count, found in image.getcolors(1 << 24) if found == color)


def test_the_picture_has_a_bar_for_every_figure(results, tmp_path):
    blue, grey = (31, 111, 235), (168, 177, 187)
    results = replace(results, rows=tuple(r for r in results.rows if r.metric in ("group", "accuracy")))
    alone = plot_results([results], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == alone.size
    assert ink(alone, blue) > 5_000 and ink(alone, grey) == 0
    both = plot_results([results, shifted(results, 0.0)])
    assert both.height > alone.height and both.width == alone.width
    assert 0.8 < ink(both, blue) / ink(both, grey) < 1.25
    higher = plot_results([shifted(results, -0.5), results])
    assert ink(higher, blue) > 1.1 * ink(higher, grey)
    with pytest.raises(ValueError, match="results holds 3 models; one or two can be drawn"):
        plot_results([results] * 3)
