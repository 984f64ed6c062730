"""What is drawn and asked: the built-in lists, NegGenBench, and files of one's own."""

import json

import pytest
from PIL import Image

from negguide.benchmark.suites import DIVERSITY, KINDS, OVERLAP, REFERENCE, load_suite

REAL = "owner/model"


def test_the_built_in_lists_are_long_and_every_item_is_another_one():
    sizes = {kind: len(load_suite(kind, REAL).items) for kind in KINDS}
    assert sizes[OVERLAP] >= 100 and sizes[DIVERSITY] >= 30 and sizes[REFERENCE] >= 20
    for kind in KINDS:
        prompts = [item.prompt for item in load_suite(kind, REAL).items]
        assert len(set(prompts)) == len(prompts)


def test_an_overlapping_negative_has_all_that_any_judge_asks_for():
    for item in load_suite(OVERLAP, REAL).items:
        for check in (item.keep, item.remove):
            assert check is not None and check.question.endswith("?")
            assert check.present and check.absent and check.present != check.absent
        assert item.keep.shown and item.keep.yes and not item.remove.shown and not item.remove.yes
        # nobody asks for what is to be left out
        assert item.negative.lower() not in item.prompt.lower()


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedded_model_has_suites_in_its_own_words(kind):
    from negguide.toyworld import parse

    suite = load_suite(kind, "toyworld")
    assert suite.kind == kind and suite.name == kind and suite.items != load_suite(kind, REAL).items
    for item in suite.items:
        for text in (item.prompt, item.negative, item.keep.present, item.remove and item.remove.present):
            assert not text or parse(text) is not None


def test_a_file_may_be_short(suite_file):
    path = suite_file([{"prompt": "a boy wearing sunglasses", "negative": "a black frame"}])
    suite = load_suite(str(path), REAL)
    assert (suite.name, suite.kind) == ("mine", OVERLAP)
    (item,) = suite.items
    assert item.keep.question == "Does the picture show a boy wearing sunglasses?"
    assert item.remove.question == "Is there a black frame in the picture?"
    assert (item.keep.yes, item.remove.yes, item.id) == (True, False, "001")


def test_a_file_of_lines_may_have_one_and_any_sign_in_it(suite_file):
    row = {"prompt": "a sign\u2028of two lines", "negative": "b"}
    line = json.dumps(row, ensure_ascii=False)
    for lines in (1, 2):
        suite = load_suite(str(suite_file("\r\n".join([line] * lines), "m.jsonl")), REAL)
        assert [item.prompt for item in suite.items] == [row["prompt"]] * lines


def test_keep_and_remove_are_phrases_questions_or_objects(suite_file):
    rows = [
        {"prompt": "a", "negative": "b", "keep": "a phrase", "remove": "Is it gone?"},
        {"prompt": "a", "negative": "b", "remove": {"question": "Is b missing?", "yes": True, "absent": "c"}},
    ]
    first, second = load_suite(str(suite_file("\n".join(map(json.dumps, rows)), "m.jsonl")), REAL).items
    assert first.keep.present == "a phrase" and "a phrase" in first.keep.question
    assert (first.remove.present, first.remove.question, first.remove.yes) == ("b", "Is it gone?", False)
    assert (second.remove.yes, second.remove.shown, second.remove.absent) == (True, False, "c")


def test_the_kind_follows_from_the_items_unless_it_is_said(suite_file, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "away.png")
    assert load_suite(str(suite_file([{"prompt": "a bear"}])), REAL).kind == DIVERSITY
    reference = load_suite(str(suite_file([{"prompt": "a bear", "reference": "away.png"}])), REAL)
    assert reference.kind == REFERENCE and reference.items[0].reference == (tmp_path / "away.png",)
    said = load_suite(str(suite_file({"kind": "reference", "items": [{"prompt": "a bear"}]})), REAL)
    assert said.kind == REFERENCE and said.items[0].reference == ()


def test_neggenbench_is_read_as_it_is(suite_file):
    row = {
        "prompt": "A white sailboat on calm water.",
        "missing_element": "sails",
        "question_1": "Is the image showing a sailboat with or without sails?",
        "question_2": "Are the sails missing?",
    }
    suite = load_suite(str(suite_file([row, row], "test_prompts.json.new")), REAL)
    item = suite.items[1]
    assert suite.kind == OVERLAP and len(suite.items) == 2
    assert (item.negative, item.keep.question, item.keep.yes) == ("sails", row["question_1"], True)
    # yes, they are missing: the answer that is hoped for
    assert (item.remove.question, item.remove.yes, item.remove.present) == (row["question_2"], True, "sails")
    lines = json.dumps({"prompts": [{"prompt": "A watch.", "missing_element": "hands"}]})
    (watch, other) = load_suite(str(suite_file(f"{lines}\n{lines}", "test_prompt.jsonl")), REAL).items
    assert watch.remove.question == "Is there hands in the picture?" and not watch.remove.yes
    assert (watch.id, other.id) == ("001", "002")


def test_count_takes_the_first_prompts():
    assert load_suite(OVERLAP, REAL, 3).items == load_suite(OVERLAP, REAL).items[:3]
    for count in (0, 1000):
        with pytest.raises(ValueError, match=f"--count must be from 1 to 108, .* got {count}"):
            load_suite(OVERLAP, REAL, count)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "neither JSON nor JSONL; line 1 cannot be read"),
        ([], "must hold at least one item"),
        ({"rows": []}, "must be a list of items, or an object with items"),
        ({"kind": "speed", "items": [{"prompt": "a"}]}, "kind must be one of overlap, diversity, reference"),
        (
            {"knd": "reference", "items": [{"prompt": "a"}]},
            "unknown field 'knd'; fields are kind, about and items",
        ),
        (["a bear"], "item 1 must be an object, got 'a bear'"),
        ([{"negative": "a"}], "item 1 has no prompt"),
        ([{"prompt": 3}], "item 1: prompt must be a string, got 3"),
        ([{"prompt": "a", "negativ": "b"}], "unknown field 'negativ'; fields are prompt, negative, keep"),
        ([{"prompt": "a", "keep": {"phrase": "b"}}], "item 1: keep has the unknown field 'phrase'"),
        ([{"prompt": "a", "keep": 3}], "item 1: keep must be a phrase, a question or an object"),
        ([{"prompt": "a", "keep": {"yes": "no"}}], "item 1: keep: yes must be true or false"),
        ([{"prompt": "a", "keep": {"yes": False}}], "yes is about a question, and there is none"),
        ([{"prompt": "a", "remove": {"question": "Is it?"}}], "remove needs present, a phrase"),
        ([{"prompt": "a", "reference": "no.png"}], "item 1: there is no reference image .*no.png"),
        ([{"prompt": "a", "reference": 3}], "reference must be a file or a list of files, got 3"),
        ([{"prompt": "a", "id": "../a"}], "id must be letters, digits"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "id 'x' is there more than once"),
        ([{"prompt": "a", "negative": "b"}, {"prompt": "c"}], "needs a negative in every item; 002 has none"),
    ],
)
def test_a_wrong_file_is_refused_with_what_would_be_right(suite_file, content, message):
    with pytest.raises(ValueError, match=message):
        load_suite(str(suite_file(content)), REAL)


def test_a_suite_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"--suite must be one of overlap, .* or a JSON or JSONL file, got 'no'"
    ):
        load_suite("no", REAL)


def test_prompts_that_the_embedded_model_cannot_read_are_refused(suite_file):
    with pytest.raises(ValueError, match="the toy world does not know 'boy'"):
        load_suite(str(suite_file([{"prompt": "a boy", "negative": "a hat"}])), "toyworld")
