"""Sets in every format, and what is wrong with them."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from negguide.vlm.data.dataset import read_training_set
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.rows import FileImage, TarImage, Triplet, open_image
from negguide.vlm.data.validate import Validated, as_pairs, split, validate, with_one_source_per_image
from negguide.vlm.evaluation.suites.base import ImageFiles, Retrieval
from negguide.vlm.losses import loss_by_name
from negguide.vlm.models import load_model
from negguide.vlm.training.config import Settings
from negguide.vlm.training.validation import held_out_suite

BOTH = loss_by_name("triplet").columns


def content(triplet: Triplet) -> tuple[object, ...]:
    pictures = [p and open_image("x", p).tobytes() for p in (triplet.image, triplet.negative_image)]
    return (triplet.caption, triplet.negative_caption, *pictures)


@pytest.fixture(scope="module")
def mined(triplet_set: Path) -> list[Triplet]:
    return read_triplets(str(triplet_set))


def test_a_mined_set_is_read_with_all_its_columns(mined: list[Triplet], triplet_set: Path) -> None:
    assert len(mined) == 48
    first = mined[0]
    assert (first.id, first.source) == ("item-0", "scene-0")
    assert first.caption != first.negative_caption and first.category in ("object", "attribute")
    assert len(first.positive_captions) == 1
    assert open_image(first.id, first.image).size == (64, 64)


def test_an_imagefolder_gives_the_same_rows(mined: list[Triplet], triplet_set: Path) -> None:
    read = read_triplets(str(triplet_set / "data" / "00000"))
    assert [content(t) for t in read] == [content(t) for t in mined]
    assert [t.source for t in read] == [t.source for t in mined]


def test_parquet_gives_the_same_rows(
    mined: list[Triplet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "image": [t.image.path for t in mined[:5]],
        "negative_image": [t.negative_image.path if i != 2 else None for i, t in enumerate(mined[:5])],
        "caption": [t.caption for t in mined[:5]],
        "negative_caption": [t.negative_caption for t in mined[:5]],
    }
    rows = {k: [str(v) if isinstance(v, Path) else v for v in values] for k, values in rows.items()}
    table = datasets.Dataset.from_dict(rows)
    table = table.cast_column("image", datasets.Image()).cast_column("negative_image", datasets.Image())
    table = table.map(lambda row: row)  # files become bytes
    (tmp_path / "set").mkdir()
    from datasets.table import embed_table_storage

    embedded = table.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    embedded.to_parquet(tmp_path / "set" / "part-0.parquet")
    read = read_triplets(str(tmp_path / "set"))
    assert [content(t) for i, t in enumerate(read) if i != 2] == [
        content(t) for i, t in enumerate(mined[:5]) if i != 2
    ]
    assert read[2].negative_image is None and read[2].negative_caption == mined[2].negative_caption


def test_paths_in_parquet_count_from_its_folder(
    mined: list[Triplet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, triplet in zip(("one", "two"), mined, strict=False):
        (tmp_path / "set" / name / "photos").mkdir(parents=True)
        (tmp_path / "set" / name / "photos/a.png").write_bytes(triplet.image.path.read_bytes())
        row = {"image": "photos/a.png", "caption": triplet.caption}
        datasets.Dataset.from_list([row]).to_parquet(str(tmp_path / "set" / name / "a.parquet"))
    monkeypatch.chdir(tmp_path)
    read = read_triplets("set")
    assert [t.image.read() for t in read] == [t.image.path.read_bytes() for t in mined[:2]]
    assert [t.image.size for t in read] == [t.image.size for t in mined[:2]]


def test_webdataset_gives_the_same_rows(mined: list[Triplet], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for triplet in mined[:4]:
            parts = {
                "png": triplet.image.path.read_bytes(),
                "negative.png": triplet.negative_image.path.read_bytes(),
                "txt": triplet.caption.encode(),
                "json": json.dumps({"negative_caption": triplet.negative_caption, "source_id": "s"}).encode(),
            }
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"shard/{triplet.id}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    read = read_triplets(str(tmp_path))
    assert [content(t) for t in read] == [content(t) for t in mined[:4]]
    assert [t.id for t in read] == [t.id for t in mined[:4]] and read[0].source == "s"
    assert f"{tmp_path / '0.tar'}:shard/item-0.png" == read[0].image.name


def test_sugarcrepe_json_and_open_clip_tsv_have_no_negative_images(
    mined: list[Triplet], tmp_path: Path
) -> None:
    folder = mined[0].image.path.parent
    rows = {
        str(i): {"filename": t.image.path.name, "caption": t.caption, "negative_caption": t.negative_caption}
        for i, t in enumerate(mined[:3])
    }
    (tmp_path / "crepe.json").write_text(json.dumps(rows))
    read = read_triplets(str(tmp_path / "crepe.json"), folder)
    assert [content(t) for t in read] == [(*content(t)[:3], None) for t in mined[:3]]
    with (tmp_path / "pairs.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("filepath", "title"))
        writer.writerows((t.image.path.name, t.caption) for t in mined[:3])
    read = read_triplets(str(tmp_path / "pairs.tsv"), folder)
    assert [content(t) for t in read] == [(t.caption, None, content(t)[2], None) for t in mined[:3]]


@pytest.mark.parametrize(
    "format", ["imagefolder", "webdataset", "parquet", "sentence-transformers", "open-clip", "sugarcrepe"]
)
def test_every_export_of_a_mined_set_is_read_as_what_was_exported(
    mined: list[Triplet], triplet_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    from negguide.mining.formats.export import write_export

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_export(triplet_set, tmp_path / "out", format, say=print)
    found = sorted(map(content, read_triplets(str(tmp_path / "out"))), key=str)
    rows = [content(triplet) for triplet in mined]
    expected = {
        "sentence-transformers": [(*row[:3], None) for row in rows]
        + [(b, a, d, None) for a, b, c, d in rows],
        "open-clip": [(a, None, c, None) for a, b, c, d in rows]
        + [(b, None, d, None) for a, b, c, d in rows],
        # which has no place for what is removed or denied
        "sugarcrepe": [
            (*row[:3], None)
            for row, triplet in zip(rows, mined, strict=True)
            if triplet.category not in ("remove", "negation")
        ],
    }.get(format, rows)
    assert found == sorted(expected, key=str)


def test_what_is_no_set_is_refused_with_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist; give a set of negguide mine"):
        read_triplets(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="holds no set"):
        read_triplets(str(tmp_path))
    for name, text, message in (
        ("a.txt", "", "is of no known kind"),
        ("a.json", "{", "a.json is no JSON"),
        ("b.json", "3", "holds int"),
        (
            "a.jsonl",
            '{"image": "x.png"}\n',
            "line 1: no caption; its column is one of caption, text, title, positive",
        ),
        ("b.jsonl", '{"caption": "a bear"}\n', "line 1: no image; its column is one of image_file_name"),
        ("c.jsonl", "[1]\n", "line 1: a row is a JSON object"),
        ("d.jsonl", '{"image": 3, "caption": "a bear"}\n', "an image is given by its file name, got 3"),
        ("c.json", "[[1, 2]]", "c.json, row 0: a row is a JSON object, got list"),
        ("a.tsv", "filepath\ttitle\nx.png\ta\tb\n", "a.tsv, line 2, has more cells than the header"),
        ("a.tar", "no tar", "is no uncompressed tar file"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_triplets(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["jsonl", "json", "tsv", "folder"])
def test_images_are_looked_for_where_they_are_said_to_be(tmp_path: Path, kind: str) -> None:
    row = {"image": "x.png", "caption": "a bear"}
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / ("metadata.jsonl" if kind == "folder" else f"set.{kind}")
    text = {"json": json.dumps([row]), "tsv": "image\tcaption\nx.png\ta bear\n"}.get(kind, json.dumps(row))
    path.write_text(text)
    (read,) = read_triplets(str(path.parent if kind == "folder" else path), tmp_path / "pictures")
    assert read.image.name == str(tmp_path / "pictures" / "x.png")


def test_images_have_no_meaning_for_a_set_that_holds_its_own(triplet_set: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images='.*' has no meaning for .*, which holds its images"):
        read_triplets(str(triplet_set), tmp_path)


@pytest.mark.parametrize("kind", ["tiff", "gif", "bmp"])
def test_a_tar_holds_images_of_every_kind_and_more_than_images(tmp_path: Path, kind: str) -> None:
    members = {"0.txt": b"a bear", "0.prompt.txt": b"no caption", "0.json": b'{"category": "object"}'}
    for name, color in ((f"0.{kind}", "red"), (f"0.negative.{kind}", "blue"), (f"0.mask.{kind}", "white")):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), color).save(buffer, kind.upper())
        members[name] = buffer.getvalue()
    write_tar(tmp_path / "a.tar", members)
    (row,) = read_triplets(str(tmp_path / "a.tar"))
    assert (row.caption, row.category) == ("a bear", "object")
    assert open_image(row.id, row.image).getpixel((1, 1)) == (255, 0, 0)
    assert row.negative_image and open_image(row.id, row.negative_image).getpixel((1, 1))[2] > 250


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.txt", b"caf\xe9", "a.tar: 0.txt is not UTF-8"),
        ("0.json", b"{", "a.tar: 0.json is no JSON"),
        ("0.json", b"[1]", "a.tar: 0.json must hold an object, got list"),
        ("0.mask.png", b"", "a.tar, key 0: no image"),
    ],
)
def test_a_broken_member_of_a_tar_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_tar(tmp_path / "a.tar", {name: content})
    with pytest.raises(ValueError, match=message):
        read_triplets(str(tmp_path / "a.tar"))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_broken_cell_is_named_by_its_file_and_row(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    whole = {"bytes": buffer.getvalue(), "path": None}
    for name, cells in (("a", [whole, whole]), ("b", [whole, {"bytes": b"broken", "path": None}])):
        table = pyarrow.table({"image": cells, "caption": ["a bear", "two bears"]})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    rows = read_triplets(str(tmp_path))
    assert [row.image.name for row in rows][1:3] == [
        "a.parquet, row 1, column image",
        "b.parquet, row 0, column image",
    ]
    with pytest.raises(
        ValueError, match=r"the image b\.parquet, row 1, column image of item .* cannot be read"
    ):
        open_image(rows[3].id, rows[3].image)


def test_coco_captions_are_plain_pairs(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "val2017" / "1.png")
    notes = [{"id": 7, "image_id": 1, "caption": "a bear"}, {"id": 8, "image_id": 1, "caption": "one bear"}]
    (tmp_path / "captions_val2017.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "1.png"}], "annotations": notes})
    )
    rows = read_triplets(str(tmp_path / "captions_val2017.json"))
    assert [(row.id, row.caption, row.negative_caption) for row in rows] == [
        ("coco-7", "a bear", None),
        ("coco-8", "one bear", None),
    ]
    # captions of one image are never on both sides of a split
    assert {row.source for row in rows} == {str(tmp_path / "val2017" / "1.png")}
    assert rows == read_triplets(str(tmp_path / "captions_val2017.json"), tmp_path / "val2017")
    notes.append({"id": 9, "image_id": 2, "caption": "nothing"})
    (tmp_path / "b.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "1.png"}], "annotations": notes})
    )
    with pytest.raises(ValueError, match=r"b\.json, annotation coco-9: no image has the id 2"):
        read_triplets(str(tmp_path / "b.json"), tmp_path / "val2017")


def checked(folder: Path, tiny_clip: Path, loss: str = "triplet") -> Validated:
    return validate(
        read_triplets(str(folder)),
        load_model(str(tiny_clip)),
        loss_by_name(loss).columns,
        needed_by=f"loss={loss!r}",
        name="set",
    )


def test_rows_without_a_usable_negative_are_counted_and_masked(
    changed_set: Callable[..., Path], tiny_clip: Path
) -> None:
    def change(i: int, row: dict) -> dict:
        if i == 0:
            return {**row, "negative_caption": row["caption"].upper() + " "}
        if i == 1:
            return {**row, "negative_caption": None, "negative_image_file_name": None}
        if i == 2:
            return {**row, "negative_image_file_name": row["image_file_name"]}
        if i == 3:  # 24 tokens: the last words are cut off
            long = " ".join(["brown bear"] * 14)
            return {**row, "caption": f"{long} red hat", "negative_caption": f"{long} blue hat"}
        return row

    folder = changed_set(change)
    # the same picture under another name
    shutil.copy(folder / "images" / "004.png", folder / "images" / "004-negative.png")
    found = checked(folder, tiny_clip)
    assert found.valid == (False,) * 5 + (True,) * 43
    assert (found.missing, found.equal, found.truncated) == (1, 3, 1)
    assert found.notes() == [
        "1 of 48 rows have no negative; they train as plain pairs",
        "3 of 48 rows have a negative that equals the positive; they train as plain pairs",
        "1 of 48 rows differ from their negative only in words that the tokenizer cuts off; they train as plain pairs",
    ]


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_negative_with_the_bytes_of_the_original_is_found_in_tables_and_tar_files(
    triplet_set: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    from negguide.mining.formats.export import write_export

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copytree(triplet_set, tmp_path / "set")
    images = tmp_path / "set" / "data" / "00000" / "images"
    shutil.copy(images / "007.png", images / "007-negative.png")
    write_export(tmp_path / "set", tmp_path / "out", format, say=print)
    found = checked(tmp_path / "out", tiny_clip)
    (broken,) = [t for t, valid in zip(found.triplets, found.valid, strict=True) if not valid]
    assert found.equal == 1 and broken.caption == read_triplets(str(triplet_set))[7].caption


def test_a_set_that_the_loss_cannot_use_is_refused(changed_set: Callable[..., Path], tiny_clip: Path) -> None:
    keep = ("id", "source_id", "image_file_name", "caption", "negative_caption")
    folder = changed_set(lambda i, row: {name: row[name] for name in keep})
    with pytest.raises(
        ValueError, match="no column negative_image, which loss='triplet' needs; it has image, caption"
    ):
        checked(folder, tiny_clip)
    assert all(checked(folder, tiny_clip, "negclip").valid)
    assert checked(folder, tiny_clip, "clip").notes() == []


def test_a_set_whose_negatives_all_equal_their_positives_is_refused(
    changed_set: Callable[..., Path], tiny_clip: Path
) -> None:
    folder = changed_set(lambda i, row: {**row, "negative_caption": row["caption"]})
    with pytest.raises(
        ValueError, match="no negative that loss='triplet' can use: 48 of 48 rows have a negative that"
    ):
        checked(folder, tiny_clip)


def test_empty_captions_and_missing_files_are_named(
    changed_set: Callable[..., Path], tiny_clip: Path
) -> None:
    folder = changed_set(lambda i, row: {**row, "caption": "  "} if i == 7 else row)
    with pytest.raises(ValueError, match=r"the caption of item 'item-7' is '  '"):
        checked(folder, tiny_clip)
    (folder / "images" / "005-negative.png").unlink()
    rows = [t for t in read_triplets(str(folder)) if t.id != "item-7"]
    with pytest.raises(ValueError, match=r"1 of 94 images are missing, the first is .*005-negative\.png"):
        validate(rows, load_model(str(tiny_clip)), BOTH, needed_by="loss='triplet'", name="set")
    assert validate(rows, load_model(str(tiny_clip)), (), needed_by="loss='clip'", name="set").missing == 0


def test_pairs_hold_each_original_once_and_every_negative(mined: list[Triplet]) -> None:
    twice = [
        *mined[:3],
        Triplet("item-0", mined[0].source, mined[0].image, mined[0].caption, "a bear", mined[1].image),
    ]
    pairs = as_pairs(Validated(tuple(twice), (True, True, False, True)))
    assert [t.id for t in pairs.triplets] == [
        "item-0",
        "item-0/negative",
        "item-1",
        "item-1/negative",
        "item-2",
        "item-0/negative",  # another one, of another part of the set
    ]
    assert pairs.triplets[5].caption == "a bear"
    assert pairs.triplets[0].positive_captions == mined[0].positive_captions != ()
    assert all(t.positive_captions == () for t in pairs.triplets if t.id.endswith("/negative"))
    assert pairs.triplets[1].caption == mined[0].negative_caption
    assert pairs.triplets[1].image == mined[0].negative_image and pairs.triplets[1].group == mined[0].source
    # siblings show different things, so none is a positive of another; the last one's picture is the third row's
    assert pairs.triplets[5].source == pairs.triplets[2].source
    assert len({t.source for t in pairs.triplets[:5]}) == 5 and len({t.group for t in pairs.triplets}) == 3
    assert not any(t.negative_caption or t.negative_image for t in pairs.triplets)


def test_captions_that_say_the_same_share_their_source(mined: list[Triplet]) -> None:
    first = replace(mined[0], prompt="a bear")
    second = replace(first, id="again", negative_caption="a bear without a hat")
    pairs = as_pairs(Validated((first, second, mined[1]), (True, True, True))).triplets
    assert pairs[1].source == pairs[2].source != pairs[0].source
    assert pairs[4].source != pairs[1].source


def test_copies_of_an_image_are_one_source(mined: list[Triplet], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(mined[0].image.read())
    rows = [*mined[:3], replace(mined[0], id="more", source="photo#2", image=FileImage(copy))]
    merged = with_one_source_per_image(rows)
    assert [t.source for t in merged] == ["scene-0", "scene-1", "scene-2", "scene-0"]


def test_a_caption_of_two_images_is_not_asked_for(mined: list[Triplet]) -> None:
    rows = [*mined[:4], replace(mined[4], caption=mined[0].caption.upper())]
    part = held_out_suite(rows, [False] * 5, "v").parts["retrieval"]
    assert isinstance(part, Retrieval)
    assert part.captions == tuple(t.caption for t in mined[1:4]) and part.owners == (0, 1, 2)
    assert len(part.images) == 3


def test_images_of_a_table_may_be_files(mined: list[Triplet], tmp_path: Path) -> None:
    import datasets

    rows = []
    for i, triplet in enumerate(mined[:3]):
        for name, picture in (("", triplet.image), ("-negative", triplet.negative_image)):
            assert picture is not None
            (tmp_path / f"{i}{name}.png").write_bytes(picture.read())
        files = {"image": str(tmp_path / f"{i}.png"), "negative_image": str(tmp_path / f"{i}-negative.png")}
        rows.append({**files, "caption": triplet.caption, "negative_caption": triplet.negative_caption})
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "set.parquet"))
    read = read_triplets(str(tmp_path / "set.parquet"))
    assert [t.image.read() for t in read] == [t.image.read() for t in mined[:3]]
    assert all(t.image.size == len(t.image.read()) for t in read)


def test_the_rows_of_one_image_are_held_out_together() -> None:
    image = TarImage(Path("none.tar"), "none", 0, 0)
    rows = [Triplet(str(i), f"s{i // 3}", image, "a") for i in range(30)]
    numbers = iter(range(10, 0, -1))
    training, held = split(rows, 0.2, lambda: float(next(numbers)))
    assert held == [24, 25, 26, 27, 28, 29] and sorted([*training, *held]) == list(range(30))
    assert split(rows, 0.0, lambda: 0.0) == (list(range(30)), [])


def test_an_image_that_does_not_decode_is_named(tmp_path: Path, mined: list[Triplet]) -> None:
    data = mined[0].image.path.read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "a.jsonl").write_text('{"id": "row 1", "image": "cut.png", "caption": "a bear"}\n')
    (row,) = read_triplets(str(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match=r"the image .*cut\.png of item 'row 1' cannot be read"):
        open_image(row.id, row.image)
    Image.new("L", (4, 4)).save(tmp_path / "cut.png")
    assert open_image(row.id, row.image).mode == "RGB"


def test_training_and_evaluation_see_images_as_they_are_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 48), "red").save(tmp_path / "a.png", exif=exif)
    Image.new("RGBA", (48, 32), (0, 0, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("a thing")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
        tar.add(tmp_path / "a.txt", "a.txt")
    (member,) = (row.image for row in read_triplets(str(tmp_path / "a.tar")))
    rows = (FileImage(tmp_path / "a.png"), FileImage(tmp_path / "b.png"))
    opened = [open_image("x", picture) for picture in (*rows, member)]
    opened += list(ImageFiles([tmp_path / "a.png", tmp_path / "b.png"]))
    assert {image.size for image in opened} == {(48, 32)}
    assert [image.getpixel((2, 2)) for image in opened] == [
        (255, 0, 0),
        (255, 255, 255),
        (255, 0, 0),
        (255, 0, 0),
        (255, 255, 255),
    ]


@pytest.mark.parametrize("column", ["category", "prompt", "positive_captions", "negative_image"])
def test_a_set_is_another_one_when_what_is_trained_on_differs(
    changed_set: Callable[..., Path], triplet_set: Path, tiny_clip: Path, column: str
) -> None:
    folder = changed_set(
        lambda i, row: row if i or column == "negative_image" else {**row, column: ["other"]}
    )
    if column == "negative_image":  # painted again under the same name
        path = next((folder / "images").glob("*-negative.png"))
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path, compress_level=1)
    model = load_model(str(tiny_clip))
    prints = [
        read_training_set(Settings(str(data), str(tiny_clip), batch_size=8), model, 1).fingerprint
        for data in (triplet_set, folder)
    ]
    assert prints[0] != prints[1]
