"""Figures, intervals, the table and the pictures, from results made up here."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from negguide._utils.stats import Rate
from negguide.benchmark import figures
from negguide.benchmark.columns import Column
from negguide.benchmark.figures import baseline, lines_of
from negguide.benchmark.generation import Sampling
from negguide.benchmark.judges import Verdict
from negguide.benchmark.judging import Seen
from negguide.benchmark.plots import contact_sheet, scatter
from negguide.benchmark.report import Report, _difference
from negguide.benchmark.runner import Drawn, Run, Task
from negguide.benchmark.suites import load_suite

YES, NO, UNCLEAR = Verdict(True, "yes"), Verdict(False, "no"), Verdict(None, "blue")


def by_item(*counts):
    """Pairs of columns as ({item: values}, {item: values}), from (how many, own, base)."""
    rows = [(own, base) for count, own, base in counts for _ in range(count)]
    return tuple({i: [row[side]] for i, row in enumerate(rows)} for side in (0, 1))


def test_a_paired_difference_has_newcombes_interval():
    # his example of 50 pairs (1998, table II): 0.20 [0.0569, 0.3404]
    rate = figures._difference("kept", *by_item((36, 1, 1), (12, 1, 0), (2, 0, 1)))
    assert (rate.value, rate.low, rate.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)


def test_a_difference_keeps_its_width_where_all_agree():
    rate = figures._difference("kept", *by_item((5, 1, 0)))
    assert rate.value == 1 and 0 < rate.low < 0.6 and rate.high == 1
    rate = figures._difference("kept", *by_item((5, 1, 1)))
    assert rate.value == 0 and rate.low < -0.3 and rate.high > 0.3


def test_a_difference_of_similarities_is_of_the_pairs():
    own = {i: [0.5 + 0.01 * i] for i in range(20)}
    base = {i: [0.4 + 0.01 * i] for i in range(20)}
    rate = figures._difference("similarity", own, base)
    # the prompts differ much, the pairs do not
    assert (rate.value, rate.low, rate.high) == pytest.approx((0.1, 0.1, 0.1))


def test_similarities_of_few_prompts_are_not_sure():
    # one value says nothing of others: all but z² / (1 + z²) of the range
    one = figures._rate("similarity", {"a": [0.9, 0.7]})
    assert (one.value, one.low, one.high) == pytest.approx((0.8, -0.6282, 0.9587), abs=1e-4)
    apart = figures._difference("similarity", {"a": [0.5]}, {"a": [0.9]})
    assert (apart.value, apart.n) == (pytest.approx(-0.4), 1) and apart.low < -1 and apart.high > 1
    # Student's of two values: 12.706 s / sqrt(2)
    two = figures._difference("similarity", {"a": [0.5], "b": [0.52]}, {"a": [0.6], "b": [0.6]})
    assert (two.value, two.low, two.high) == pytest.approx((-0.09, -0.2171, 0.0371), abs=1e-4)


def test_several_images_of_a_prompt_do_not_count_as_so_many_prompts():
    once = figures._rate("kept", {i: [float(i < 5)] for i in range(10)})
    often = figures._rate("kept", {i: [float(i < 5)] * 50 for i in range(10)})
    mixed = figures._rate("kept", {i: [1.0, 0.0] * 25 for i in range(10)})
    assert once.value == often.value == mixed.value == 0.5
    assert often.high - often.low > 0.5 > 2 * (mixed.high - mixed.low)


def test_the_first_calls_do_not_count_for_the_time():
    assert figures._seconds([(9.0, True), (1.0, False), (2.0, False), (8.0, True), (6.0, False)]) == 2.0
    assert figures._seconds([(9.0, True)]) is None


@pytest.fixture
def report(tmp_path):
    """`report(kind)` of two prompts, plain and some columns, one of them not possible."""

    def make(kind, names=("plain", "negative-prompt", "nag:2", "nag:4", "vsf"), images=1, size=(64, 64)):
        suite = load_suite(kind, "toyworld", 2)
        columns = tuple(
            Column(key, float(strength) if strength else None)
            for key, _, strength in (name.partition(":") for name in names)
        )
        run = Run(Sampling("toyworld", steps=2), suite, columns, Path(tmp_path), seeds=max(2, images), seed=0)
        drawn = Drawn({name: {} for name in names}, {"vsf": "it is far too strong"}, guidance_scale=5.0)
        drawn.left_out["nag:4"] = {"002": "too long"}
        seen = {name: [] for name in names}
        for number, name in enumerate(names[:-1]):
            for place, item in enumerate(suite.items[: 1 if name == "nag:4" else 2]):
                seeds = tuple(range(place * 1000, place * 1000 + images))
                task = Task(columns[number], item, seeds)
                drawn.done[name][task] = {
                    "images": ["x"] * images,
                    "seconds": 1.5 * images,
                    "peak_bytes": number * 10**9,
                    "first": place == 0,
                }
                for seed in seeds:
                    path = tmp_path / task.image(seed)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", size, (60 * number, 90, 200)).save(path)
                    removed = None if item.remove is None else (NO if number == 0 else YES)
                    alike = None if kind == "overlap" and number == 0 else 0.9 - 0.1 * number
                    seen[name].append(Seen(task, seed, UNCLEAR if number == 1 else YES, removed, alike))
        judge = SimpleNamespace(name="a/judge", revision="abc", remark="it errs")
        similarity = SimpleNamespace(name="dreamsim", revision=None)
        return Report(run, drawn, judge, similarity, seen, lines_of(run, drawn, seen))

    return make


def test_the_lines_say_what_was_found(report):
    plain, classic, nag, other, vsf = report("overlap").lines
    assert plain.rates["kept"].value == 1 and plain.rates["removed"].value == plain.rates["both"].value == 0
    # an unclear answer is no success
    assert classic.unclear == 2 and classic.rates["kept"].value == 0 and classic.rates["removed"].value == 1
    assert nag.differences["plain"]["both"].value == nag.differences["negative-prompt"]["kept"].value == 1
    assert "similarity" not in plain.rates and "similarity" not in nag.differences["plain"]
    assert nag.rates["similarity"].value == pytest.approx(0.7)
    # on the prompts that both have
    assert other.differences["plain"]["kept"].n == 1 and other.left_out == {"002": "too long"}
    assert vsf.reason == "it is far too strong" and not vsf.rates
    assert (nag.seconds, nag.peak_bytes) == (1.5, 2 * 10**9)
    assert baseline("overlap", [plain, classic, nag]) == "negative-prompt"
    assert baseline("overlap", [plain, nag]) == baseline("diversity", [plain, classic]) == "plain"


def test_the_table_says_what_is_better_and_what_is_not_possible(report):
    made = report("overlap")
    headings, rows = made.rows
    assert headings == ["", "kept", "removed", "both", "both against negative prompt", "like plain",
                        "s/image", "GB"]  # fmt: skip
    assert [row[0].text for row in rows] == ["plain", "negative prompt", "NAG 2", "NAG 4"]
    nag = rows[2]
    assert nag[1].text == "100 [34,100]" and nag[4].text.startswith("+100 [") and nag[4].better is True
    assert rows[0][4].better is None and rows[0][5].text == ""
    # two equal values are two, and no more
    assert nag[5].text == "0.700 [-0.418,0.897]" and (nag[6].text, nag[7].text) == ("1.50", "2.0")
    remarks = "\n".join(made.remarks)
    for said in (
        "VSF: not possible: it is far too strong",
        "negative prompt: 2 answers about its 2 images were neither yes nor no",
        "NAG 4: 1 of 2 prompts were not possible and are left out, e.g. 002: too long",
        "fewer than 20 prompts",
        "it errs",
    ):
        assert said in remarks
    text = made.markdown()
    assert "| NAG 2 | 100 [34,100] |" in text and f"**{nag[4].text}**" in text and "contact-sheet.png" in text
    assert "a/judge (revision abc); similarity: dreamsim (revision unknown)" in text


@pytest.mark.parametrize(
    ("kind", "headings"),
    [
        ("diversity", ["", "alike", "alike against plain", "kept", "s/image", "GB"]),
        (
            "reference",
            ["", "like reference", "like reference against plain", "kept", "removed", "s/image", "GB"],
        ),
    ],
)
def test_less_alike_is_better_in_the_other_suites(report, kind, headings):
    made = report(kind, ("plain", "negtome", "vsf"), images=2)
    found, rows = made.rows
    assert found == headings
    assert rows[1][2].text.startswith("-0.100 [") and rows[1][2].better is None
    assert _difference("similarity", Rate(-0.1, -0.15, -0.05, 9)).better is True
    assert _difference("similarity", Rate(0.1, 0.05, 0.15, 9)).better is False


def is_drawn(picture, color):
    return bool((np.asarray(picture) == color).all(-1).any())


def test_the_plot_has_a_point_for_every_column_that_can_act(report):
    from matplotlib.colors import to_rgb

    from negguide.benchmark.plots import COLORS, GREY

    picture = scatter(report("overlap"))
    colors = [tuple(round(255 * part) for part in to_rgb(color)) for color in (GREY, *COLORS)]
    assert picture.width > 900 and [is_drawn(picture, color) for color in colors[:4]] == [
        True,
        True,
        True,
        False,
    ]
    assert scatter(report("diversity", ("plain", "negtome", "vsf"), images=2)).size == picture.size


def test_the_contact_sheet_shows_the_images_of_the_columns_side_by_side(report):
    sheet = contact_sheet(report("overlap"))
    assert [is_drawn(sheet, (60 * number, 90, 200)) for number in range(5)] == [True] * 4 + [False]
    # large images are shrunk, several of a prompt are one block
    large = contact_sheet(report("diversity", ("plain", "negtome", "vsf"), images=5, size=(1024, 768)))
    assert large.width < 2000 and is_drawn(large, (60, 90, 200))


def test_the_reference_is_the_first_column_of_the_sheet(report, tmp_path):
    made = report("reference", ("plain", "negtome", "vsf"))
    for item in made.run.suite.items:
        path = made.run.reference_paths(item)[0]
        Image.new("RGB", (64, 64), (250, 10, 30)).save(path)
    sheet = np.asarray(contact_sheet(made))
    columns = [np.nonzero((sheet == color).all(-1))[1].min() for color in ((250, 10, 30), (60, 90, 200))]
    assert columns[0] < columns[1]
