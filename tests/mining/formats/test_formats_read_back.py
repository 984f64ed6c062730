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
from negguide.mining.item import Item
from negguide.mining.shards import read_set


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


def test_webdataset_reads_the_shards(mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negguide.mining.formats.tar.SHARD", 3)
    write_export(mined, tmp_path / "out", "webdataset")
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
    # it wants the same fields for every key; mined sets hold PNG files alone
    shutil.copytree(mined, tmp_path / "set")
    shard = tmp_path / "set/data/00000"
    Image.open(shard / "images/1.jpg").save(shard / "images/1.png")
    metadata = shard / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("1.jpg", "1.png"))
    write_export(tmp_path / "set", tmp_path / "out", "webdataset")
    rows = datasets.load_dataset("webdataset", data_dir=str(tmp_path / "out"), split="train")
    assert [row["negative.txt"] for row in rows] == [item.negative_caption for item, _ in items_of(mined)]
    assert rows[0]["negative.png"].size == (64, 64)


def test_the_same_set_gives_the_same_tar(mined: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_export(mined, tmp_path / name, "webdataset")
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
    monkeypatch.setattr("negguide.mining.formats.parquet.SHARD", 4)
    monkeypatch.setattr("negguide.mining.formats.parquet._ROWS", 2)
    write_export(mined, tmp_path / "out", "parquet")
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


def test_sugarcrepe_has_a_file_for_each_category(mined: Path, tmp_path: Path) -> None:
    write_export(mined, tmp_path / "out", "sugarcrepe")
    files = sorted((tmp_path / "out").glob("*.json"))
    assert [file.stem for file in files] == ["add", "attribute", "object"]
    rows = json.loads((tmp_path / "out/object.json").read_text())
    items = [(item, place) for item, place in items_of(mined) if item.category == "object"]
    assert list(rows) == [str(i) for i in range(len(items))]
    for row, (item, place) in zip(rows.values(), items, strict=True):
        assert set(row) == {"filename", "caption", "negative_caption"}
        assert (row["caption"], row["negative_caption"]) == (item.caption, item.negative_caption)
        assert (tmp_path / "out/images" / row["filename"]).read_bytes() == (
            place / item.image_file_name
        ).read_bytes()
    # and our own audit reads it
    assert len(read_pairs(tmp_path / "out", tmp_path / "out/images")) == 7


@pytest.mark.parametrize("format", FORMATS)
def test_every_export_says_how_it_was_made(mined: Path, tmp_path: Path, format: str) -> None:
    write_export(mined, tmp_path / "out", format)
    card = (tmp_path / "out/README.md").read_text()
    assert f"# mined, as {format}" in card and "7 pairs" in card
    assert "| category | object | 3 |" in card
    assert "| model | toyworld (revision unknown) | 7 |" in card
    assert "| licence of the inputs | CC0-1.0 | 7 |" in card
