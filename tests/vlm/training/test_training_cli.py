"""`negguide finetune` on the command line, and two processes of it."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finetune_command
import pytest
import torch
from finetune_command import app
from safetensors.torch import load_file
from transformers import CLIPModel
from typer.testing import CliRunner

from negguide.vlm.training.log import Log


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "1000")

    def invoke(*args: object) -> Any:
        result = CliRunner().invoke(app, ["finetune", "--cpu", *[str(arg) for arg in args]])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_the_embedded_clip_is_tuned_and_its_gains_and_losses_are_printed(
    run: Callable[..., Any], triplet_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    fast = ("--epochs", 1, "--batch-size", 20, "--suite-limit", 4)
    result = run("--train-data", triplet_set, "--out", out, *fast)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    table = re.sub(r"[^\w/@+\-. ]+", " ", result.stderr)
    for row in (
        "held out/pairs +group",
        "toyworld +group",
        "toyworld +hard positives",
        "toyworld/zero-shot +accuracy",
    ):
        assert re.search(rf"{row} +\d+\.\d +\d+\.\d +[+-]\d+\.\d", table), row
    assert re.search(r"toyworld/retrieval +text to image R@1 +\d", table)
    assert CLIPModel.from_pretrained(out).config.projection_dim == 128


def test_wrong_input_is_one_message_and_exit_code_2(
    run: Callable[..., Any], triplet_set: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    for args, message in (
        (("--train-data", tmp_path / "none"), "does not exist; give a set of negguide mine"),
        (("--train-data", triplet_set, "--loss", "hinge"), "loss='hinge' is not known"),
        (("--train-data", triplet_set, "--model", tmp_path), "is a folder without config.json"),
        (("--train-data", triplet_set, "--model", tiny_clip, "--batch-size", 99), "larger than the set"),
        (("--train-data", triplet_set, "--suite", "nothing"), "suite='nothing' is unknown"),
    ):
        result = run(*args, "--out", tmp_path / "out")
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert message in re.sub(r"[│\s]+", " ", result.output)
    assert not (tmp_path / "out").exists()


def test_the_same_command_with_resume_goes_on_and_other_settings_are_refused(
    run: Callable[..., Any], triplet_set: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    command = ("--train-data", triplet_set, "--model", tiny_clip, "--batch-size", 14, "--epochs", 1)
    out = ("--out", tmp_path / "out", "--resume", "latest")
    first = run(*command, *out)  # there is nothing to go on from yet
    assert first.exit_code == 0 and "going on from" not in first.stderr
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    again = run(*command, *out)
    assert again.exit_code == 0 and "going on from" in again.stderr and "step-00000003" in again.stderr
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    other = run(*command, *out, "--lr", 0.5)
    assert other.exit_code == 2 and "made with other settings: lr=0.5" in re.sub(r"[│\s]+", " ", other.output)


def test_two_processes_train_to_the_weights_of_one(
    run: Callable[..., Any], triplet_set: Path, steady_clip: Path, tmp_path: Path
) -> None:
    shared = [
        "--train-data",
        triplet_set,
        "--model",
        steady_clip,
        "--epochs",
        1,
        "--lr",
        1e-3,
        "--distill",
        1.0,
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "1",
    }
    args = ["finetune", "--cpu", *shared, "--batch-size", 6, "--accum-freq", 2, "--out", tmp_path / "two"]
    running = [
        subprocess.Popen(
            [sys.executable, finetune_command.__file__, *map(str, args)],
            env={**os.environ, **common, **rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    said = []
    for process in running:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        said.append(out.strip())
    assert said == [str(tmp_path / "two"), ""]
    result = run(*shared, "--batch-size", 24, "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    before = load_file(steady_clip / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert any(not torch.equal(one[name], before[name]) for name in one)


def test_accelerate_launch_starts_all_processes(triplet_set: Path, tiny_clip: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    finetune = ["--train-data", triplet_set, "--model", tiny_clip, "--epochs", 1, "--batch-size", 7]
    done = subprocess.run(
        [
            sys.executable,
            *launch,
            "-m",
            "negguide",
            "finetune",
            "--cpu",
            *map(str, finetune),
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    CLIPModel.from_pretrained(tmp_path / "out")
    # 43 rows, 14 in a step of both
    assert [line["step"] for line in Log(tmp_path / "out" / "log.jsonl").lines() if "loss" in line] == [
        1,
        2,
        3,
    ]
