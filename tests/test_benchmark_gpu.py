"""The GPU benchmark has the published models' shapes, and runs through in small ones."""

import json
import sys
from argparse import Namespace

import gpu
import gpu_models
import pytest
import torch
from PIL import Image

CPU = torch.device("cpu")


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    gpu.main()


def test_the_denoisers_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        unet = gpu_models.UNet2DConditionModel(**gpu_models.UNET)
        transformer = gpu_models.FluxTransformer2DModel(**gpu_models.FLUX)
    assert unet.num_parameters() == 2_567_463_684
    assert transformer.num_parameters() == 11_901_408_320


def test_one_matrix_finds_what_tiles_find():
    source, reference = torch.randn(2, 9, 16), torch.randn(2, 27, 16)
    cosine, index = gpu.matrix(source, reference, None)
    expected, expected_index = gpu.tiles(source, reference, None)
    torch.testing.assert_close(cosine, expected)
    assert torch.equal(index, expected_index)
    with pytest.raises(ValueError, match="reference_mask must be None"):
        gpu.matrix(source, reference, torch.ones(2, 27).bool())


def test_without_a_gpu_it_says_so_and_ends_with_code_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--out", tmp_path)
    assert ended.value.code == 2
    assert "needs a CUDA GPU and there is none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--pairs", "--steps"])
def test_too_few_runs_or_steps_are_refused(flag, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--tiny", flag, 1, "--out", tmp_path)
    assert ended.value.code == 2
    assert f"{flag} must be at least 2, got 1" in capsys.readouterr().err


def test_a_tiny_run_measures_every_method_and_goes_on_where_it_was(monkeypatch, capsys, tmp_path):
    arguments = ("--tiny", "--model", "FLUX.1-dev", "--pairs", 2, "--steps", 2, "--out", tmp_path)
    run(monkeypatch, *arguments)
    content = json.loads((tmp_path / "gpu-tiny.json").read_text())
    assert content["settings"]["gpu"] is None and content["settings"]["images"] == 4
    rows = {(row["model"], row["name"]): row for row in content["rows"]}
    names = {name for model, name in rows if model == "FLUX.1-dev"}
    assert names == {
        "Perp-Neg, in one batch",
        "Perp-Neg, one by one",
        "NegToMe, one matrix",
        "NegToMe, tiles",
        "NAG",
    }
    pushed = rows["FLUX.1-dev", "NegToMe, tiles"]
    assert len(pushed["ratios"]) == 2 and min(pushed["ratios"]) > 0
    assert pushed["whole_run"] == pytest.approx(1 + 0.28 * (pushed["ratio"] - 1))
    assert rows["FLUX.1-dev 1x16x32", "tiles"]["agree"] > 0.9
    with Image.open(tmp_path / "gpu-tiny.png") as picture:
        assert picture.width > 300
    printed = capsys.readouterr().out
    assert "NegToMe, one matrix" in printed and "matching alone" in printed

    def again(*_: object) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(gpu, "compare", again)
    run(monkeypatch, *arguments)
    assert json.loads((tmp_path / "gpu-tiny.json").read_text())["rows"] == content["rows"]


def test_the_matching_of_a_row_is_the_one_that_runs(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments[0].shape)
        return gpu.tiles(*arguments)

    monkeypatch.setitem(gpu.MATCHING, "one matrix", counted)
    model = gpu.MODELS["SDXL"]
    pipe = gpu.negguide.from_pipe(model.build(CPU, True))
    pipe.set_progress_bar_config(disable=True)
    case = next(case for case in gpu.cases(model, ["one matrix"]) if case.matching)
    row = gpu.measure(pipe, model, case, CPU, Namespace(steps=2, size=64, pairs=2))
    # 3 runs of 2 steps, 4 images a step, in each of the up blocks' self-attentions
    assert len(calls) % (3 * 2 * 4) == 0 and len(calls) > 0
    assert row["peak"] is None and row["window"] == 0.2
