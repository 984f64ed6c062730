"""Methods and a model family that another package brings, on the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negguide import models
from negguide.methods import method_from_dict
from negguide.pictures import read_settings

REPOSITORY = Path(__file__).parents[2]
FAST = ("--steps", 5, "--device", "cpu")


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path)).astype(int)


def test_the_tables_show_what_it_brings(run: Any, negguide_extra: Any) -> None:
    methods = run("methods")
    assert methods.exit_code == 0, methods.message
    assert (
        "--method minus Minus attention subtracts the negative's attention as it is scale 0.25, window 0-1 tests"
        in methods.message
    )
    assert "--method whole Whole score subtracts the whole negative; needs guidance" in methods.message
    assert re.search("Elsewhere float16; NegToMe [^;]* ElsewherePipeline 7.5", run("models").message)


@pytest.mark.usefixtures("negguide_extra")
@pytest.mark.parametrize(
    ("options", "guidance_scale"),
    [(("--method", "minus", "--scale", 0.5), 1), (("--method", "whole", "--refresh-every", 2), 4)],
)
def test_its_methods_draw_and_are_replayed(
    run: Any, tiny_model: Path, negguide_extra: Any, options: tuple[Any, ...], guidance_scale: float
) -> None:
    model = ("--model", tiny_model, "--guidance-scale", guidance_scale, *FAST)
    plain = run("generate", "a bear", *model, "--out", "plain")
    first = run("generate", "a bear", "--negative", "black glasses:2", *options, *model, "--out", "first")
    assert first.exit_code == 0, first.message
    method = method_from_dict(read_settings(first.files[0])["methods"][0])
    assert type(method) is getattr(negguide_extra, options[1].capitalize())
    assert np.abs(pixels(first.files[0]) - pixels(plain.files[0])).max() > 5
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message


@pytest.mark.usefixtures("negguide_extra")
def test_its_methods_are_columns(run: Any, tiny_model: Path) -> None:
    chosen = ("--methods", "whole,whole+minus,minus+negtome", "--refresh-every", 2)
    outcome = run("compare", "a bear", "--negative", "hat", *chosen, "--model", tiny_model, *FAST)
    assert outcome.exit_code == 0, outcome.message
    columns = read_settings(outcome.files[0])["columns"]
    assert [column["label"] for column in columns] == ["Whole", "Whole+Minus", "Minus+NegToMe"]
    assert columns[0]["methods"][0]["refresh_every"] == 2


@pytest.mark.usefixtures("negguide_extra")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("generate", "--method", "magic"),
            "must be one of perp-neg, whole, minus, nag, nasa, ong, vsf, got 'magic'",
        ),
        (
            ("generate", "--method", "whole", "--joint"),
            "--joint is of perp-neg; with --method whole leave it",
        ),
        (("generate", "--method", "whole", "--scale", 2), "--scale is of minus, nag, nasa, ong and vsf;"),
        (
            ("generate", "--method", "whole", "--guidance-scale", 1),
            "--method minus, nag, nasa, ong or vsf acts without",
        ),
        (("compare", "--methods", "whole+perp-neg"), "'whole+perp-neg' is no column"),
        (("compare", "--methods", "nag", "--refresh-every", 2), "add perp-neg or whole to --methods"),
        (("compare", "--methods", "whole", "--joint"), "--joint acts on Perp-Neg, which is in no column"),
    ],
    ids=str,
)
def test_messages_count_its_methods_in(run: Any, arguments: tuple[Any, ...], reason: str) -> None:
    command, *rest = arguments
    outcome = run(command, "a bear", "--negative", "hat", *rest)
    assert outcome.exit_code == 2
    assert reason in outcome.message


def test_a_folder_of_its_pipeline_is_loaded_as_that_pipeline(
    run: Any, tiny_model: Path, tmp_path: Path, negguide_extra: Any
) -> None:
    folder = tmp_path / "elsewhere"
    negguide_extra.ElsewherePipeline.from_pretrained(tiny_model).save_pretrained(folder)
    pipe: Any = models.load_pipeline(str(folder))
    assert isinstance(pipe, negguide_extra.ElsewherePipeline) and pipe.family is negguide_extra.FAMILY
    outcome = run("generate", "a bear", "--negative", "hat", "--model", folder, *FAST)
    assert outcome.exit_code == 0, outcome.message
    # other models are found as before
    assert models.load_pipeline(str(tiny_model)).family.name == "Stable Diffusion 1.x/2.x"


def test_an_installed_package_is_found_by_its_entry_point(tiny_model: Path, tmp_path: Path) -> None:
    installed = tmp_path / "negguide_extra-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: negguide-extra\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[negguide]\nextra = negguide_extra:register\n")
    path = os.pathsep.join(map(str, (tmp_path, REPOSITORY / "tests" / "helpers", REPOSITORY)))
    words = ("generate", "a bear", "--negative", "hat", "--method", "minus", "--model", tiny_model, *FAST)
    done = subprocess.run(
        [sys.executable, "-m", "negguide", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    image, _ = done.stdout.splitlines()
    assert read_settings(tmp_path / image)["methods"][0]["method"] == "Minus"
