"""The version of a suite from files says what it holds: stored figures of other items are never taken for its own."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from known_features import Known
from PIL import Image
from suite_files import BLUE, GREEN, RED, item, picture

from negguide.vlm.evaluation.evaluate import evaluate
from negguide.vlm.evaluation.results import Results, comparison
from negguide.vlm.evaluation.suites import make_suite, registered_suites, registry
from negguide.vlm.evaluation.suites.base import Choice, Choices, Pair, Pairs, Retrieval, Suite, ZeroShot
from negguide.vlm.evaluation.suites.fingerprint import with_items

MCQ = (
    "image_path,correct_answer,caption_0,caption_1,caption_2,correct_answer_template\n"
    "1.png,2,A dog,A cat,No dog,hybrid\n"
    "2.png,0,A bird,A cat,No bird,positive\n"
)
RETRIEVAL = "filepath,captions\n1.png,\"['A dog.', 'No cat.']\"\n2.png,['A bird.']\n"


def negbench(folder: Path) -> str:
    (folder / "mcq.csv").write_text(MCQ)
    (folder / "retrieval.csv").write_text(RETRIEVAL)
    picture(folder / "1.png", RED)
    picture(folder / "2.png", BLUE)
    return f"negbench:{folder}"


def sugarcrepe(folder: Path) -> str:
    entry = {"filename": "1.png", "caption": "a red dog", "negative_caption": "a blue dog"}
    (folder / "add_att.json").write_text(json.dumps({"0": entry}))
    picture(folder / "val2017" / "1.png", RED)
    return f"sugarcrepe:{folder}"


def winoground(folder: Path) -> str:
    row = {"image_0": "a", "image_1": "b", "caption_0": "red", "caption_1": "blue", "tag": "Colour"}
    (folder / "examples.jsonl").write_text(json.dumps(row) + "\n")
    picture(folder / "images" / "a.png", RED)
    picture(folder / "images" / "b.png", BLUE)
    return f"winoground:{folder}"


def aro(folder: Path) -> str:
    case = {
        "image_path": "1.png", "relation_name": "eating", "bbox_x": 1, "bbox_y": 2, "bbox_w": 5, "bbox_h": 4,
        "true_caption": "a horse eats grass", "false_caption": "grass eats a horse",
    }  # fmt: skip
    (folder / "visual_genome_relation.json").write_text(json.dumps([case]))
    picture(folder / "images" / "1.png", RED)
    return f"aro:{folder}"


def mined(folder: Path) -> str:
    place = folder / "data" / "00000"
    place.mkdir(parents=True)
    (folder / "set.json").write_text("{}")
    (place / "shard.json").write_text("{}")
    one = item(0, "object", positive_captions=("other words",))
    (place / "metadata.jsonl").write_text(json.dumps(one.row()) + "\n")
    picture(place / "0.png", RED)
    picture(place / "0-n.png", BLUE)
    return str(folder)


def version(spec: str) -> str:
    return make_suite(spec).version


@pytest.mark.parametrize(
    ("laid_out", "file", "old", "new"),
    [
        (negbench, "mcq.csv", "A cat,No dog", "A hen,No dog"),
        (negbench, "mcq.csv", "1.png,2", "1.png,1"),
        (negbench, "mcq.csv", "hybrid", "negative"),
        (negbench, "mcq.csv", "2.png", "1.png"),
        (negbench, "retrieval.csv", "A bird.", "A hen."),
        (sugarcrepe, "add_att.json", "a blue dog", "a green dog"),
        (winoground, "examples.jsonl", '"caption_1": "blue"', '"caption_1": "green"'),
        (winoground, "examples.jsonl", "Colour", "Object"),
        (winoground, "examples.jsonl", '"image_0": "a"', '"image_0": "b"'),
        (aro, "visual_genome_relation.json", "grass eats", "hay eats"),
        (aro, "visual_genome_relation.json", '"bbox_w": 5', '"bbox_w": 6'),
        (mined, "data/00000/metadata.jsonl", "negative 0", "another"),
        (mined, "data/00000/metadata.jsonl", "other words", "other words still"),
    ],
)
def test_a_changed_file_is_another_version(
    laid_out: Callable[[Path], str], file: str, old: str, new: str, tmp_path: Path
) -> None:
    spec = laid_out(tmp_path)
    before = version(spec)
    assert before.startswith("1, items ") and version(spec) == before
    changed = (tmp_path / file).read_text().replace(old, new)
    assert changed != (tmp_path / file).read_text()
    (tmp_path / file).write_text(changed)
    assert version(spec) != before


@pytest.mark.parametrize(
    ("laid_out", "image"),
    [
        (negbench, "2.png"),
        (sugarcrepe, "val2017/1.png"),
        (winoground, "images/b.png"),
        (aro, "images/1.png"),
        (mined, "data/00000/0.png"),
        (mined, "data/00000/0-n.png"),
    ],
)
def test_another_image_of_the_same_name_is_another_version(
    laid_out: Callable[[Path], str], image: str, tmp_path: Path
) -> None:
    spec = laid_out(tmp_path)
    before, was = version(spec), (tmp_path / image).stat()
    picture(tmp_path / image, GREEN)
    os.utime(tmp_path / image, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert version(spec) != before


@pytest.mark.parametrize("laid_out", [negbench, sugarcrepe, winoground, aro, mined])
def test_the_same_files_elsewhere_and_later_are_the_same_version(
    laid_out: Callable[[Path], str], tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    spec = laid_out(old)
    shutil.copytree(old, new)
    for file in new.rglob("*.*"):
        os.utime(file, (1, 1))
    assert version(spec.replace(str(old), str(new))) == version(spec)


def test_a_limit_that_leaves_items_out_is_another_version(tmp_path: Path) -> None:
    spec = negbench(tmp_path)
    (tmp_path / "mcq.csv").write_text(MCQ + MCQ.partition("\n")[2])
    assert make_suite(spec, limit=1).version != version(spec)
    assert make_suite(spec, limit=1).version == make_suite(spec, limit=1).version


def test_stored_figures_of_a_file_that_changed_are_not_compared(tmp_path: Path) -> None:
    """As a run that is gone on with compares the stored figures of its start."""
    spec = sugarcrepe(tmp_path)
    model = Known({255: [1, 0]}, {"a red dog": [1, 0], "a blue dog": [0, 1], "a green dog": [0, 1]})
    before = evaluate(model, [make_suite(spec)])
    stored = Results.from_dict(json.loads(json.dumps(before.to_dict())))
    assert stored.suites == {"sugarcrepe": version(spec)}
    comparison(stored, evaluate(model, [make_suite(spec)]))
    file = tmp_path / "add_att.json"
    file.write_text(file.read_text().replace("blue", "green"))
    assert stored.suites != {"sugarcrepe": version(spec)}
    with pytest.raises(ValueError, match="results of other items cannot be compared"):
        comparison(stored, evaluate(model, [make_suite(spec)]))


def test_a_suite_without_files_has_the_version_that_it_says(clip) -> None:
    suite = make_suite("toyworld", limit=1)
    assert suite.version == "1"
    stored = evaluate(clip, [suite], limit=1).to_dict()
    comparison(Results.from_dict(stored), evaluate(clip, [suite], limit=1))


def test_a_suite_from_outside_that_reads_a_path_is_known_by_its_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered_suites()
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))

    @registry.register_suite("mine")
    def mine(path: Path) -> Suite:
        images = [Image.open(file).copy() for file in sorted(path.glob("*.png"))]
        items = tuple(Choice(i, ("one", "other"), 0, "x") for i in range(len(images)))
        return Suite("mine", "7", {"": Choices(images, items)})

    @registry.register_suite("made")
    def made() -> Suite:
        return Suite("made", "3", {})

    picture(tmp_path / "1.png", RED)
    before = version(f"mine:{tmp_path}")
    assert before.startswith("7, items ") and version("made") == "3"
    picture(tmp_path / "1.png", BLUE)
    assert version(f"mine:{tmp_path}") != before


def test_all_that_a_figure_hangs_on_is_in_the_version() -> None:
    images = [Image.new("RGB", (2, 2), color) for color in (RED, BLUE)]
    pair, choice = Pair((0, 1), ("a", "b"), "x", ("c",)), Choice(0, ("a", "b"), 0, "x")
    parts = [
        Pairs(images, (pair,)),
        Pairs(images, (Pair((0, 1), ("a", "b"), "x"),)),
        Pairs(images, (pair, pair)),
        Pairs(images[::-1], (pair,)),
        Choices(images, (choice,)),
        Choices(images, (Choice(0, ("a", "b"), 1, "x"),)),
        Choices(images, (Choice(1, ("a", "b"), 0, "x"),)),
        Choices(images, (choice,), macro=1),
        Choices(images, (choice,), macro=1, left_out=frozenset({"y", "x"})),
        Retrieval(images, ("a", "b"), (0, 1)),
        Retrieval(images, ("a", "b"), (1, 0)),
        Retrieval(images, ("a", "b"), (0, 1), both=False),
        ZeroShot(images, (0, 1), (("a",), ("b",))),
        ZeroShot(images, (0, 1), (("a", "b"), ("b",))),
        ZeroShot(images, (1, 1), (("a",), ("b",))),
    ]
    versions = [with_items(Suite("s", "1", {"": part})).version for part in parts]
    versions += [with_items(Suite("s", "1", {"part": parts[0]})).version]
    assert len(set(versions)) == len(versions) == 16
    same = Choices(images, (choice,), macro=1, left_out=frozenset({"x", "y"}))
    assert with_items(Suite("other", "1", {"": same})).version == versions[8]
