"""`negguide views`: a strip of one seed over the azimuths."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negguide import Negative, PerpNeg
from negguide.cli.draw import draw
from negguide.cli.job import Job
from negguide.methods import method_from_dict
from negguide.pictures import read_settings
from negguide.views import PRESETS, mixed_embeds, view_prompts

FAST = ("--steps", 2, "--device", "cpu")


def strip(run: Any, *args: object) -> Path:
    outcome = run("views", *args, *FAST)
    assert outcome.exit_code == 0, outcome.message
    (path,) = outcome.files
    return path


def test_rows_are_methods_and_columns_cameras(run: Any, tiny_model: Path) -> None:
    path = strip(
        run,
        "a bear",
        *("--model", tiny_model, "--preset", "toyworld", "--azimuths", "0,75,-75,180"),
        *("--methods", "plain, negative-prompt,perp-neg", "--seed", 3),
    )
    settings = read_settings(path)
    assert (settings["command"], settings["preset"], settings["azimuths"]) == (
        "views",
        "toyworld",
        [0, 75, -75, 180],
    )
    assert [row["label"] for row in settings["rows"]] == ["plain", "negative prompt", "Perp-Neg"]
    plain, classic, perp_neg = (row["cameras"] for row in settings["rows"])
    for cameras in (plain, classic, perp_neg):
        views = ["front", "side", "side", "back"]
        assert [camera["prompt"] for camera in cameras] == [f"a bear, {view} view" for view in views]
        assert all(camera["seeds"] == [3] and camera["steps"] == 2 for camera in cameras)
    assert all(camera["methods"] == [] and camera["negative_prompt"] == "" for camera in plain)
    assert [camera["negative_prompt"] for camera in classic] == ["", *["a bear, front view"] * 3]
    methods = [[method_from_dict(method) for method in camera["methods"]] for camera in perp_neg]
    front = [PerpNeg(Negative("a bear, front view", weight, stop=1.0)) for weight in (2 / 3, 3.0)]
    assert methods == [[], [front[0]], [front[0]], [front[1]]]
    assert settings["readings"] == []
    with Image.open(path) as image:
        sheet = np.asarray(image).astype(int)
    cells = np.array([[_cell(sheet, row, column) for column in range(4)] for row in range(3)])
    assert (cells[:, 1] == cells[:, 2]).all()  # mirrored cameras
    assert (cells[0, 0] == cells[1, 0]).all() and (
        cells[0, 0] == cells[2, 0]
    ).all()  # no negative at the front
    assert np.abs(cells[0, 3] - cells[1, 3]).max() > 2 and np.abs(cells[0, 3] - cells[2, 3]).max() > 2


def test_other_models_have_mixed_positives_unless_told(run: Any, tiny_model: Path) -> None:
    path = strip(run, "a bear", "--model", tiny_model, "--azimuths", "0,120", "--num-images", 2)
    settings = read_settings(path)
    assert settings["preset"] == "threestudio"
    (row,) = settings["rows"]
    front, between = row["cameras"]
    assert "positive" not in front
    assert between["positive"] == [
        ["a bear, side view", pytest.approx(2 / 3)],
        ["a bear, back view", pytest.approx(1 / 3)],
    ]
    negatives = between["methods"][0]["negatives"]
    assert all(negative.get("prompt_index") is None for negative in negatives)  # of both seeds
    weights = {n["prompt"]: n["weight"] for n in negatives}
    assert weights == {f"a bear, {v} view": w for v, w in view_prompts(120, preset="threestudio").negatives}


def test_a_mixed_prompt_of_one_view_is_that_view_in_words(tiny_model: Path) -> None:
    """For each seed of a call, beside Perp-Neg and beside a negative prompt."""
    job = Job(prompt="a bear in back view", model=str(tiny_model), steps=2, guidance_scale=5.0, seeds=(0, 1))
    jobs = [
        replace(job, methods=(PerpNeg(Negative("a bear in front view", 3.0, stop=1.0)),)),
        replace(job, negative_prompt="a bear in front view"),
    ]
    nearest = replace(PRESETS["toyworld"], name="mine")
    back = [view_prompts(180, preset=nearest)]

    def embeds(pipe: Any) -> Any:
        return mixed_embeds(pipe, "a bear", back, model="toyworld")

    words, mixed = draw(jobs), draw(jobs, embeds=[embeds, embeds])
    for one, other in zip(words, mixed, strict=True):
        assert len(other.images) == 2
        for image, same in zip(one.images, other.images, strict=True):
            assert np.abs(np.asarray(image).astype(int) - np.asarray(same).astype(int)).max() <= 2


def test_the_embedded_models_judge_reads_each_picture(run: Any, tiny_toyworld: None) -> None:
    outcome = run("views", "a bear", "--azimuths", "0,180", *FAST)
    assert outcome.exit_code == 0, outcome.message
    path = next(Path(line) for line in outcome.stdout.splitlines() if line.endswith(".png"))
    settings = read_settings(path)
    assert settings["preset"] == "toyworld"
    assert [camera["prompt"] for camera in settings["rows"][0]["cameras"]] == [
        "a bear in front view",
        "a bear in back view",
    ]
    ((first, second),) = settings["readings"]
    assert {first, second} <= {"front", "side", "back", "nobody", "?"}
    right = (first == "front") + (second == "back")
    assert f"Perp-Neg: the judge reads the view of the camera in {right} of 2 pictures" in outcome.message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--azimuths", "0,nan"), "--azimuths: azimuth must be finite, got nan"),
        (("--azimuths", "0;90"), "--azimuths must be numbers in degrees with commas between"),
        (("--elevation", "95"), "elevation must be from -90 to 90 degrees, got 95"),
        (("--preset", "paper", "--elevation", "80"), "--elevation 80 changes nothing with --preset paper"),
        (("--elevation", "70"), "view='overhead' is not in the toy world"),
        (
            ("--preset", "nerf"),
            "--preset: preset must be one of threestudio, stable-dreamfusion, paper, toyworld",
        ),
        (("--methods", "nag"), "'nag' is no row; use perp-neg, plain, negative-prompt"),
        (("--method", "plain,plain"), "names a row more than once"),
        (("--num-images", "0"), "--num-images must be at least 1"),
        (("--guidance-scale", "1"), "acts only with --guidance-scale above 1"),
        (
            ("--pipeline", "PixArtSigmaPipeline", "--preset", "paper"),
            "PixArt-Sigma has prompt_attention_mask",
        ),
        (("--pipeline", "StableDiffusionImg2ImgPipeline"), "Img2ImgPipeline starts from a picture"),
    ],
)
def test_wrong_options_are_refused_before_a_model_loads(
    run: Any, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("negguide.cli.draw.load_pipeline", None)
    outcome = run("views", "a bear", *args)
    assert outcome.exit_code == 2
    assert message in outcome.message


@pytest.mark.parametrize("prompt", ["a bear in side view", "a unicorn", "black glasses"])
def test_a_prompt_that_cannot_have_a_view_is_refused(
    run: Any, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setattr("negguide.cli.draw.load_pipeline", None)
    outcome = run("views", prompt)
    assert outcome.exit_code == 2
    assert f"prompt={prompt!r}" in outcome.message


def test_the_help_names_every_preset() -> None:
    from negguide.cli.views import views

    (option,) = inspect.get_annotations(views, eval_str=True)["preset"].__metadata__
    assert option.metavar == f"[{'|'.join(PRESETS)}]"


def _cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """The pixels of a cell of four columns: cells are 192 wide and high and 8 apart, 16 from the right edge."""
    right = sheet.shape[1] - 16 - (3 - column) * 200
    # the first line without any paper in the last column
    top = int(np.flatnonzero((sheet[:, -16 - 192 : -16] != 255).any(-1).all(-1))[0]) + row * 200
    return sheet[top : top + 192, right - 192 : right]
