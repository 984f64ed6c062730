"""What is written around a set, and that others can read it."""

import json
from dataclasses import replace

import mining_fakes as fakes
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from negguide.cli.audit import audit
from negguide.mining.card import write_card
from negguide.mining.contact_sheet import CELL, contact_sheet
from negguide.mining.packed import unpack
from negguide.mining.shards import read_set
from negguide.mining.sources import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "set"
    fakes.mine(folder, controls=0.5, positives=1)
    write_card(folder)
    return folder


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return lambda *args, **kwargs: datasets.load_dataset(*args, cache_dir=str(tmp_path), **kwargs)["train"]


def test_datasets_loads_it_with_images(datasets, tmp_path):
    # not where the cache is, which takes a folder of the set's name
    folder = tmp_path / "sets" / "mined"
    fakes.mine(folder, controls=0.5, positives=1, shard_format="parquet")
    write_card(folder)
    loaded = datasets(str(folder))
    items = {item.id: (item, where) for item, where in read_set(folder)}
    assert len(loaded) == len(items) > 10
    for row in loaded:
        item, where = items[row["id"]]
        assert (row["caption"], row["negative_caption"]) == (item.caption, item.negative_caption)
        assert row["positive_captions"] == list(item.positive_captions)
        for column in ("image", "negative_image"):
            with fakes.picture(where / getattr(item, f"{column}_file_name")) as stored:
                assert row[column].tobytes() == stored.tobytes()
        assert (row["control_image"] is None) == (item.control_image_file_name is None)


def test_shards_without_items_do_not_stop_datasets(folder, datasets, tmp_path):
    fakes.mine(tmp_path / "set", source=fakes.Rows([*fakes.sources(5), *fakes.sources(5, caption="")]))
    assert unpack((tmp_path / "set" / "data" / "00000001.tar").read_bytes()) == {"metadata.jsonl": b""}
    ten = fakes.sources(10)
    rows = fakes.Rows([*(replace(row, caption="") for row in ten[5:]), *ten[:5]])
    fakes.mine(tmp_path / "sets" / "set", source=rows, shard_format="parquet")
    write_card(tmp_path / "sets" / "set")
    assert len(datasets(str(tmp_path / "sets" / "set"))) == len(list(read_set(tmp_path / "set"))) > 0


def test_the_card_says_how_the_set_was_made(folder):
    card = (folder / "README.md").read_text()
    head, text = card.split("---\n")[1:3]
    assert "data_files" not in head and "size_categories: n<1K" in head and "license: apache-2.0" in head
    funnel = json.loads((folder / "funnel.json").read_text())
    assert f"{sum(funnel['stages']['written'].values())} pairs" in text
    assert "contact_sheet.png" in text and "| judge | `toyworld` |" in text and "| seed | `0` |" in text
    item, _ = next(read_set(folder))
    assert item.negative_caption in text
    before = card
    write_card(folder)
    assert (folder / "README.md").read_text() == before


def test_the_card_says_every_licence_that_an_item_has(tmp_path):
    rows = fakes.sources(6)
    rows = [*rows[:5], replace(rows[5], licence="cc-by-nc-4.0")]
    fakes.mine(tmp_path / "set", source=fakes.Rows(rows), data={"name": "rows", "licence": "apache-2.0"})
    assert [item.licence for item, _ in read_set(tmp_path / "set")][-1] == "cc-by-nc-4.0"
    write_card(tmp_path / "set")
    card = (tmp_path / "set" / "README.md").read_text()
    assert "Originals and captions: apache-2.0, cc-by-nc-4.0." in card
    # one name of a licence stands for the whole in the head
    assert "license: other" in card


def test_an_audit_goes_into_the_card_and_datasets_still_loads_the_set(tmp_path, datasets):
    # not where the cache is, which takes a folder of the set's name
    folder = tmp_path / "sets" / "mined"
    fakes.mine(folder, source=open_source("toyworld:40"), controls=1.0, shard_format="parquet")
    write_card(folder)
    assert "Not audited yet: `negguide audit mined`" in (folder / "README.md").read_text()
    app = typer.Typer()
    app.command()(audit)
    result = CliRunner().invoke(app, [str(folder), "--rebalance"])
    assert result.exit_code == 0, result.output
    card = (folder / "README.md").read_text()
    verdicts = json.loads((folder / "audit" / "audit.json").read_text())["verdicts"]
    assert len(verdicts) > 3 and any(line.startswith("rebalanced") for line in verdicts)
    assert all(f"- {line}\n" in card for line in verdicts) and "Not audited" not in card
    assert "](audit/audit.png)" in card and (folder / "audit" / "audit.png").exists()
    assert "data_files: data/*.parquet" in card
    assert len(datasets(str(folder))) == len(list(read_set(folder)))


def test_the_card_of_a_set_without_items_has_no_picture(tmp_path):
    fakes.mine(tmp_path / "set", source=fakes.Rows(fakes.sources(2, caption="")))
    write_card(tmp_path / "set")
    assert not (tmp_path / "set" / "contact_sheet.png").exists()
    assert "0 pairs" in (tmp_path / "set" / "README.md").read_text()


def test_the_card_of_half_a_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no hard-negative set"):
        write_card(tmp_path)
    fakes.mine(tmp_path / "set", limit=5)
    (tmp_path / "set" / "funnel.json").unlink()
    with pytest.raises(ValueError, match="holds no complete set"):
        write_card(tmp_path / "set")


def test_the_contact_sheet_shows_both_images_and_marks_what_was_changed(folder):
    rows = list(read_set(folder))
    one, four = contact_sheet(rows[:1], "one"), contact_sheet(rows[:4], "four", columns=2)
    assert four.width > 1.8 * one.width and four.height > 1.5 * one.height
    item, where = rows[0]
    pixels = np.asarray(one).astype(int)
    with fakes.picture(where / item.negative_image_file_name) as negative:
        enlarged = np.asarray(negative.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)).astype(
            int
        )
    found = [
        (y, x)
        for y in range(40, pixels.shape[0] - CELL)
        for x in (20 + CELL + 10,)
        if np.abs(pixels[y : y + CELL, x : x + CELL] - enlarged).max() == 0
    ]
    assert found
    captions = pixels[:, 20 + 2 * (CELL + 10) :]
    red, green = (
        (np.abs(captions - np.array(color)).sum(axis=2) < 40).sum()
        for color in ((207, 34, 46), (26, 127, 55))
    )
    assert red > 20 and (green > 20 or not item.after)
    with pytest.raises(ValueError, match="items is empty"):
        contact_sheet([], "none")
