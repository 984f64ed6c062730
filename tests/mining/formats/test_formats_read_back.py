"""Every export is read back by the program that it is for, and holds what the set holds."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from negguide.mining.audit.pairs import read_pairs
from negguide.mining.formats import FORMATS, write_export
from negguide.mining.formats.lists import sugarcrepe_kind
from negguide.mining.item import Item
from negguide.mining.shards import read_set
from negguide.vlm.evaluation.suites import make_suite


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def items_of(folder: Path) -> list[tuple[Item, Path]]:
    return list(read_set(folder))


def pixels(image: Any) -> np.ndarray:
    return np.asarray((Image.open(image) if isinstance(image, Path) else image).convert("RGB"))


def check_images(row: dict[str, Any], item: Item, place: Path) -> None:
    assert np.array_equal(pixels(row["image"]), pixels(place / item.image_file_name))
    assert np.array_equal(pixels(row["negative_image"]), pixels(place / item.negative_image_file_name))
    if item.control_image_file_name is None:
        assert row["control_image"] is None
    else:
        assert np.array_equal(pixels(row["control_image"]), pixels(place / item.control_image_file_name))


def test_parquet_is_read_by_datasets_with_all_columns(mined: Path, tmp_path: Path) -> None:
    assert write_export(mined, tmp_path / "out", "parquet") == 7
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)] == [
        "image",
        "negative_image",
        "control_image",
    ]
    assert len(rows) == 7
    for row, (item, place) in zip(rows, items_of(mined), strict=True):
        check_images(row, item, place)
        assert json.loads(row["methods"]) == item.methods and json.loads(row["extra"]) == item.extra
        names = {"image", "negative_image", "control_image", "methods", "extra"}
        stored = {name: value for name, value in row.items() if name not in names}
        expected = {name: value for name, value in item.row().items() if name in stored}
        assert stored == json.loads(json.dumps(expected))
    plain = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")
    assert plain[0]["image"].size == (64, 64)


def test_the_imagefolder_is_read_by_datasets(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "imagefolder")
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out" / "data"), split="train")
    assert len(rows) == 7
    by_id = {row["id"]: row for row in rows}
    for item, place in items_of(mined):
        row = by_id[item.id]
        check_images(row, item, place)
        assert (row["caption"], row["negative_caption"], row["seed"]) == (
            item.caption,
            item.negative_caption,
            item.seed,
        )
    assert len(datasets.load_dataset(str(tmp_path / "out"), split="train")) == 7


def test_an_exported_imagefolder_can_be_audited(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "imagefolder")
    pairs = read_pairs(tmp_path / "out")
    assert [pair.id for pair in pairs] == [pair.id for pair in read_pairs(mined)]
    assert all(pair.negative_image is not None and pair.negative_image.is_file() for pair in pairs)
    assert [pair.control is not None for pair in pairs] == [bool(i % 2) for i in range(7)]


def test_webdataset_reads_the_shards(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "webdataset", shard_size=3, say=print)
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert [Path(shard).name for shard in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{i:09d}" for i in range(7)]
    for number, (sample, (item, place)) in enumerate(zip(samples, items_of(mined), strict=True)):
        row = {
            "image": sample["jpg" if number == 1 else "png"],
            "negative_image": sample["negative.png"],
            "control_image": None,
        }
        check_images(row, replace(item, control_image_file_name=None), place)
        assert (sample["txt"], sample["negative.txt"]) == (item.caption, item.negative_caption)
        assert Item.from_row(sample["json"]) == item
    pairs = (
        webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg;png", "negative.txt")
    )
    assert len(list(pairs)) == 7


def test_datasets_reads_the_shards_too(mined: Path, tmp_path: Path) -> None:
    # it wants the same fields for every key; what is another image's is missing there without a word
    said: list[str] = []
    write_export(mined, tmp_path / "mixed", "webdataset", say=said.append)
    assert said[0].startswith(
        "the images are 1 jpg, 6 png: webdataset reads them as 'jpg;png', but `datasets`"
    )
    shutil.copytree(mined, tmp_path / "set")
    shard = tmp_path / "set/data/00000"
    Image.open(shard / "images/1.jpg").save(shard / "images/1.png")
    metadata = shard / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("1.jpg", "1.png"))
    write_export(tmp_path / "set", tmp_path / "out", "webdataset", say=pytest.fail)
    rows = datasets.load_dataset("webdataset", data_dir=str(tmp_path / "out"), split="train")
    assert [row["negative.txt"] for row in rows] == [item.negative_caption for item, _ in items_of(mined)]
    assert rows[0]["negative.png"].size == (64, 64)


def test_the_same_set_gives_the_same_tar(mined: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_export(mined, tmp_path / name, "webdataset", say=print)
    assert (tmp_path / "one/00000.tar").read_bytes() == (tmp_path / "two/00000.tar").read_bytes()


def test_sentence_transformers_tuples_have_their_columns_in_order(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "sentence-transformers")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    # the order is the meaning
    assert rows.column_names == ["anchor", "positive", "negative"]
    assert isinstance(rows.features["anchor"], datasets.Image)
    assert len(rows) == 14
    for number, (item, place) in enumerate(items_of(mined)):
        first, second = rows[2 * number], rows[2 * number + 1]
        assert np.array_equal(pixels(first["anchor"]), pixels(place / item.image_file_name))
        assert np.array_equal(pixels(second["anchor"]), pixels(place / item.negative_image_file_name))
        assert (first["positive"], first["negative"]) == (item.caption, item.negative_caption)
        assert (second["positive"], second["negative"]) == (item.negative_caption, item.caption)


def test_parquet_files_are_cut_at_the_shard_size(
    mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("negguide.mining.formats.parquet._ROWS", 3)
    write_export(mined, tmp_path / "out", "parquet", shard_size=4)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == ["train-00000.parquet", "train-00001.parquet"]
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows["id"][:] == [item.id for item, _ in items_of(mined)]


def test_open_clip_gets_a_table_of_files_and_titles(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "open-clip")
    with (tmp_path / "out" / "pairs.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["filepath", "title"] and len(rows) == 14
    for number, (item, place) in enumerate(items_of(mined)):
        assert rows[2 * number]["title"] == item.caption
        assert rows[2 * number + 1]["title"] == item.negative_caption
        # copied as they are, at places that open from anywhere
        for row, name in zip(
            rows[2 * number :], (item.image_file_name, item.negative_image_file_name), strict=False
        ):
            assert Path(row["filepath"]).read_bytes() == (place / name).read_bytes()


def test_open_clip_reads_captions_with_quotes_and_tabs(mined: Path, tmp_path: Path) -> None:
    import pandas

    shutil.copytree(mined, tmp_path / "set")
    metadata = tmp_path / "set/data/00000/metadata.jsonl"
    lines = metadata.read_text().splitlines()
    title = 'a "brown"\tbear, in a meadow'
    metadata.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"caption": title}), *lines[1:]]) + "\n")
    write_export(tmp_path / "set", tmp_path / "out", "open-clip")
    # as open_clip's CsvDataset reads it
    table = pandas.read_csv(tmp_path / "out" / "pairs.tsv", sep="\t")
    assert table["title"].tolist()[0] == title and len(table) == 14


def test_sugarcrepe_has_its_seven_files(mined: Path, tmp_path: Path) -> None:
    said: list[str] = []
    write_export(mined, tmp_path / "out", "sugarcrepe", say=said.append)
    names = ["add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"]
    assert [file.stem for file in sorted((tmp_path / "out").glob("*.json"))] == names
    # as SugarCrepe's main_eval.py opens them
    dataset = {name: json.load((tmp_path / "out" / f"{name}.json").open(encoding="utf-8")) for name in names}
    for name, category in (("replace_obj", "object"), ("replace_att", "attribute"), ("add_obj", "add")):
        items = [(item, place) for item, place in items_of(mined) if item.category == category]
        assert list(dataset[name]) == [str(i) for i in range(len(items))]
        for row, (item, place) in zip(dataset[name].values(), items, strict=True):
            assert set(row) == {"filename", "caption", "negative_caption"}
            assert (row["caption"], row["negative_caption"]) == (item.caption, item.negative_caption)
            image = tmp_path / "out/images" / row["filename"]
            assert image.read_bytes() == (place / item.image_file_name).read_bytes()
    assert said == [
        "no rows in add_att, replace_rel, swap_obj, swap_att: SugarCrepe's own script divides by the number of rows of "
        "each file; leave these out of its list (negguide evaluate does so)"
    ]
    # our own audit and evaluation read it
    assert len(read_pairs(tmp_path / "out", tmp_path / "out/images")) == 7
    (part,) = make_suite(f"sugarcrepe:{tmp_path / 'out'}").parts.values()
    assert len(part.images) == 7 and part.images[0].size == (64, 64)


SUGARCREPE_SAMPLE = Path(__file__).parents[4] / "shared/data/sugarcrepe-sample"


@pytest.mark.skipif(not SUGARCREPE_SAMPLE.is_dir(), reason="SugarCrepe's rows are not on this machine")
def test_sugarcrepe_files_have_the_form_of_the_public_ones(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "sugarcrepe", say=print)
    public = {file.name: json.loads(file.read_text()) for file in SUGARCREPE_SAMPLE.glob("*.json")}
    ours = {file.name: json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")}
    assert set(ours) == set(public)
    shapes = {frozenset(row) for rows in public.values() for row in rows.values()}
    assert {frozenset(row) for rows in ours.values() for row in rows.values()} == shapes
    assert all(
        list(rows) == [str(n) for n in range(len(rows))] for rows in (*ours.values(), *public.values())
    )


@pytest.mark.parametrize(
    ("category", "before", "after", "kind"),
    [
        ("object", "dog", "cat", "replace_obj"),
        ("attribute", "red", "blue", "replace_att"),
        ("count", "two", "three", "replace_att"),
        ("relation", "left of", "right of", "replace_rel"),
        ("add", "", " and a red hat", "add_obj"),
        ("add", "is", "and a zebra are", "add_obj"),
        ("add", "", "large ", "add_att"),
        ("swap", "purple hat and black", "black hat and purple", "swap_att"),
        ("swap", "dog on a horse", "horse on a dog", "swap_obj"),
        ("remove", " and a hat", "", None),
        ("negation", "with", "without", None),
    ],
)
def test_every_category_has_its_file_of_sugarcrepe(
    mined: Path, category: str, before: str, after: str, kind: str | None
) -> None:
    item, _ = items_of(mined)[0]
    assert sugarcrepe_kind(replace(item, category=category, before=before, after=after)) == kind


def test_an_original_of_several_items_is_stored_once(mined: Path, tmp_path: Path) -> None:
    shutil.copytree(mined, tmp_path / "set")
    metadata = tmp_path / "set/data/00000/metadata.jsonl"
    lines = [json.loads(line) for line in metadata.read_text().splitlines()]
    lines[2]["image_file_name"] = lines[0]["image_file_name"]
    metadata.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for format, count in (("imagefolder", 16), ("open-clip", 13), ("sugarcrepe", 6)):
        write_export(tmp_path / "set", tmp_path / format, format, say=lambda text: None)
        assert len(list((tmp_path / format).rglob("images/*"))) == count
        rows = "".join(path.read_text() for path in (tmp_path / format).rglob("*.*s*") if path.is_file())
        assert "000000002.png" not in rows and rows.count("000000000.png") >= 2


def test_the_shard_size_is_of_formats_with_shards(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "folders", "imagefolder", shard_size=2)
    assert len(list((tmp_path / "folders/data").iterdir())) == 4
    with pytest.raises(ValueError, match="shard_size=2 has no meaning for format='open-clip'"):
        write_export(mined, tmp_path / "out", "open-clip", shard_size=2)
    with pytest.raises(ValueError, match="shard_size=0 must be a whole number >= 1"):
        write_export(mined, tmp_path / "out", "webdataset", shard_size=0)


EDITING = ("instructpix2pix", "instructpix2pix-folder")


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in EDITING])
def test_every_export_says_how_it_was_made(mined: Path, tmp_path: Path, format: str) -> None:
    write_export(mined, tmp_path / "out", format, say=print)
    card = (tmp_path / "out/README.md").read_text()
    assert f"# mined, as {format}" in card and "7 pairs" in card
    assert "| category | object | 3 |" in card
    assert "| model | toyworld (revision unknown) | 7 |" in card
    assert "| licence of the inputs | CC0-1.0 | 7 |" in card
