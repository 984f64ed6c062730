"""Suites by name: one from outside in a few lines, and suites of which only some images are there."""

import io
import json
from pathlib import Path

import pytest
from known_features import Known
from PIL import Image
from rich.console import Console

from negguide.vlm import evaluate, make_suite, register_suite
from negguide.vlm.evaluation.results import comparison, comparison_tables
from negguide.vlm.evaluation.suites import registered_suites, registry
from negguide.vlm.evaluation.suites.base import Choice, Choices, ImageFiles, Suite


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    registered_suites()
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))


def picture(path: Path, red: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (red, 0, 0)).save(path)


def test_a_suite_from_outside_is_evaluated_like_any_other(restored: None, tmp_path: Path) -> None:
    @register_suite("mine")
    def mine(path: Path, limit: int | None) -> Suite:
        files = sorted(path.glob("*.png"))[:limit]
        items = tuple(Choice(i, (f.stem, "nothing"), 0, "kind") for i, f in enumerate(files))
        return Suite("mine", "1", {"": Choices(ImageFiles(files), items)})

    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 2)
    model = Known({1: [1, 0], 2: [0, 1]}, {"a": [1, 0], "b": [0.1, 0], "nothing": [0, 0.5]})
    found = evaluate(model, [make_suite(f"mine:{tmp_path}")])
    assert (found.row("mine", "accuracy").value, found.row("mine", "accuracy").n) == (0.5, 2)
    assert len(make_suite(f"mine:{tmp_path}", limit=1).parts[""].items) == 1
    with pytest.raises(
        ValueError, match=r"use one of: toyworld, .*mine:PATH, .*or the folder of a mined set"
    ):
        make_suite("nothing")
    for more, name in ((",images=x", "images"), (",partial", "partial")):
        with pytest.raises(ValueError, match=f"mine takes no {name}; its form is mine:PATH"):
            make_suite(f"mine:{tmp_path}{more}")


def test_what_cannot_be_a_suite_is_refused(restored: None) -> None:
    with pytest.raises(ValueError, match="suite 'x': x takes folder; a suite can take path, images"):

        @register_suite("x")
        def x(folder: Path) -> Suite:
            return Suite("x", "1", {})

    with pytest.raises(ValueError, match=r"a suite 'aro' is registered already \(by negguide.*suites.aro\)"):

        @register_suite("aro")
        def another() -> Suite:
            return Suite("x", "1", {})

    with pytest.raises(ValueError, match="must be a word without a colon"):
        register_suite("a:b")


@pytest.fixture
def crepe(tmp_path: Path) -> Path:
    """Four items in two files, of whose images two are there."""
    for name in ("add_att", "swap_obj"):
        entries = {
            str(i): {"filename": f"{i}.png", "caption": f"caption {i}", "negative_caption": f"{name} {i}"}
            for i in range(2)
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    picture(tmp_path / "val2017" / "1.png", 1)
    return tmp_path


WORDS = {"caption 1": [1, 0], "add_att 1": [0, 1], "swap_obj 1": [0.5, 0]}


def test_a_part_of_the_images_is_evaluated_as_a_part_and_the_table_says_so(crepe: Path) -> None:
    with pytest.raises(
        ValueError, match=r"1 of 2 images are missing.*; a part of them is evaluated with ,partial"
    ):
        make_suite(f"sugarcrepe:{crepe}")
    suite = make_suite(f"sugarcrepe:{crepe},partial")
    assert [item.options[0] for item in suite.parts[""].items] == ["caption 1", "caption 1"]
    assert suite.part == "2 of 4 items" and suite.version.startswith("1, items ")
    found = evaluate(Known({1: [1, 0]}, WORDS), [suite])
    assert found.notes == ("sugarcrepe: 2 of 4 items; the images of the others are missing",)
    assert found.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for tables in (found.tables(), comparison_tables(found, found)):
        assert "sugarcrepe (2 of 4 items)" in text_of(tables, 80)


def test_figures_of_another_part_are_not_compared(crepe: Path) -> None:
    model = Known(
        {1: [1, 0], 2: [0, 1]}, {**WORDS, "caption 0": [1, 0], "add_att 0": [0, 1], "swap_obj 0": [0, 1]}
    )
    before = evaluate(model, [make_suite(f"sugarcrepe:{crepe},partial")])
    (crepe / "val2017" / "1.png").rename(crepe / "val2017" / "0.png")
    other = evaluate(model, [make_suite(f"sugarcrepe:{crepe},partial")])
    picture(crepe / "val2017" / "1.png", 2)
    whole = evaluate(model, [make_suite(f"sugarcrepe:{crepe},partial")])
    assert whole.parts == {} and whole.notes == ()
    for after in (other, whole):
        with pytest.raises(ValueError, match="results of other items cannot be compared"):
            comparison(before, after)


def test_a_suite_without_any_of_its_images_is_no_part(crepe: Path) -> None:
    (crepe / "val2017" / "1.png").unlink()
    with pytest.raises(
        ValueError, match=r"none of the 4 items has its images, the first would be .*0\.png; say"
    ):
        make_suite(f"sugarcrepe:{crepe},partial")


def test_images_elsewhere_and_a_part_of_them(crepe: Path) -> None:
    (crepe / "val2017").rename(crepe / "some, not all")
    suite = make_suite(f"sugarcrepe:{crepe},images={crepe / 'some, not all'},partial")
    assert suite.part == "2 of 4 items"


def text_of(tables: list, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()
