"""Which pictures are one, which rows are held out together, and which files of a folder are trained on."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from negguide._utils.text import COMPOUND, WORD, compared, normalised
from negguide.mining.packed import pack
from negguide.mining.shards import write_json
from negguide.vlm.data.dataset import read_training_set
from negguide.vlm.data.loader import Collate
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.rows import FileImage, Triplet
from negguide.vlm.data.validate import Validated, as_pairs, split, validate, with_one_source_per_image
from negguide.vlm.evaluation.suites.base import Suite
from negguide.vlm.models import load_model
from negguide.vlm.training.config import Settings
from negguide.vlm.training.validation import held_out_suite


@pytest.fixture(scope="module")
def mined(triplet_set: Path) -> list[Triplet]:
    return read_triplets(str(triplet_set))


def exchanged(rows: list[Triplet]) -> list[Triplet]:
    """Every row, and the row with image and negative exchanged, as counterfactual sets have them."""
    return [
        row
        for triplet in rows
        for row in (
            triplet,
            replace(
                triplet,
                id=f"{triplet.id}, exchanged",
                source=f"{triplet.source}, exchanged",
                image=triplet.negative_image,
                negative_image=triplet.image,
                caption=triplet.negative_caption,
                negative_caption=triplet.caption,
            ),
        )
    ]


def pictures(rows: list[Triplet], places: list[int]) -> set[bytes]:
    found = [image for i in places for image in (rows[i].image, rows[i].negative_image) if image is not None]
    return {image.read() for image in found}


def test_no_picture_is_trained_on_and_held_out_also_as_a_negative(mined: list[Triplet]) -> None:
    rows = list(with_one_source_per_image(exchanged(mined)))
    numbers = iter(range(1000))
    training, held = split(rows, 0.25, lambda: (next(numbers) * 7) % 48)
    # a row and the exchanged one are one part of 48, or of fewer where scenes share a negative
    assert held and 0.15 < len(held) / len(rows) < 0.35
    assert sorted(training + held) == list(range(len(rows)))
    assert not pictures(rows, training) & pictures(rows, held)


def test_a_negative_that_is_another_rows_original_is_the_same_picture_among_siblings(
    mined: list[Triplet],
) -> None:
    rows = exchanged(mined[:2])
    pairs = as_pairs(Validated(tuple(rows), (True,) * 4)).triplets
    by_picture: dict[bytes, set[str]] = {}
    for pair in pairs:
        by_picture.setdefault(pair.image.read(), set()).add(pair.source)
    assert len(by_picture) == 4 and all(len(sources) == 1 for sources in by_picture.values())
    assert len({pair.source for pair in pairs}) == 4


def test_two_sets_in_one_folder_may_number_their_sources_alike(mined: list[Triplet], tmp_path: Path) -> None:
    for name, rows in (("one", mined[:3]), ("other", mined[3:6])):
        (tmp_path / name).mkdir()
        lines = []
        for number, row in enumerate(rows):
            (tmp_path / name / f"{number}.png").write_bytes(row.image.read())
            lines.append({"file_name": f"{number}.png", "caption": row.caption, "source_id": f"{number}"})
        # a copy of what the other folder has
        (tmp_path / name / "copy.png").write_bytes(mined[0].image.read())
        lines.append({"file_name": "copy.png", "caption": mined[0].caption, "source_id": "0"})
        (tmp_path / name / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_triplets(str(tmp_path))
    assert [row.source for row in rows[:2]] == ["one/0", "one/1"]
    assert [row.source for row in rows[4:6]] == ["other/0", "other/1"]
    assert len({row.source for row in rows}) == 6
    # alone, a set keeps its own names
    assert [row.source for row in read_triplets(str(tmp_path / "one"))] == ["0", "1", "2", "0"]


def test_a_folder_of_mined_sets_is_trained_on_whole(
    triplet_set: Path, mined: list[Triplet], tmp_path: Path
) -> None:
    for name in ("order", "details"):
        shutil.copytree(triplet_set, tmp_path / name)
    # as most sets are: packed
    made = tmp_path / "order" / "data" / "00000"
    files = sorted(path for path in made.rglob("*") if path.is_file())
    content, members = pack([(path.relative_to(made).as_posix(), path.read_bytes()) for path in files])
    shutil.rmtree(made)
    (made.parent / "00000000.tar").write_bytes(content)
    write_json(tmp_path / "order/markers/00000000.json", {"file": "00000000.tar", "members": members})
    rows = read_triplets(str(tmp_path))
    assert [row.id for row in rows] == [row.id for row in (*mined, *mined)]
    assert [row.source for row in rows] == [
        f"{name}/{row.source}" for name in ("details", "order") for row in mined
    ]
    assert [row.image.read() for row in rows[len(mined) :]] == [row.image.read() for row in mined]
    with pytest.raises(ValueError, match=r"images=.* has no meaning for"):
        read_triplets(str(tmp_path), tmp_path)
    (tmp_path / "more.tsv").write_text("filepath\ttitle\na.png\ta bear\n")
    with pytest.raises(
        ValueError, match=r"holds sets of `negguide mine` \(details\) and other files \(more.tsv\)"
    ):
        read_triplets(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "kept", "left"),
    [
        (
            ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test"),
            ("train-00000-of-00002", "train-00001-of-00002"),
            "test and validation",
        ),
        (("coco_val2017", "coco_train2017"), ("coco_train2017",), "validation"),
        (("more", "dev"), ("more",), "validation"),
        # words, not parts of words
        (("latest", "devices"), ("devices", "latest"), None),
        # whoever gives a folder of one split means it
        (
            ("test-00000-of-00002", "test-00001-of-00002"),
            ("test-00000-of-00002", "test-00001-of-00002"),
            None,
        ),
    ],
)
def test_only_the_train_split_of_a_folder_is_trained_on(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    files: tuple[str, ...],
    kept: tuple[str, ...],
    left: str | None,
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    for name in files:
        (tmp_path / f"{name}.tsv").write_text(f"filepath\ttitle\npicture.png\tof {name}\n")
    with caplog.at_level(logging.WARNING):
        assert [row.caption for row in read_triplets(str(tmp_path))] == [f"of {name}" for name in kept]
    told = [record.getMessage() for record in caplog.records]
    assert told == (
        []
        if left is None
        else [f"{tmp_path}: {len(kept)} of {len(files)} files are trained on; those of {left} are left out"]
    )


def test_splits_may_be_folders_and_one_of_them_must_be_to_train_on(tmp_path: Path) -> None:
    for name in ("train", "test", "validation"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "data" / name / "a.png")
        line = {"file_name": "a.png", "caption": f"of {name}"}
        (tmp_path / "data" / name / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    assert [row.caption for row in read_triplets(str(tmp_path))] == ["of train"]
    assert [row.caption for row in read_triplets(str(tmp_path / "data" / "test"))] == ["of test"]
    shutil.rmtree(tmp_path / "data" / "train")
    with pytest.raises(
        ValueError, match=r"holds the splits test, validation and none to train on; give the folder or file"
    ):
        read_triplets(str(tmp_path))


def test_splits_of_parquet_and_of_json_count_as_well(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name in ("train", "validation"):
        table = pyarrow.table({"image": ["a.png"], "caption": [f"of {name}"]})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}-00000-of-00001.parquet")
    assert [row.caption for row in read_triplets(str(tmp_path))] == ["of train"]
    folder = tmp_path / "lists"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "images" / "a.png")
    for name in ("train", "val"):
        (folder / f"captions_{name}2017.json").write_text(
            json.dumps({"0": {"filename": "a.png", "caption": f"of {name}"}})
        )
    assert [row.caption for row in read_triplets(str(folder))] == ["of train"]


def test_blank_negatives_are_none_and_blank_paraphrases_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    lines = tmp_path / "set.jsonl"
    row = {"file_name": "a.png", "caption": "a bear", "negative_caption": " "}
    lines.write_text(json.dumps(row) + "\n")
    assert read_triplets(str(lines))[0].negative_caption is None
    for blank in ("", " ", None, 3):
        lines.write_text(json.dumps({**row, "positive_captions": ["one bear", blank]}) + "\n")
        with pytest.raises(ValueError, match=rf"line 1: {blank!r} in positive_captions is no sentence"):
            read_triplets(str(lines))
    lines.write_text(json.dumps({**row, "positive_captions": 3}) + "\n")
    with pytest.raises(ValueError, match="line 1: positive_captions=3 is no list of sentences"):
        read_triplets(str(lines))


def test_a_margin_that_needs_negatives_says_so(tiny_clip: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "set.jsonl").write_text(json.dumps({"file_name": "a.png", "caption": "a bear"}) + "\n")
    settings = Settings(str(tmp_path / "set.jsonl"), str(tiny_clip), loss="clip", rank_margin=0.1)
    with pytest.raises(ValueError, match=r"no column negative_caption, which rank_margin=0\.1 needs"):
        read_training_set(settings, load_model(str(tiny_clip)), 1)


BOY, GIRL = "\u0932\u0921\u093c\u0915\u093e", "\u0932\u0921\u093c\u0915\u0940"
"""Hindi; they differ in their last sign, which is a mark and no letter."""


def test_signs_that_belong_to_a_letter_tell_words_apart() -> None:
    assert normalised(BOY) == BOY and normalised(GIRL) == GIRL
    assert WORD.findall(f"{BOY} {GIRL}") == COMPOUND.findall(f"{BOY}, {GIRL}!") == [BOY, GIRL]
    # composed and decomposed are one
    assert normalised("Cafe\u0301") == normalised("CAF\u00c9") == "caf\u00e9"
    assert normalised("The dog\u2019s big-eared, 'old' friend_s") == "the dog's big eared old friend s"
    # what has no words is compared as it stands
    assert normalised("\U0001f436") == "" and compared("\U0001f436") != compared("\U0001f431")
    assert compared(" A dog. ") == compared("a dog")


@dataclass(frozen=True)
class AnyLetters:
    """In the place of a model: the tests' own ones know the words of their world alone."""

    model: None = None

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)

    def text_inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.zeros(len(texts), 4, dtype=torch.int64)}


def test_captions_of_other_scripts_are_negatives_and_numbered_apart(mined: list[Triplet]) -> None:
    texts = [(BOY, GIRL), ("\U0001f436", "\U0001f431")]
    rows = [
        replace(row, caption=caption, negative_caption=negative)
        for row, (caption, negative) in zip(mined, texts, strict=False)
    ]
    columns = ("negative_caption", "negative_image")
    model: Any = AnyLetters()
    found = validate(rows, model, columns, needed_by="loss='triplet'", name="set")
    assert found.equal == 0 and found.valid == (True, True)
    collate = Collate(found, model, columns, paraphrases=False, seed=0)
    assert len({*collate.captions, *collate.negatives}) == 4


def test_another_picture_of_the_same_size_is_another_held_out_suite(
    mined: list[Triplet], tmp_path: Path
) -> None:
    def suite(color: tuple[int, int, int]) -> Suite:
        Image.new("RGB", (8, 8), color).save(tmp_path / "a.bmp")
        image = FileImage(tmp_path / "a.bmp")
        rows = [*mined[:3], replace(mined[3], source="a", image=image, negative_image=image)]
        return held_out_suite(rows, [True] * 4, "set")

    red, blue = suite((255, 0, 0)), suite((0, 0, 255))
    assert red.version.startswith("set, items ") and blue.version != red.version
    assert suite((255, 0, 0)).version == red.version
