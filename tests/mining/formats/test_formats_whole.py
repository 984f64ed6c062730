"""An export is there as a whole or not at all, and never takes the place of something by accident."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from negguide.mining.formats import FORMATS, write_export


@pytest.fixture
def broken(mined: Path, tmp_path: Path) -> Path:
    """The set without the image of its last item."""
    shutil.copytree(mined, tmp_path / "broken")
    (tmp_path / "broken/data/00001/images/6.png").unlink()
    return tmp_path / "broken"


# the set here makes no editing triplets
@pytest.mark.parametrize("format", [name for name in FORMATS if not name.startswith("instructpix2pix")])
def test_an_export_that_fails_leaves_nothing_behind(broken: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"6\.png"):
        write_export(broken, tmp_path / "new/out", format, say=print)
    assert list((tmp_path / "new").iterdir()) == []


def test_an_export_that_fails_leaves_the_one_before(mined: Path, broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_export(mined, out, "sugarcrepe", say=print)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(FileNotFoundError):
        write_export(broken, out, "sugarcrepe", overwrite=True, say=print)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_export_that_was_killed_is_run_again(mined: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial" / "0123" / "images"
    left.mkdir(parents=True)
    (left / "half.png").write_bytes(b"half")
    write_export(mined, tmp_path / "out", "sugarcrepe", say=print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not list((tmp_path / "out").rglob("half.png"))


def test_a_folder_that_is_there_is_only_replaced_on_demand(mined: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out=.*out' exists already; give another folder, or overwrite it"):
        write_export(mined, out, "open-clip")
    assert [path.name for path in out.iterdir()] == ["precious.txt"]
    write_export(mined, out, "open-clip", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "images", "pairs.tsv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_wrong_arguments_are_refused(mined: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format='csv' is not known; use one of imagefolder, webdataset"):
        write_export(mined, tmp_path / "out", "csv")
    with pytest.raises(ValueError, match="holds no hard-negative set"):
        write_export(tmp_path, tmp_path / "out", "parquet")
    (tmp_path / "link").symlink_to(mined)
    for out in (mined, mined.parent, mined / "data" / "..", tmp_path / "link"):
        with pytest.raises(ValueError, match="holds the set itself"):
            write_export(mined, out, "parquet", overwrite=True)
    with pytest.raises(ValueError, match="is a part of the set itself"):
        write_export(mined, mined / "data", "parquet", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"out=.*file' is a file; give a folder"):
        write_export(mined, tmp_path / "file", "parquet", overwrite=True)
    with pytest.raises(ValueError, match="is not rebalanced"):
        write_export(mined, tmp_path / "out", "parquet", rebalanced=True)
    (tmp_path / "empty/data").mkdir(parents=True)
    with pytest.raises(ValueError, match="empty holds no item"):
        write_export(tmp_path / "empty", tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_the_rebalanced_set(
    command: Callable[..., Any], mined: Path, tmp_path: Path
) -> None:
    shutil.copytree(mined, tmp_path / "set")
    kept = {"kept": ["a.b/0", "a.b/1"], "exchanged": ["a.b/1"], "rendered": False}
    kept["dropped"] = {f"a.b/{i}": "told" for i in (2, 3, 4, 5, 6)}  # type: ignore[assignment]
    (tmp_path / "set/rebalanced.json").write_text(json.dumps(kept))
    out = tmp_path / "out"
    ended = command("export", tmp_path / "set", "--format", "sugarcrepe", "--out", out, "--rebalanced")
    assert ended.exit_code == 0, ended.message
    assert ended.stdout.strip() == str(out) and "2 items" in ended.message
    first = json.loads((out / "replace_obj.json").read_text())["0"]
    second = json.loads((out / "replace_att.json").read_text())["0"]
    assert first["caption"] == "a brown bear in a meadow"
    # the negative of item 1, which is the caption with exchanged roles
    assert second["caption"] == "a brown bear wearing a blue hat at night"
    negative = tmp_path / "set/data/00000/images/1-negative.png"
    assert (out / "images" / second["filename"]).read_bytes() == negative.read_bytes()
    assert "| roles | exchanged | 1 |" in (out / "README.md").read_text()

    # the same choice, written elsewhere
    (tmp_path / "report").mkdir()
    (tmp_path / "set/rebalanced.json").rename(tmp_path / "report/rebalanced.json")
    arguments = (
        "export",
        tmp_path / "set",
        "--format",
        "sugarcrepe",
        "--overwrite",
        "--out",
        tmp_path / "two",
    )
    missing = command(*arguments, "--rebalanced")
    assert missing.exit_code == 2 and "--report" in missing.message
    elsewhere = command(*arguments, "--rebalanced", "--report", tmp_path / "report")
    assert elsewhere.exit_code == 0, elsewhere.message
    for file in ("replace_obj.json", "replace_att.json"):
        assert (tmp_path / "two" / file).read_bytes() == (out / file).read_bytes()
    wrong = command(*arguments, "--rebalanced", "--report", tmp_path)
    assert wrong.exit_code == 2 and "holds no rebalanced.json" in wrong.message
    alone = command(*arguments, "--report", tmp_path / "report")
    assert alone.exit_code == 2 and "has no meaning without" in alone.message

    again = command("export", tmp_path / "set", "--format", "sugarcrepe", "--out", out)
    assert again.exit_code == 2 and "exists already" in again.message
    replaced = command("export", tmp_path / "set", "--format", "parquet", "--out", out, "--overwrite")
    assert replaced.exit_code == 0 and (out / "data/train-00000.parquet").is_file()
