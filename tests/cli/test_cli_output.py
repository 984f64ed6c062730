"""What the terminal gets, and files that are written whatever becomes of it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import negguide
from negguide.cli import app, output

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(REPOSITORY),
    "COLUMNS": "200",
    "_TYPER_FORCE_DISABLE_TERMINAL": "1",
}
TWO = ("--num-images", "2", "--steps", "3", "--device", "cpu")


def commands() -> list[tuple[str, ...]]:
    group: Any = typer.main.get_command(app)
    inner = [("toyworld", name) for name in group.commands["toyworld"].commands]
    return [(), *((name,) for name in group.commands), *inner]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_a_short_and_a_long_help(run: Any, command: tuple[str, ...]) -> None:
    short, long = run(*command, "-h"), run(*command, "--help")
    assert short.exit_code == long.exit_code == 0
    assert short.stdout == long.stdout
    assert " ".join(("Usage:", "negguide", *command)) in re.sub("root", "negguide", short.message)


def test_the_version_is_said(run: Any) -> None:
    outcome = run("--version")
    assert outcome.exit_code == 0
    assert outcome.stdout == f"negguide {negguide.__version__}\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("gen", ["generate"]),
        ("toyworld ev", ["evaluate"]),
        ("generate --off", ["--offload"]),
        ("generate --offload ", ["none", "model", "sequential", "group"]),
        ("generate --dtype b", ["bfloat16"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(words: str, wanted: list[str]) -> None:
    before = ["negguide", *words.split(" ")]
    where = {"COMP_WORDS": " ".join(before), "COMP_CWORD": str(len(before) - 1)}
    done = CliRunner().invoke(
        app, [], prog_name="negguide", env={"_NEGGUIDE_COMPLETE": "complete_bash", **where}
    )
    found = done.stdout.split()
    assert found == [name for name in found if name.startswith(before[-1])]
    assert set(wanted) <= set(found), done.output


def without_reader(*words: str, errors_too: bool = False) -> tuple[int, str]:
    """Run a command whose output nobody reads; its exit code and what it says on stderr."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "negguide", *words],
            stdout=write,
            stderr=write if errors_too else subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize(
    ("words", "pattern", "count", "errors_too"),
    [
        (("generate", "a bear", "--negative", "black glasses:2", *TWO), "*", 3, True),
        (("compare", "a bear", "--negative", "black glasses", "--explain", *TWO), "*.png", 3, False),
    ],
)
def test_all_files_are_there_when_nobody_reads_the_output(
    tmp_path: Path, words: tuple[str, ...], pattern: str, count: int, errors_too: bool
) -> None:
    code, said = without_reader(*words, "--out", str(tmp_path), errors_too=errors_too)
    assert code == 0
    assert "Traceback" not in said and "Exception ignored" not in said
    assert len(list(tmp_path.glob(pattern))) == count


def test_figures_are_there_when_nobody_reads_the_tables(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    words = ("--suite", "toyworld", "--limit", "2", "--json", str(file), "--device", "cpu")
    code, said = without_reader("evaluate", *words)
    assert (code, "Traceback" in said) == (0, False)
    assert json.loads(file.read_text())["results"]


def test_paths_are_printed_after_all_files_are_written(
    run: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[set[str]] = []

    def show(*lines: object) -> None:
        there.append({str(path) for path in Path("out").iterdir()} - {str(line) for line in lines})

    monkeypatch.setattr("negguide.cli.generate.show", show)
    outcome = run("generate", "a bear", "--model", tiny_model, *TWO)
    assert outcome.exit_code == 0, outcome.message
    assert there == [set()]


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder in which nobody can write."""
    if os.geteuid() != 0:
        folder = tmp_path / "closed"
        folder.mkdir()
        folder.chmod(0o500)
        return folder
    # root can write anywhere but here
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no folder in which root cannot write")
    return Path("/proc/self")


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a bear", "--out", "{}"),
        ("generate", "--from", "x.json", "--out", "{}"),
        ("compare", "a bear", "--out", "{}/below/this"),
        ("quickstart", "--out", "{}"),
        ("mine", "--out", "{}"),
        ("audit", "here.csv", "--out", "{}"),
        ("export", "set", "--format", "imagefolder", "--out", "{}/new"),
        ("finetune", "--train-data", "set", "--out", "{}"),
        ("evaluate", "--suite", "toyworld", "--json", "{}/x.json"),
        ("evaluate", "--suite", "toyworld", "--plot", "{}/new/x.png"),
        ("toyworld", "draw", "a bear", "--out", "{}/x.png"),
        ("toyworld", "sheet", "--out", "{}/x.png"),
        ("toyworld", "train", "--out", "{}"),
        ("toyworld", "evaluate", "--out", "{}/x.json"),
    ],
    ids=str,
)
def test_a_place_that_cannot_be_written_is_found_before_anything_is_loaded(
    run: Any, closed: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded")

    for place in (
        "negguide.models.load_pipeline",
        "negguide.cli.draw.load_pipeline",
        "negguide.vlm.models.load_model",
    ):
        monkeypatch.setattr(place, load)
    Path("here.csv").write_text("caption,negative_caption\n")
    outcome = run(*(word.replace("{}", str(closed)) for word in words))
    assert outcome.exit_code == 2
    assert f"no file can be written in {closed}: " in outcome.message
    assert {path.name for path in Path().iterdir()} <= {"here.csv", "closed"}


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a bear", "--out", "s3://bucket/pictures"),
        ("compare", "a bear", "--out", "s3://bucket/pictures"),
        ("views", "a bear", "--object", "s3://bucket/bear.glb"),
        ("toyworld", "draw", "a bear", "--out", "s3://bucket/x.png"),
    ],
    ids=str,
)
def test_an_address_is_no_folder_of_that_name(run: Any, words: tuple[str, ...]) -> None:
    pytest.importorskip("trimesh", reason="meshes need the extra 3d")
    outcome = run(*words)
    assert outcome.exit_code == 2 and "s3:/bucket" in outcome.message
    assert "this command writes on this machine alone; give a folder of it" in outcome.message
    assert not list(Path().iterdir())


def test_a_place_is_tried_without_leaving_anything_there(tmp_path: Path) -> None:
    output.check_folder(tmp_path / "new" / "folder")
    output.check_file(tmp_path / "new" / "file.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda path: output.check_folder(path / "file" / "below"), "is a file; give a folder"),
        (lambda path: output.check_file(path / "file" / "x.png"), "is a file, and no folder"),
        (lambda path: output.check_file(path, "--json"), "--json must be a file, got the folder"),
    ],
)
def test_a_file_in_place_of_a_folder_is_refused(
    tmp_path: Path, check: Callable[[Path], None], reason: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=reason):
        check(tmp_path)
