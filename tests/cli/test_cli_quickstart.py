import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save
from typer.testing import CliRunner

import negguide.toyworld.models as toyworld_models
from negguide import NAG, NegToMe
from negguide.cli import app, quickstart
from negguide.models import defaults
from negguide.pictures import read_settings
from negguide.toyworld.domain import TOYWORLD_DEFAULTS
from negguide.toyworld.language import parse

NAMES = [
    "perp-neg.png",
    "perp-neg-fur.png",
    "perp-neg-view.png",
    "negtome.png",
    "negtome-reference.png",
    "nag-turbo.png",
    "views.png",
    "bear.gif",
]
FILES = [*NAMES, "bear.png"]


@pytest.fixture(scope="module")
def shown(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A quickstart on the tiny model: the folder that it wrote, and what it printed."""

    def load(name: str, dtype: torch.dtype = torch.float32, kind: Any = None) -> Any:
        return (kind or StableDiffusionPipeline).from_pretrained(tiny_model, dtype=dtype)

    folder = tmp_path_factory.mktemp("quickstart") / "shown"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toyworld_models, "load_pipeline", load)
        patch.setattr(toyworld_models, "folder_of", lambda name: tiny_model)
        result = CliRunner().invoke(app, ["quickstart", "--quick", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.stdout


@pytest.fixture
def pictures(shown: tuple[Path, str]) -> dict[str, Any]:
    """The settings in each picture, by file name."""
    return {path.name: read_settings(path) for path in shown[0].glob("*.png")}


def test_perp_neg_stands_beside_plain_and_the_classic_negative_prompt(pictures: dict[str, Any]) -> None:
    for name in NAMES[:3]:
        plain, classic, perp_neg = pictures[name]["jobs"]
        assert not plain["methods"] and not plain["negative_prompt"]
        (method,) = perp_neg["methods"]
        assert " and ".join(n["prompt"] for n in method["negatives"]) == classic["negative_prompt"]
        assert plain["prompt"] == classic["prompt"] == perp_neg["prompt"]
        assert plain["seeds"] == classic["seeds"] == perp_neg["seeds"] == [0, 1]


def test_nag_is_shown_without_guidance_in_four_steps(pictures: dict[str, Any]) -> None:
    plain, nag = pictures["nag-turbo.png"]["jobs"]
    assert not plain["methods"] and not plain["negative_prompt"]
    assert plain["model"] == nag["model"] == "toyworld-flow-turbo"
    assert plain["guidance_scale"] == nag["guidance_scale"] == 1.0 and plain["steps"] == nag["steps"] == 4
    suited = defaults("toyworld-flow-turbo").arguments("nag")
    assert nag["methods"] == [NAG("a brown bear wearing a hat", **suited).to_dict()]


def test_negtome_is_shown_on_a_batch_and_with_the_trademark_as_reference(pictures: dict[str, Any]) -> None:
    plain, pushed = pictures["negtome.png"]["jobs"]
    assert not plain["methods"]
    assert pushed["methods"] == [NegToMe(**TOYWORLD_DEFAULTS.negtome).to_dict()]
    plain, pushed = pictures["negtome-reference.png"]["jobs"]
    assert not plain["methods"] and parse(plain["prompt"]).explorer
    assert [image["size"] for image in pushed["methods"][0]["reference"]] == [[64, 64]] * 2


def test_views_stand_beside_words_and_the_classic_negative_prompt(pictures: dict[str, Any]) -> None:
    strip = pictures["views.png"]
    assert [row["label"] for row in strip["rows"]] == ["plain", "negative prompt", "Perp-Neg"]
    assert strip["azimuths"] == [float(degrees) for degrees in range(0, 360, 30)]
    plain, classic, perp_neg = (row["cameras"][strip["azimuths"].index(180)] for row in strip["rows"])
    assert {one["prompt"] for one in (plain, classic, perp_neg)} == {"a bear in back view"}
    assert not plain["methods"] and not plain["negative_prompt"]
    assert (
        classic["negative_prompt"]
        == perp_neg["methods"][0]["negatives"][0]["prompt"]
        == "a bear in front view"
    )


def test_the_solid_turns(shown: tuple[Path, str], pictures: dict[str, Any]) -> None:
    with Image.open(shown[0] / "bear.gif") as turntable:
        assert turntable.n_frames > 12
    assert pictures["bear.png"]["prompt"] == "a bear in a meadow"
    assert len(pictures["bear.png"]["readings"]) == 12


def test_it_says_where_the_pictures_are_and_what_to_look_at(shown: tuple[Path, str]) -> None:
    folder, printed = shown
    lines = printed.splitlines()
    assert lines[0::3] == [str(folder / name) for name in NAMES]
    assert all(line.strip().startswith("Look at ") for line in lines[2::3])


def test_what_is_left_of_another_run_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    left = save({"done": torch.tensor(1)}, {"fingerprint": "of another version"})
    (tmp_path / "bear.fit").write_bytes(left)
    arguments = ["quickstart", "--quick", "--out", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "1000"}).invoke(app, arguments)
    assert result.exit_code == 2 and "bear.fit is of a run with other settings; delete it" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["bear.fit"]


def test_its_prompts_are_captions_of_the_toy_world() -> None:
    for text in (
        quickstart.GLASSES_PROMPT,
        *quickstart.GLASSES_NEGATIVES,
        quickstart.FUR_PROMPT,
        quickstart.FUR_NEGATIVE,
        quickstart.VIEW_PROMPT,
        quickstart.VIEW_NEGATIVE,
        quickstart.BATCH_PROMPT,
        quickstart.REFERENCE_PROMPT,
        quickstart.AROUND_PROMPT,
    ):
        assert parse(text).characters or parse(text).explorer


def test_the_embedded_model_draws_the_quickstart_in_a_fresh_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "negguide", "quickstart", "--quick"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    with Image.open(tmp_path / "out" / "perp-neg.png") as image:
        assert image.width > 3 * 192
        assert np.asarray(image).std() > 30
