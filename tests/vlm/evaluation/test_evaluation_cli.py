"""`negguide evaluate` as it is typed."""

import json
import re

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from negguide.cli import evaluate
from negguide.cli.errors import CleanErrors


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    app.command()(evaluate.evaluate)
    app.callback()(lambda: None)

    def invoke(*args):
        result = CliRunner().invoke(app, ["evaluate", *map(str, args)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output)

    return invoke


def test_a_table_a_file_and_a_picture(run, tmp_path):
    code, stdout, output = run(
        *("--suite", "toyworld", "--limit", 3, "--json", "out/scores.json", "--plot", "out/scores.png")
    )
    assert code == 0
    assert "toyworld: toyworld, percent [95% interval]" in stdout and "negation" in stdout
    assert "wrote out/scores.json" in output and "wrote out/scores.png" in output
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    (results,) = content["results"]
    group = next(r for r in results["rows"] if (r["metric"], r["category"]) == ("group", "all"))
    assert group["n"] == 24 and f"{100 * group['value']:.1f}" in stdout
    assert results["limit"] == 3 and results["made_by"]["negguide"]
    assert Image.open(tmp_path / "out" / "scores.png").width > 800


def test_two_models_and_two_suites_side_by_side(run, tmp_path, tiny_folders):
    (tmp_path / "sc").mkdir()
    entry = {"filename": "1.png", "caption": "a brown bear", "negative_caption": "a brown cat"}
    (tmp_path / "sc" / "replace_obj.json").write_text(json.dumps({"0": entry}))
    (tmp_path / "sc" / "val2017").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "sc" / "val2017" / "1.png")
    code, stdout, _ = run(
        *("--model", tiny_folders["siglip"], "--compare", "toyworld", "--suite", "toyworld"),
        *("--suite", f"sugarcrepe:{tmp_path / 'sc'}", "--limit", 2, "--json", "both.json"),
    )
    assert code == 0
    assert "points more than toyworld" in stdout and "sugarcrepe" in stdout
    content = json.loads((tmp_path / "both.json").read_text())
    before, after = content["results"]
    assert (before["model"], after["model"]) == ("toyworld", str(tiny_folders["siglip"]))
    change = next(
        c for c in content["changes"] if (c["suite"], c["metric"]) == ("toyworld/zero-shot", "accuracy")
    )
    values = [
        next(r["value"] for r in found["rows"] if r["suite"] == "toyworld/zero-shot")
        for found in (before, after)
    ]
    assert change["change"] == pytest.approx(values[1] - values[0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--suite", "imagenet"), "suite='imagenet' is unknown; use one of: toyworld, toyworld-2, aro:PATH"),
        (("--suite", "winoground:/no/such"), "there is no /no/such"),
        (("--suite", "toyworld", "--limit", "1", "--model", "nowhere"), "model='nowhere' is unknown"),
        (("--suite", "toyworld", "--device", "abacus"), "--device must be auto or one of"),
        (("--suite", "toyworld", "--json", "."), "--json must be a file, got the folder '.'"),
        (("--suite", "toyworld", "--suite", "toyworld", "--limit", "1"), "have a name twice"),
        (("--suite", "toyworld", "--limit", "0"), "greater than or equal to 1"),
        ((), "--suite"),
    ],
)
def test_wrong_input_is_one_message_and_code_2(run, args, message):
    code, _, output = run(*args)
    assert code == 2 and message in output and "Traceback" not in output
