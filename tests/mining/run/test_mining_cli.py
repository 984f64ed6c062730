"""The command `negguide mine`, on a tiny random model."""

import json
import os
import re
import shutil
import subprocess
import sys

import mining_fakes as fakes
import pytest
import typer
from typer.testing import CliRunner

from negguide.cli.errors import CleanErrors
from negguide.cli.mine import mine
from negguide.mining.build_text import Built
from negguide.mining.shards import read_set, read_settings
from negguide.mining.sources import open_source
from negguide.toyworld.models import CLIP

app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
app.command()(mine)
app.callback()(lambda: None)


@pytest.fixture
def command(tmp_path, tiny_model, monkeypatch):
    """`command("--steps", 2)`: mines a few pairs into ./set; whatever the random model paints is kept or not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def invoke(*args: object):
        common = (
            "mine",
            "--out",
            "set",
            "--model",
            tiny_model,
            "--steps",
            2,
            "--device",
            "cpu",
            "--retries",
            1,
        )
        result = CliRunner().invoke(app, [str(arg) for arg in (*common, "--data", "toyworld:6", *args)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output)

    return invoke


def finished(code, output):
    """The random model may well paint nothing that is kept."""
    return code == (1 if "holds no pair" in output else 0)


def test_a_set_is_made_and_the_funnel_is_shown(command, tmp_path, tiny_model):
    code, output = command("--absolute-margin", 0, "--shard-size", 4)
    assert finished(code, output), output
    assert "6 pairs read, 0 bad" in output and "images painted in" in output and "written" in output
    folder = tmp_path / "set"
    funnel = json.loads((folder / "funnel.json").read_text())
    assert funnel["sources"]["read"] == 6 and funnel["images"] > 0
    assert len(list(read_set(folder))) == sum(funnel["stages"]["written"].values())
    assert (folder / "README.md").exists() and not (folder / ".claims").exists()
    made = read_settings(folder)
    assert (made.model, made.steps, made.dtype, made.absolute_margin) == (tiny_model.name, 2, "float32", 0)
    assert made.data["name"] == "toyworld:6" and made.judge == "toyworld" and made.guidance_scale == 7.5
    # the same command has nothing left to do
    code, output = command("--absolute-margin", 0, "--shard-size", 4)
    assert finished(code, output) and "0 images painted" in output
    code, output = command("--absolute-margin", 0, "--shard-size", 4, "--seed", 1)
    assert code == 2 and "made with other settings (seed: 0 there, 1 now)" in output


def test_a_set_without_a_pair_is_no_success(command, tmp_path):
    code, output = command("--max-score", 0)
    assert code == 1, output
    assert (
        "set holds no pair: of 6 pairs read, 6 had an edit and none was kept; most were lost to: " in output
    )
    assert "(verified, " in output and "give a new folder for other settings" in output


def test_captions_that_the_judge_cannot_read_are_counted(command, tmp_path):
    fakes.sources(1)[0].load().save(tmp_path / "a.png")
    (tmp_path / "c.tsv").write_text("filepath\ttitle\na.png\ta dog under a skyscraper\n")
    code, output = command(
        "--data", "c.tsv", "--judge", "clip:toyworld", "--mode", "edit", "--method", "plain"
    )
    assert code == 1, output
    assert "the judge cannot read the caption (verified, 1)" in output


@pytest.mark.parametrize("mode", ["edit", "inpaint"])
def test_images_can_be_changed_instead(command, tmp_path, mode):
    code, output = command("--mode", mode, "--method", "plain", "--limit", 2, "--strength", 1.0)
    assert finished(code, output), output
    assert read_settings(tmp_path / "set").mode == mode
    rows = [json.loads(line) for line in (tmp_path / "set" / "rejects" / "00000000.jsonl").open()]
    assert all(row["reason"] for row in rows)


def test_diversify_and_another_judge(command, tmp_path):
    code, output = command(
        "--diversify", "--per-item", 2, "--judge", "clip:toyworld", "--limit", 2, "--steps", 5
    )
    assert finished(code, output), output
    made = read_settings(tmp_path / "set")
    assert (
        made.judge == "clip:toyworld"
        and made.diversify["reference"] == "others"
        and made.absolute_margin == 0
    )


def test_wrong_options_are_one_clean_message(command, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(CLIP, folder)
    (tmp_path / "captions.tsv").write_text("filepath\ttitle\n")
    for args, message in (
        (("--categories", "colour"), "--categories must be some of object"),
        (("--judge", "blip"), "--judge 'blip' is not known"),
        (
            ("--judge", "clip:toyworld", "--train-model", folder),
            "cannot check the data that it is to learn from",
        ),
        (("--data", "captions.tsv"), "--judge is needed for data that are not of the toy world"),
        (("--data", "captions.tsv", "--judge", "toyworld"), "reads pictures of the toy world alone"),
        (("--data", "nothing-here.tsv"), "nothing-here.tsv"),
        (("--backend", "poem"), "backend='poem'"),
        (("--backend", "llm"), "--backend llm needs a model: name one with --backend-model"),
        (("--backend-model", "a/b"), "--backend-model 'a/b' has no meaning for --backend rules"),
        (("--backend", "fill-mask", "--endpoint", "http://x"), "--endpoint 'http://x' has no meaning"),
        (("--llm-max-tokens", 9), "--llm-max-tokens 9 has no meaning for --backend rules; it is for llm"),
        (
            ("--backend", "llm", "--backend-model", "m", "--llm-concurrency", 2),
            "--llm-concurrency 2 has no meaning without --endpoint",
        ),
        (
            ("--backend", "fill-mask", "--views"),
            "--views has no meaning for --backend fill-mask; it is for rules",
        ),
        (
            ("--data", "captions.tsv", "--judge", "clip:toyworld", "--views"),
            "--views is for captions of the embedded world",
        ),
        (
            ("--strength", 0.5),
            "--strength 0.5 has no meaning with --mode generate; it is for --mode edit and inp",
        ),
        (("--region", "column", "--mode", "edit"), "--region column has no meaning with --mode edit"),
        (("--max-outside-change", 0.1), "--max-outside-change 0.1 has no meaning with --mode generate"),
        (("--weight", 2, "--method", "plain"), "--weight 2.0 has no meaning with --method plain; it is for"),
        (("--diversify",), "--per-item 1 each has but one"),
        (("--method", "nag"), "--method must be one of perp-neg"),
        (("--steps", 1), "steps=1 are too few"),
        (("--guidance-scale", 1), "guidance_scale=1.0 must be above 1"),
        (("--model", "nobody/nothing"), "cannot be loaded"),
        (("--split", "train"), "has no meaning for toyworld:6"),
        (("--max-score", 2), "max_score=2.0 must be from 0 to 1"),
        (("--shard-format", "zip"), "--shard-format must be one of tar, parquet, got 'zip'"),
        (("--shards-together", 0), "--shards-together must be a whole number >= 1, got 0"),
        (("--engine", "spark"), "--engine must be local or ray, got 'spark'"),
        (("--actors", 2), "--actors 2 has no meaning without --engine ray"),
        (("--engine", "ray", "--judge-gpus", -1), "--judge-gpus must be a number >= 0, got -1.0"),
    ):
        code, output = command(*args)
        assert code == 2, (args, output)
        assert message in output, (args, output)
        assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("args", "device"),
    [
        (("fill-mask", "--backend-model", "m"), "cpu"),
        (("llm", "--backend-model", "m"), "cpu"),
        (("llm", "--backend-model", "m", "--endpoint", "http://x"), None),
    ],
)
def test_a_planners_model_runs_where_the_others_do(command, monkeypatch, args, device):
    asked = {}

    def planner(backend, **options):
        asked.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("negguide.mining.build_text.make_planner", planner)
    assert command("--backend", *args)[0] == 2
    assert asked["model"] == "m" and asked.get("device") == device


def test_characters_are_turned_around_when_asked(command, monkeypatch):
    asked = {}

    def planner(backend, **options):
        asked.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("negguide.mining.build_text.make_planner", planner)
    code, output = command("--views")
    assert code == 2 and "enough" in output and asked == {"world": "toyworld", "views": True}


def test_a_finished_set_is_audited_once_for_its_card(command, tmp_path, monkeypatch):
    source, chosen = open_source("toyworld:40"), fakes.settings(controls=0.5)
    built = Built(source, chosen, fakes.miner(chosen), {})
    monkeypatch.setattr("negguide.mining.build.build", lambda **options: built)
    code, output = command()
    assert code == 0 and "as mined" in output and "captions: " in output
    card = (tmp_path / "set" / "README.md").read_text()
    assert "- as mined" in card and "audit/audit.png" in card and "Not audited" not in card
    report = tmp_path / "set" / "audit" / "report.md"
    report.write_text("looked at")
    code, output = command()
    assert code == 0 and report.read_text() == "looked at"


def test_python_m_negguide_runs_in_several_processes(tmp_path, tiny_model):
    command = [sys.executable, "-m", "negguide", "mine", "--out", tmp_path / "set", "--model", tiny_model]
    options = [
        "--data",
        "toyworld:4",
        "--steps",
        "2",
        "--shard-size",
        "2",
        "--retries",
        "0",
        "--device",
        "cpu",
    ]
    processes = [
        subprocess.Popen(
            [*command, *options],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert all(
        finished(process.returncode, " ".join(error.split()))
        for process, error in zip(processes, errors, strict=True)
    ), errors
    assert json.loads((tmp_path / "set" / "funnel.json").read_text())["sources"]["read"] == 4
