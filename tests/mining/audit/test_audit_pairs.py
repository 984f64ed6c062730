"""What can be audited: our sets, imagefolders, SugarCrepe, ARO, tables."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from planted import write_set

from negguide.mining.audit import audit
from negguide.mining.audit.pairs import Pair, read_pairs

SUGARCREPE = {
    "0": {"filename": "000000085329.jpg", "caption": "A tool.", "negative_caption": "A small tool."},
    "1": {"filename": "000000297681.jpg", "caption": "A dog.", "negative_caption": "A red dog."},
}


def test_a_mined_set_is_read_with_its_images(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 6, controls=True)
    pairs = read_pairs(folder)
    assert [pair.id for pair in pairs] == [f"toy-{i}" for i in range(6)]
    for pair in pairs:
        for path in (pair.image, pair.negative_image, pair.control):
            assert path is not None and path.is_file()


def test_a_folder_of_images_for_a_set_that_holds_its_own_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2, images=False)
    for path in (folder, folder / "data"):
        with pytest.raises(ValueError, match=r"images=.* has no meaning for .*, which holds its images"):
            read_pairs(path, tmp_path)


def test_sugarcrepe_is_read_as_a_file_and_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("add_att", "swap_obj"):
        (tmp_path / f"{name}.json").write_text(json.dumps(SUGARCREPE))
    pairs = read_pairs(tmp_path / "add_att.json", tmp_path / "images")
    assert pairs[0] == Pair(
        id="add_att/0",
        source="000000085329.jpg",
        caption="A tool.",
        negative_caption="A small tool.",
        category="add_att",
        image=tmp_path / "images" / "000000085329.jpg",
    )
    both = read_pairs(tmp_path)
    assert [pair.category for pair in both] == ["add_att", "add_att", "swap_obj", "swap_obj"]
    assert both[0].image is None


def test_lists_and_tables_are_read(tmp_path: Path) -> None:
    aro = [{"image_path": "1.jpg", "true_caption": "the horse eats", "false_caption": "the grass eats"}]
    (tmp_path / "aro.json").write_text(json.dumps(aro))
    assert read_pairs(tmp_path / "aro.json")[0].negative_caption == "the grass eats"
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"table.{suffix}").open("w", newline="") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerow(("id", "caption", "negative_caption", "category"))
            rows.writerow(("x", "a dog, a cat", "a dog", "remove"))
        [pair] = read_pairs(tmp_path / f"table.{suffix}")
        assert (pair.id, pair.caption, pair.category) == ("x", "a dog, a cat", "remove")


def test_an_imagefolder_is_read(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    row = {
        "file_name": "a.png",
        "negative_file_name": "b.png",
        "caption": "a cat",
        "negative_caption": "a dog",
    }
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    [pair] = read_pairs(tmp_path)
    assert (pair.id, pair.image, pair.negative_image) == (
        "train/1",
        tmp_path / "train" / "a.png",
        tmp_path / "train" / "b.png",
    )


def test_images_of_one_name_in_several_folders_are_several_sources(tmp_path: Path) -> None:
    row = {"caption": "a cat", "negative_caption": "a dog"}
    for folder, file in (("a", "0.png"), ("b", "0.png"), ("c", "../b/0.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metadata.jsonl").write_text(json.dumps({"file_name": file, **row}) + "\n")
    assert [pair.source for pair in read_pairs(tmp_path)] == ["a/0.png", "b/0.png", "b/0.png"]


def test_pairs_without_a_category_are_not_taken_for_all_pairs(tmp_path: Path) -> None:
    rows = [
        {
            "file_name": f"{number}.png",
            "caption": "a cat",
            # those of no category, and those of one that is called "all", are told by their length
            "negative_caption": "a dog" if number < 30 else "a dog as well",
            **({"category": "object"} if number < 30 else {"category": "all"} if number < 55 else {}),
        }
        for number in range(80)
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit(tmp_path).mined
    assert found.families == {"category all": 25, "no category": 25, "object": 30}
    figures = {name: (one.n, one.value) for name, one in found.text["words"].accuracies.items()}
    assert figures.pop("all") == (80, (50 + 0.5 * 30) / 80)
    assert figures == {"category all": (25, 1.0), "no category": (25, 1.0), "object": (30, 0.5)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("3", "must hold an object or a list of rows, got int"),
        ("[3]", "row 0: a row must be an object with captions, got int"),
        ("[]", "holds no pair"),
        ('[{"caption": "a cat"}]', "row 0: negative_caption or false_caption must hold a caption, got None"),
        (
            '[{"caption": " ", "negative_caption": "x"}]',
            "caption or true_caption must hold a caption, got ' '",
        ),
        (
            '[{"id": 1, "caption": "a", "negative_caption": "b"}, {"id": 1, "caption": "a", "negative_caption": "c"}]',
            "the id '1' occurs twice",
        ),
    ],
)
def test_broken_files_are_refused_with_the_place(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("nowhere", None, "does not exist; use a set that negguide mined"),
        (".", None, "is no set that can be read"),
        ("x.bin", None, "is no set that can be read"),
        ("x.bin", "nowhere", "images=.*nowhere' is not a folder"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path: Path, name: str, images: str | None, message: str) -> None:
    (tmp_path / "x.bin").write_text("")
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / name, None if images is None else tmp_path / images)


def test_exchanged_roles_put_the_render_in_place_of_the_original() -> None:
    files: dict[str, Any] = {"image": Path("i"), "negative_image": Path("n"), "control": Path("c")}
    pair = Pair("1", "s", "a cat", "a cat and a dog", "add", **files)
    turned = pair.exchanged()
    assert (turned.caption, turned.negative_caption, turned.category) == (
        "a cat and a dog",
        "a cat",
        "remove",
    )
    assert (turned.image, turned.negative_image) == (Path("n"), Path("c"))
    assert pair.rendered().image == Path("c")
    with pytest.raises(ValueError, match="item 1 has no rendered original"):
        Pair("1", "s", "a cat", "a dog", "object", Path("i"), Path("n")).exchanged()
