"""What a set says of where it was made (nothing), how it stores originals, and that reading it writes nothing."""

import errno
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mining_fakes as fakes
import pytest
import typer
from typer.testing import CliRunner

from negguide.cli.audit import audit
from negguide.cli.errors import CleanErrors
from negguide.cli.export import export
from negguide.cli.mine import mine
from negguide.mining.item import StoredImage
from negguide.mining.packed import unpack
from negguide.mining.settings import Settings, without_place
from negguide.mining.shards import read_set
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.evaluation.suites import make_suite


def jpeg(source: Any) -> bytes:
    stream = io.BytesIO()
    source.load().save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_an_original_is_stored_once_and_with_the_bytes_that_it_came_in(tmp_path: Path) -> None:
    rows = fakes.sources(6)
    # captions of one image, as in COCO: different ids, the same file
    content = [jpeg(rows[0]), *(jpeg(row) for row in rows[1:])]
    stored = [replace(row, stored=StoredImage(lambda n=n: content[n])) for n, row in enumerate(rows)]
    again = replace(stored[0], id="again", caption=rows[0].caption + ".")
    outcome = fakes.mine(tmp_path / "set", fakes.Rows([*stored, again]), per_item=2, shard_size=10)
    assert outcome.funnel.total("written") > 6
    items = list(read_set(tmp_path / "set"))
    of_first = {item.image_file_name for item, _ in items if item.caption.startswith(rows[0].caption)}
    assert len(of_first) == 1
    sources = {row.id: content[n] for n, row in enumerate(rows)} | {"again": content[0]}
    for item, place in items:
        assert item.files(place)["image"].read_bytes() == sources[item.source_id]
        assert item.files(place)["negative_image"].suffix == ".png"
    held = [name for path in (tmp_path / "set").rglob("*.tar") for name in unpack(path.read_bytes())]
    originals = [Path(name).name for name in held if name.endswith(".jpg")]
    assert len(originals) == len(set(originals))
    assert set(originals) == {Path(str(item.image_file_name)).name for item, _ in items}


def test_models_in_folders_are_told_without_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "b32").mkdir()
    assert (
        without_place(f"clip:{tmp_path}/b32") == "clip:b32" and without_place(str(tmp_path / "b32")) == "b32"
    )
    assert without_place("/gone/with/it") == "it"
    for name in ("toyworld", "clip:openai/clip-vit-base-patch32", "owner/name"):
        assert without_place(name) == name
    chosen = fakes.settings(
        model=str(tmp_path / "b32"),
        judge=f"clip:{tmp_path}/b32",
        planner={"backend": "fill-mask", "model": str(tmp_path / "b32")},
    )
    assert str(tmp_path) not in json.dumps(chosen.to_dict())
    # the same folder elsewhere is the same setting
    assert chosen.difference(Settings.from_dict(chosen.to_dict())) == []


def snapshot(folder: Path) -> dict[str, int]:
    """When each file and folder was changed last."""
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_every_verb_reads_a_finished_set_without_writing_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    for verb in (mine, audit, export):
        app.command()(verb)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    command = ["mine", "--text-only", "--data", "toyworld:30", "--out", "set"]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = snapshot(tmp_path / "set")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and "30 pairs read" in again.output
    assert CliRunner().invoke(app, ["audit", "set", "--out", "report"]).exit_code == 0
    assert (
        CliRunner().invoke(app, ["export", "set", "--format", "webdataset", "--out", "tars"]).exit_code == 0
    )
    assert read_triplets("set") and make_suite("set").parts
    assert snapshot(tmp_path / "set") == before


def test_an_audit_of_what_cannot_be_written_asks_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    for verb in (mine, audit):
        app.command()(verb)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    assert (
        CliRunner().invoke(app, ["mine", "--text-only", "--data", "toyworld:30", "--out", "set"]).exit_code
        == 0
    )
    before = snapshot(tmp_path / "set")

    def refuses(dir: Path) -> Any:
        if "set" in str(dir):
            raise OSError(errno.EROFS, "Read-only file system")
        return io.BytesIO()

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    said = CliRunner().invoke(app, ["audit", "set"])
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", said.output)
    assert said.exit_code == 2 and "no file can be written there (Read-only file system)" in text
    assert "name a folder for it with --out: negguide audit set --out REPORT" in text
    said = CliRunner().invoke(app, ["audit", "set", "--out", "report", "--rebalance"])
    assert said.exit_code == 0 and (tmp_path / "report" / "rebalanced.json").is_file(), said.output
    assert snapshot(tmp_path / "set") == before


def test_the_tables_of_a_set_fit_into_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from negguide.cli.mine_report import show_funnel
    from negguide.mining.categories import CATEGORIES
    from negguide.mining.funnel import STAGES, Funnel

    monkeypatch.setenv("COLUMNS", "80")
    funnel = Funnel()
    for stage in STAGES:
        funnel.stages[stage].update(dict.fromkeys(CATEGORIES, 123_456))
    funnel.reject(
        "verified", "the negative image shows the original caption as well as the original image does"
    )
    show_funnel(funnel)
    said = capsys.readouterr().err
    assert all(len(line) <= 80 for line in said.splitlines()) and "…" not in said
    for word in (*STAGES, *CATEGORIES, "123456"):
        assert word in re.split(r"\s+", said), word
