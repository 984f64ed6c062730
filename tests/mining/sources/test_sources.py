import csv
import json
import random

import datasets
import pyarrow.parquet
import pytest
import webdataset
from PIL import Image
from source_rows import BLUE, RED, picture, read, write_rows

from negguide.mining.item import Source
from negguide.mining.sources import caption_problem, open_source
from negguide.toyworld.language import parse
from negguide.toyworld.render import render
from negguide.toyworld.scene import held_out


@pytest.fixture
def images(tmp_path):
    """A folder with a red, a blue, a broken and an unreadable image, and a mask."""
    picture(RED).save(tmp_path / "red.png")
    picture(BLUE).save(tmp_path / "blue.png")
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    noise.save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("this is no image")
    Image.new("L", (12, 8), 255).save(tmp_path / "mask.png")
    Image.new("L", (5, 5), 255).save(tmp_path / "small.png")
    return tmp_path


def test_an_imagefolder_with_everything_that_can_be_wrong(images):
    write_rows(
        images / "metadata.jsonl",
        [
            {"file_name": "red.png", "caption": "a red thing", "licence": "cc0-1.0"},
            {"file_name": "red.png", "caption": "a thing in red"},
            {
                "file_name": "blue.png",
                "caption": ["a blue thing", "a thing in blue"],
                "mask_file_name": "mask.png",
            },
            {"file_name": "cut.jpg", "caption": "noise"},
            {"file_name": "text.png", "caption": "words"},
            {"file_name": "gone.png", "caption": "nothing"},
            {"file_name": "blue.png", "caption": " ", "id": "silent"},
            {"file_name": "blue.png", "caption": None, "id": "mute"},
            {"file_name": "blue.png", "caption": "собака на диване", "id": "russian"},
            {
                "file_name": "blue.png",
                "caption": "a blue thing",
                "mask_file_name": "gone.png",
                "id": "maskless",
            },
            {
                "file_name": "blue.png",
                "caption": "a blue thing",
                "mask_file_name": "small.png",
                "id": "small",
            },
        ],
    )
    (images / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Pictures\n")
    source = open_source(str(images))
    good, bad = read(source)
    assert good == {
        "red.png": ("a red thing", RED),
        "red.png#2": ("a thing in red", RED),
        "blue.png": ("a blue thing", BLUE),
        "blue.png#2": ("a thing in blue", BLUE),
    }
    assert bad["cut.jpg"].startswith("corrupt image: cut.jpg: image file is truncated")
    assert bad["text.png"] == "corrupt image: text.png: cannot identify image file"
    del bad["cut.jpg"], bad["text.png"]
    assert bad == {
        "gone.png": "missing image",
        "silent": "empty caption",
        "mute": "empty caption",
        "russian": "not English",
        "maskless": "missing mask",
        "small": "mask of another size: 5x5 for an image of 12x8",
    }
    rows = {row.id: row for row in source if isinstance(row, Source)}
    assert rows["red.png"].licence == "cc0-1.0"
    assert rows["red.png#2"].licence == "cc-by-4.0" == source.licence
    assert rows["blue.png"].mask().mode == "L"
    assert rows["red.png"].mask is None
    assert not source.world
    assert read(open_source(str(images / "metadata.jsonl"))) == read(source)  # the same again


def test_what_is_done_is_passed_over_unopened(images):
    write_rows(
        images / "metadata.jsonl",
        [{"file_name": "red.png", "caption": "a red thing"}, {"file_name": "gone.png", "caption": "nothing"}],
    )
    source = open_source(str(images))
    assert [row.id for row in source.sources(done={"gone.png"})] == ["red.png"]
    assert [row.id for row in source.sources(done={"red.png"})] == ["gone.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [
                {"file_name": "red.png", "caption": "a", "id": 7},
                {"file_name": "blue.png", "caption": "b", "id": 7},
            ],
            "the id '7' comes twice",
        ),
        (
            [{"file_name": "red.png", "words": "a"}],
            "line 1, has no column for the caption: expected caption or text",
        ),
        ([{"caption": "a"}], "line 1, has no file_name"),
        (["red.png"], "line 1, has no file_name"),
    ],
)
def test_a_broken_imagefolder_is_an_error_that_names_the_place(images, rows, message):
    write_rows(images / "metadata.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        list(open_source(str(images)))


def test_a_line_that_is_no_json_is_named(images):
    (images / "metadata.jsonl").write_text('{"file_name": "red.png", "caption": "a"}\n{"file_na\n')
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2, is no JSON"):
        list(open_source(str(images)))


def test_an_imagefolder_is_read_line_by_line(images):
    """The second line is broken, and the first one is there before anybody looks at it."""
    (images / "metadata.jsonl").write_text('{"file_name": "red.png", "note": "a red thing"}\nbroken\n')
    rows = iter(open_source(str(images), caption="note"))
    assert next(rows).caption == "a red thing"
    with pytest.raises(ValueError, match="line 2"):
        next(rows)


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_an_open_clip_table(images, kind):
    path = images / f"pairs.{kind}"
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
        table.writerow(["filepath", "title", "license"])
        table.writerow(["red.png", 'a "red", flat\tthing', "cc0-1.0"])
        table.writerow([str(images / "blue.png"), "a blue thing", ""])
        table.writerow(["red.png", "a thing in red", ""])
        table.writerow(["gone.png", "nothing", ""])
        table.writerow(["half.png"])
    source = open_source(str(path), licence="mit")
    good, bad = read(source)
    assert good == {
        "red.png": ('a "red", flat\tthing', RED),
        str(images / "blue.png"): ("a blue thing", BLUE),
        "red.png#2": ("a thing in red", RED),
    }
    assert bad == {"gone.png": "missing image", "half.png": "broken row: line 6 has 1 cells for 3 columns"}
    assert [row.licence for row in source if isinstance(row, Source)] == ["cc0-1.0", "mit", "mit"]


def test_a_table_without_the_columns_is_refused(images):
    (images / "pairs.tsv").write_text("file\ttitle\nred.png\ta\n")
    with pytest.raises(
        ValueError, match="no column for the image: expected filepath or file_name or image, found file"
    ):
        open_source(str(images / "pairs.tsv"))


def coco(images, annotations):
    data = {
        "licenses": [{"id": 3, "name": "Attribution License"}],
        "images": [
            {"id": 10, "file_name": "red.png", "license": 3},
            {"id": 11, "file_name": "gone.png"},
            {"id": 12, "file_name": "blue.png"},
        ],
        "annotations": annotations,
    }
    folder = images / "annotations"
    folder.mkdir(exist_ok=True)
    path = folder / "captions_val2017.json"
    path.write_text(json.dumps(data))
    return path


def test_coco_captions(images):
    notes = [
        {"id": 1, "image_id": 10, "caption": "a red thing \n"},
        {"id": 2, "image_id": 10, "caption": "a thing in red"},
        {"id": 3, "image_id": 11, "caption": "nothing"},
        {"id": 4, "image_id": 99, "caption": "nowhere"},
        {"id": 5, "image_id": 12, "caption": ""},
    ]
    path = coco(images, notes)
    with pytest.raises(ValueError, match=r"its images are in none of .*name their folder with images="):
        open_source(str(path))
    source = open_source(str(path), images=images)
    good, bad = read(source)
    assert good == {"coco-1": ("a red thing", RED), "coco-2": ("a thing in red", RED)}
    assert bad == {
        "coco-3": "missing image",
        "coco-4": "missing image: no image has the id 99",
        "coco-5": "empty caption",
    }
    assert {row.licence for row in source if isinstance(row, Source)} == {"Attribution License"}
    (images / "val2017").mkdir()
    picture(BLUE).save(images / "val2017" / "red.png")
    assert read(open_source(str(path)))[0]["coco-1"] == ("a red thing", BLUE)
    with pytest.raises(ValueError, match="the id 'coco-1' comes twice"):
        list(open_source(str(coco(images, notes[:1] * 2)), images=images))
    with pytest.raises(ValueError, match=r"images='.*nowhere' is no folder"):
        open_source(str(path), images=images / "nowhere")
    # two files that were put together
    twice = json.loads(path.read_text())
    path.write_text(json.dumps({**twice, "images": [*twice["images"], {"id": 10, "file_name": "blue.png"}]}))
    with pytest.raises(
        ValueError, match=r"images\[3\] \(blue\.png\) has the id 10 of another image \(red\.png\)"
    ):
        list(open_source(str(path), images=images))
    path.write_text('{"0": {"filename": "a"}}')
    with pytest.raises(ValueError, match="holds no COCO captions: it needs 'images' and 'annotations'"):
        open_source(str(path), images=images)
    path.write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(ValueError, match=r"images\[0\] needs file_name and id"):
        open_source(str(path), images=images)


@pytest.fixture
def shards(tmp_path, images):
    folder = tmp_path / "shards"
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
        tar.write({"__key__": "000", "png": picture(RED), "txt": "a red thing"})
        tar.write(
            {"__key__": "001", "jpg": picture(BLUE), "json": {"caption": "a blue thing", "license": "mit"}}
        )
        tar.write({"__key__": "002", "txt": "a thing without a picture"})
        tar.write({"__key__": "003", "jpg": (images / "cut.jpg").read_bytes(), "txt": "half a thing"})
    with webdataset.TarWriter(str(folder / "00001.tar")) as tar:
        tar.write(
            {
                "__key__": "000",
                "png": picture(BLUE),
                "txt": "one more",
                "mask.png": (images / "mask.png").read_bytes(),
            }
        )
        tar.write({"__key__": "001", "png": picture(BLUE), "json": b"{broken"})
        tar.write({"__key__": "002", "png": picture(BLUE)})
    return folder


def test_webdataset_shards(shards):
    source = open_source(str(shards))
    good, bad = read(source)
    assert {name: caption for name, (caption, _) in good.items()} == {
        "00000/000": "a red thing",
        "00000/001": "a blue thing",
        "00001/000": "one more",
    }
    assert good["00000/000"][1] == RED
    assert bad.pop("00000/003").startswith("corrupt image: ")
    assert bad.pop("00001/001").startswith("broken caption: ")
    assert bad == {"00000/002": "missing image: none among txt", "00001/002": "empty caption"}
    rows = {row.id: row for row in source if isinstance(row, Source)}
    assert rows["00000/001"].licence == "mit"
    assert rows["00001/000"].mask().size == (12, 8)
    assert source.description["shards"] == ["00000.tar", "00001.tar"]
    for pattern in ("*.tar", "{00000..00001}.tar"):
        assert read(open_source(str(shards / pattern))) == read(source)
    assert set(read(open_source(str(shards / "00001.tar")))[0]) == {"00001/000"}
    with pytest.raises(ValueError, match=r"there is no shard .*00002\.tar"):
        open_source(str(shards / "{00000..00002}.tar"))
    with pytest.raises(ValueError, match=r"nothing\*\.tar names no \.tar file"):
        open_source(str(shards / "nothing*.tar"))


def test_a_shard_that_breaks_off_is_reported_and_the_others_are_read(shards):
    content = (shards / "00000.tar").read_bytes()
    (shards / "00000.tar").write_bytes(content[:700])
    good, bad = read(open_source(str(shards)))
    assert set(good) == {"00001/000"}
    assert bad["00000"].startswith("broken shard: ")


def test_a_caption_column_of_a_shard_can_be_named(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "0", "png": picture(), "txt": "alt text", "json": {"blip": "a red thing"}})
        tar.write({"__key__": "1", "png": picture(), "txt": "\ufeffa blue thing".encode()})
    assert read(open_source(str(tmp_path), caption="blip"))[0]["a/0"][0] == "a red thing"
    # without the byte-order mark that editors on Windows write
    assert read(open_source(str(tmp_path)))[0]["a/1"][0] == "a blue thing"


@pytest.fixture
def data_set(images):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {
        "image": [
            {"path": None, "bytes": (images / name).read_bytes()}
            for name in ("red.png", "blue.png", "cut.jpg")
        ]
        + [None],
        "text": ["a red thing", "a blue thing", "half a thing", "nothing"],
    }
    return datasets.Dataset.from_dict(rows, features=features)


GOOD = {"train-000000000": ("a red thing", RED), "train-000000001": ("a blue thing", BLUE)}


def test_a_data_set_on_disk(data_set, tmp_path):
    data_set.info.license = "cc0-1.0"
    data_set.save_to_disk(tmp_path / "one")
    source = open_source(str(tmp_path / "one"))
    good, bad = read(source)
    assert good == GOOD
    assert bad.pop("train-000000002").startswith("corrupt image: ")
    assert bad == {"train-000000003": "missing image"}
    assert next(iter(source)).licence == "cc0-1.0"
    datasets.DatasetDict({"val": data_set}).save_to_disk(tmp_path / "two")
    assert set(read(open_source(str(tmp_path / "two"), split="val"))[0]) == {"val-000000000", "val-000000001"}
    with pytest.raises(ValueError, match="has no split 'train'; it has val"):
        open_source(str(tmp_path / "two"))
    with pytest.raises(ValueError, match="no column for the caption: expected words, found image, text"):
        open_source(str(tmp_path / "one"), caption="words")


def test_a_saved_split_is_not_read_for_another(tmp_path):
    datasets.Dataset.from_list([{"text": "a red thing"}], split="test").save_to_disk(tmp_path / "test")
    for split in (None, "test"):
        (row,) = open_source(str(tmp_path / "test"), split=split).rows()
        assert row.caption == "a red thing"
    with pytest.raises(ValueError, match="is the split 'test', and split='validation' is asked for"):
        open_source(str(tmp_path / "test"), split="validation")
    # what is not said is what its rows are called
    datasets.Dataset.from_list([{"text": "a red thing"}]).save_to_disk(tmp_path / "unsaid")
    (row,) = open_source(str(tmp_path / "unsaid"), split="validation").rows()
    assert row.id == "validation-000000000"


def test_a_data_set_is_streamed_from_parquet(data_set, tmp_path):
    (tmp_path / "set").mkdir()
    data_set.to_parquet(str(tmp_path / "set" / "train.parquet"))
    good, bad = read(open_source(str(tmp_path / "set")))
    assert good == GOOD
    assert set(bad) == {"train-000000002", "train-000000003"}


def test_several_captions_and_given_ids_of_a_data_set(tmp_path):
    rows = {"image": [picture(RED), picture(BLUE)], "caption": [["one", "two"], ["three"]], "id": [5, 6]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "id": datasets.Value("int64"),
        }
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    good, _ = read(open_source(str(tmp_path / "set")))
    assert good == {"5": ("one", RED), "5#2": ("two", RED), "6": ("three", BLUE)}


def test_a_data_set_without_images_has_captions_alone(tmp_path):
    datasets.Dataset.from_dict({"text": ["a red thing", "l'homme et la femme dans le jardin"]}).save_to_disk(
        tmp_path / "set"
    )
    good, bad = read(open_source(str(tmp_path / "set")))
    assert good == {"train-000000000": ("a red thing", None)}
    assert bad == {"train-000000001": "not English"}


def test_a_data_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"the data set 'nobody/nothing' cannot be opened: "):
        open_source("nobody/nothing")


def test_the_toy_world_gives_different_scenes_of_the_training_split():
    source = open_source("toyworld:300", seed=4)
    rows = list(source)
    assert source.world and source.licence == "apache-2.0"
    assert [row.id for row in rows[:2]] == ["toyworld-000000", "toyworld-000001"]
    scenes = [parse(row.caption) for row in rows]
    assert len({row.caption for row in rows}) == len(rows) == 300
    assert not any(map(held_out, scenes))
    assert rows[7].load().tobytes() == render(scenes[7]).tobytes()
    assert [row.caption for row in open_source("toyworld:20", seed=4)] == [row.caption for row in rows[:20]]
    assert [row.caption for row in open_source("toyworld:20", seed=5)] != [row.caption for row in rows[:20]]
    assert next(iter(open_source("toyworld:1", size=32))).load().size == (32, 32)
    assert source.description == {
        "licence": "apache-2.0",
        "world": True,
        "seed": 4,
        "size": 64,
    }


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        ("a dog on a sofa", None),
        ("red car", None),
        ("Café de la Paix at night", None),
        ("El Niño seen from above", None),
        ("a plate of crème brûlée", None),
        ("three dogs in the Playa de la Concha", None),
        ("a dog \ud83d on a sofa", "broken caption"),
        ("a dog \U0001f600 on a sofa", None),
        ("", "empty caption"),
        ("  !? 42", "empty caption"),
        ("ein Hund auf einem Sofa", "not English"),
        ("un perro en el sofá", "not English"),
        ("un chien noir dans la neige", "not English"),
        ("uma mulher com um guarda-chuva", "not English"),
        ("een hond op het strand", "not English"),
        ("沙发上的狗", "not English"),
        ("собака on a диване", "not English"),
        ("a sign that says собака", None),
    ],
)
def test_only_what_is_clearly_not_english_is_refused(caption, problem):
    assert caption_problem(caption) == problem


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        ("toyworld:", {}, ValueError, "the toy world needs a number of pairs, as in toyworld:200"),
        ("toyworld:0", {}, ValueError, "toyworld:0 is no input"),
        (
            "toyworld:5",
            {"images": "."},
            TypeError,
            r"images='\.' has no meaning for toyworld:5, the toy world",
        ),
        ("no/such/folder", {}, ValueError, "there is no 'no/such/folder'; use toyworld:N, a folder"),
        ("pairs.tsv", {}, ValueError, "there is no 'pairs.tsv'"),
    ],
)
def test_what_is_no_input_is_refused(spec, options, error, message):
    with pytest.raises(error, match=message):
        open_source(spec, **options)


def test_files_and_folders_that_are_no_input_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(ValueError, match=r"notes\.txt' is no input that is known"):
        open_source(str(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match=r"is no input: it holds no metadata\.jsonl"):
        open_source(str(tmp_path))


def test_a_single_parquet_file(data_set, tmp_path):
    data_set.to_parquet(str(tmp_path / "one.parquet"))
    source = open_source(str(tmp_path / "one.parquet"))
    assert source.name == "one.parquet" and read(source)[0] == GOOD
    # as other writers store images: nothing declares them
    table = pyarrow.table(
        {
            "image": [
                {"bytes": buffer, "path": "x"} for buffer in [data_set.data["image"][0]["bytes"].as_py()]
            ],
            "text": ["red"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "plain.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [table["image"][0]["bytes"].as_py()], "text": ["red"]}),
        tmp_path / "raw.parquet",
    )
    for name in ("plain", "raw"):
        assert read(open_source(str(tmp_path / f"{name}.parquet")))[0] == {"train-000000000": ("red", RED)}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_in_an_encoding_that_it_names(images, encoding):
    (images / "t.tsv").write_bytes("filepath\ttitle\nred.png\ta \u201cred\u201d thing\n".encode(encoding))
    assert read(open_source(str(images / "t.tsv")))[0] == {"red.png": ("a \u201cred\u201d thing", RED)}


def test_a_table_in_another_encoding_is_refused_by_name(images):
    (images / "t.csv").write_bytes("filepath,title\nred.png,a caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv, line 2, is not UTF-8"):
        open_source(str(images / "t.csv"))


def test_a_lonely_quotation_mark_in_a_table_swallows_no_row(images):
    (images / "t.tsv").write_text('filepath\ttitle\nred.png\t"a red thing\nblue.png\ta "blue" thing\n')
    good, bad = read(open_source(str(images / "t.tsv")))
    assert good == {"red.png": ('"a red thing', RED), "blue.png": ('a "blue" thing', BLUE)} and not bad
