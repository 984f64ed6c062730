import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from negguide import NegGuideStableDiffusionPipeline, models
from negguide.integration.defaults import TRUE_CFG_SCALE
from negguide.integration.families import supported_pipelines
from negguide.toyworld.domain import EMBEDDED, TOYWORLD_DEFAULTS


def test_a_folder_is_loaded_with_negative_guidance(tiny_model: Path) -> None:
    pipe = models.load_pipeline(str(tiny_model), dtype=torch.bfloat16)
    assert isinstance(pipe, NegGuideStableDiffusionPipeline)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


@pytest.mark.usefixtures("tiny_toyworld")
def test_toyworld_is_the_default_and_comes_in_float32() -> None:
    pipe = models.load_pipeline()
    assert isinstance(pipe, NegGuideStableDiffusionPipeline)
    assert pipe.unet.dtype == torch.float32


def test_a_guided_pipeline_that_was_saved_is_a_folder_like_any_other(
    run: Any, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "guided"
    models.load_pipeline(str(tiny_model)).save_pretrained(folder)
    plain = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(plain) is diffusers.StableDiffusionPipeline
    assert type(diffusers.AutoPipelineForText2Image.from_pretrained(folder)) is type(plain)
    drawn = [
        run("generate", "a bear", "--negative", "hat", "--model", model, "--steps", 3, "--device", "cpu")
        for model in (folder, tiny_model)
    ]
    assert [outcome.exit_code for outcome in drawn] == [0, 0], drawn[0].message
    images = [Image.open(outcome.files[0]).tobytes() for outcome in drawn]
    assert images[0] == images[1]


@pytest.mark.parametrize(
    "model", ["", "nosuch", "./no/such", "/no/such", "a/b/c", "~nobody/x", "owner/na me"]
)
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused_by_name(model: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"model={model!r} is unknown")) as caught:
        models.load_pipeline(model)
    right = (
        f"use {', '.join(map(repr, EMBEDDED))}, a folder that save_pretrained wrote, or a hub id (owner/name)"
    )
    assert right in str(caught.value)


def test_a_model_that_is_no_string_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be 'toyworld', .* got 7"):
        models.load_pipeline(7)  # type: ignore[arg-type]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder without model_index\.json"):
        models.load_pipeline(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"model='owner/no-such-model' cannot be loaded: .*; use 'toyworld', .*, a folder"
    ):
        models.load_pipeline("owner/no-such-model")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model_index.json").write_text("{}"),
        lambda folder: (folder / "model_index.json").write_text("no json"),
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights"),
        lambda folder: shutil.rmtree(folder / "vae"),
    ],
    ids=["empty index", "broken index", "broken weights", "missing part"],
)
def test_a_broken_model_is_refused_in_one_line(
    damage: Callable[[Path], Any], tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    damage(folder)
    with pytest.raises(ValueError, match="cannot be loaded: ") as caught:
        models.load_pipeline(str(folder))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_weights_that_are_no_safetensors_are_not_loaded(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"cannot be loaded: .*safetensors"):
        models.load_pipeline(str(folder))


def test_a_pipeline_of_another_family_is_refused_with_those_that_are_supported(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "StableDiffusionPanoramaPipeline"})
    )
    with pytest.raises(
        ValueError, match=r"is not supported: .*Panorama.*supported.*: .*StableDiffusionPipeline"
    ):
        models.load_pipeline(str(folder))


def test_a_folder_is_stored_with_its_full_path(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert models.check_model(tiny_model.name) == str(tiny_model.resolve())
    assert models.check_model("toyworld") == "toyworld"
    assert models.check_model("owner/name") == "owner/name"


def test_a_revision_follows_the_weights_and_not_the_place(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    before = models.revision(str(folder))
    assert before == models.revision(str(tiny_model))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert models.revision(str(folder)) != before


def test_a_hub_model_that_is_not_here_has_no_revision() -> None:
    assert models.revision("owner/no-such-model") is None


@pytest.mark.parametrize(
    ("pipeline", "plain", "guided"),
    [
        ("StableDiffusionPipeline", 7.5, 7.5),
        ("StableDiffusionXLPipeline", 5.0, 5.0),
        ("FluxPipeline", 1.0, TRUE_CFG_SCALE),
        ("Flux2Pipeline", 4.0, 4.0),
        ("QwenImagePipeline", 1.0, 4.0),
        ("ZImagePipeline", 5.0, 5.0),
    ],
)
def test_the_guidance_scale_is_the_pipelines_own_and_true_cfg_is_off_unless_it_is_needed(
    pipeline: str, plain: float, guided: float
) -> None:
    found = getattr(diffusers, pipeline)
    assert models.own_guidance_scale(found, guided=False) == plain
    assert models.own_guidance_scale(found, guided=True) == guided


def test_pipelines_that_need_more_than_words_say_why() -> None:
    assert models.not_from_words(diffusers.FluxPipeline) is None
    assert models.not_from_words(diffusers.WanPipeline) == "makes videos"
    assert models.not_from_words(diffusers.StableDiffusionXLImg2ImgPipeline) == "starts from a picture"
    assert models.not_from_words(diffusers.StableDiffusionControlNetPipeline) == "starts from a picture"


def test_only_toyworld_departs_from_the_published_defaults() -> None:
    assert models.defaults("toyworld") == TOYWORLD_DEFAULTS != models.defaults("owner/name")
    assert dict(models.defaults("owner/name").negtome) == {}


@pytest.mark.parametrize(
    ("pipeline", "takes", "needs"),
    [
        ("StableDiffusionXLPipeline", {}, ()),
        ("StableDiffusionXLImg2ImgPipeline", {"image": "image"}, ("image",)),
        (
            "StableDiffusionXLInpaintPipeline",
            {"image": "image", "mask_image": "mask_image"},
            ("image", "mask_image"),
        ),
        ("StableDiffusionXLControlNetPipeline", {"control_image": "image"}, ("control_image",)),
        ("StableDiffusionXLControlNetUnionPipeline", {"control_image": "control_image"}, ("control_image",)),
        (
            "StableDiffusionXLControlNetImg2ImgPipeline",
            {"image": "image", "control_image": "control_image"},
            ("image", "control_image"),
        ),
        (
            "StableDiffusion3ControlNetInpaintingPipeline",
            {"mask_image": "control_mask", "control_image": "control_image"},
            ("mask_image", "control_image"),
        ),
        ("StableDiffusionAdapterPipeline", {"control_image": "image"}, ("control_image",)),
        ("FluxKontextPipeline", {"image": "image"}, ()),
        ("Flux2Pipeline", {"image": "image"}, ()),
        ("QwenImageEditPipeline", {"image": "image"}, ("image",)),
    ],
)
def test_the_pictures_that_a_pipeline_takes_are_read_from_its_signature(
    pipeline: str, takes: dict[str, str], needs: tuple[str, ...]
) -> None:
    found = getattr(diffusers, pipeline)
    assert models.picture_arguments(found) == takes
    assert models.needed_pictures(found) == needs


def test_the_table_of_models_says_what_each_family_has_unless_told(run: Any) -> None:
    outcome = run("models")
    assert outcome.exit_code == 0
    for row in (
        "toyworld (embedded, 64x64, a closed vocabulary) float32; NegToMe alpha 10, threshold 0.65, 0-25% of the "
        "steps StableDiffusionPipeline 5",
        "Stable Diffusion 1.x/2.x float16; NegToMe alpha 0.9, threshold 0.65,",
        "StableDiffusionPipeline 7.5",
        "Stable Diffusion XL float16; NegToMe alpha 0.9, threshold 0.7,",
        "StableDiffusionXLPipeline 5",
        "StableDiffusionXLInpaintPipeline image, mask 7.5",
        "StableDiffusionXLControlNetPipeline control 5",
        "FLUX.1 bfloat16; NegToMe alpha 0.9, threshold 0.65, t 1000-900 FluxPipeline 4, or 1",
        "FLUX.2 dev bfloat16;",
        "Flux2Pipeline 4",
        "ZImagePipeline 5",
        "WanPipeline from Python 5",
    ):
        assert row in outcome.message
    for name in supported_pipelines():
        assert f" {name} " in outcome.message


def test_the_table_of_models_is_read_in_a_terminal_of_80_columns(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = run("models").stdout
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("models").stdout
    # nothing is wrapped or cut off
    assert [line.rstrip() for line in narrow.splitlines()] == [line.rstrip() for line in wide.splitlines()]
    assert max(len(line) for line in narrow.splitlines()) <= 80


def test_a_pipeline_file_is_found_by_its_name_and_the_names_are_said() -> None:
    path = Path(models.pipeline_file("sdxl"))
    assert path.name == "negguide_sdxl.py"
    assert "NegGuideStableDiffusionXLPipeline" in path.read_text()
    with pytest.raises(ValueError, match=r"name must be one of .*flux, .*sdxl, .*got 'magic'"):
        models.pipeline_file("magic")


def test_the_wheel_holds_the_pipeline_files_and_they_are_found_there(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    root = Path(__file__).parents[2]
    (built,) = wheel.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        packed = [name for name in archive.namelist() if name.startswith("negguide/_pipelines/")]
        archive.extractall(
            tmp_path / "site",
            [
                *packed,
                *(
                    f"negguide/{name}.py"
                    for name in (
                        "__init__",
                        "_utils/__init__",
                        "_utils/hub",
                        "_utils/plugins",
                        "domain",
                        "models",
                        "version",
                    )
                ),
            ],
        )
    assert sorted(Path(name).name for name in packed) == sorted(
        path.name for path in (root / "pipelines").glob("*.py")
    )
    done = subprocess.run(
        [sys.executable, "-c", "from negguide.models import pipeline_file; print(pipeline_file('sdxl'))"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "site",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.stdout.strip() == str(tmp_path / "site/negguide/_pipelines/negguide_sdxl.py"), done.stderr


def test_a_pipeline_by_name_is_shown_with_what_to_begin_with(run: Any, tiny_model: Path) -> None:
    for name in ("StableDiffusionPipeline", tiny_model):
        outcome = run("models", name)
        assert outcome.exit_code == 0, outcome.message
        assert "begin with perp-neg" in outcome.stdout and "acts: 0-50% of the steps" in outcome.stdout
        assert "PerpNeg('what to leave out'), guidance_scale=7.5" in outcome.stdout
    own = run("models", "toyworld").stdout.partition("toyworld begins with\n")[2]
    assert "  Perp-Neg at weight 3\n" in own and "  NegToMe at alpha 10, threshold 0.65" in own
    assert "  NAG at scale 3, tau 5, alpha 1\n" in own and "  VSF at orthogonal True\n" in own
    outcome = run("models", "Flux2Pipeline")
    assert (
        "begin with nag" in outcome.stdout and "perp-neg: FLUX.2 dev is guidance-distilled" in outcome.stdout
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("FluxPipelin", "from_pipe does not know FluxPipelin; supported and near to it: FluxPipeline"),
        ("LTX2Pipeline", "from_pipe does not take LTX2Pipeline: it guides the estimates of the clean"),
        ("owner/name", "model='owner/name' cannot be found"),
    ],
)
def test_a_pipeline_that_is_not_supported_is_refused_by_name(run: Any, name: str, says: str) -> None:
    outcome = run("models", name)
    assert outcome.exit_code == 2 and says in outcome.message
