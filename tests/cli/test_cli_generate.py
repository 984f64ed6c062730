import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import negguide
from negguide import Negative, NegToMe, PerpNeg, Timestep, models
from negguide.cli.job import Job
from negguide.methods import method_from_dict
from negguide.pictures import read_settings, save_png
from negguide.toyworld.domain import TOYWORLD_DEFAULTS

FAST = ("--steps", 4, "--device", "cpu")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def everything(photo: Path, left_half: Path, tiny_model: Path) -> list[object]:
    """A call with every kind of guidance in it."""
    return [
        *("generate", "a bear wearing glasses", "--model", tiny_model, *FAST, "--num-images", 2, "--seed", 5),
        *("--negative", "black glasses:1.5@0-0.6", "--negative", "brown fur:0.5@0-1", "--joint"),
        *("--negative-prompt", "back view", "--reference", photo, "--alpha", 3, "--negtome-window", "0-0.5"),
        *("--mask", left_half, "--reference-mask", left_half, "--center", "--max-push", 0.5),
        *("--perpendicular", "--match-every", 3),
    ]


def test_each_image_is_a_png_that_says_how_it_was_made(run: Any, tiny_model: Path) -> None:
    negative = ("--negative", "black glasses:1.5@0-0.6")
    outcome = run(
        "generate", "a bear", *negative, "--model", tiny_model, *FAST, "--num-images", 2, "--seed", 5
    )
    assert outcome.exit_code == 0, outcome.message
    *images, sidecar = outcome.files
    assert [path.suffix for path in images] == [".png", ".png"]
    for i, path in enumerate(images):
        settings = read_settings(path)
        assert settings["prompt"] == "a bear"
        assert settings["model"] == str(tiny_model)
        assert settings["revision"] == models.revision(str(tiny_model))
        assert settings["seeds"] == [5, 6] and settings["image"] == i
        assert (settings["steps"], settings["guidance_scale"]) == (4, 7.5)
        assert (settings["device"], settings["dtype"]) == ("cpu", "float32")
        assert set(settings["versions"]) == {"negguide", "diffusers", "torch", "transformers"}
        assert method_from_dict(settings["methods"][0]) == PerpNeg(Negative("black glasses", 1.5, 0.0, 0.6))
    records = json.loads(sidecar.read_text())["images"]
    assert records == [
        {"file": path.name, "seed": seed, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path, seed in zip(images, (5, 6), strict=True)
    ]


def test_a_replay_gives_the_same_bytes_of_every_file(run: Any, everything: list[object]) -> None:
    first = run(*everything, "--out", "first")
    assert first.exit_code == 0, first.message
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message
    files = files_of(Path("first"))
    assert sorted(Path(name).suffix for name in files) == [".json", ".png", ".png", ".png", ".png"]
    assert files_of(Path("second")) == files


def test_a_replay_from_one_picture_makes_all_of_them(run: Any, everything: list[object]) -> None:
    first = run(*everything, "--out", "first")
    second = run("generate", "--from", first.files[1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message
    assert files_of(Path("second")) == files_of(Path("first"))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_window_by_default_holds_the_first_step_at_a_replay_too(
    run: Any, tiny_model: Path, photo: Path, embedded: bool
) -> None:
    # a quarter of 2 steps is none; half of the noise is behind the family's window, from t 1000 to 800
    few = ("--steps", 2) if embedded else ("--steps", 4, "--strength", 0.5, "--image", photo)
    model = () if embedded else ("--model", tiny_model, "--pipeline", "StableDiffusionImg2ImgPipeline")
    call = ("generate", "a bear", *model, *few, "--device", "cpu", "--num-images", 2)
    plain, first = run(*call, "--out", "plain"), run(*call, "--negtome", "--threshold", -1, "--out", "first")
    assert first.exit_code == 0, first.message
    assert not np.array_equal(pixels(first.files[1]), pixels(plain.files[1]))
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message
    assert files_of(Path("second")) == files_of(Path("first"))
    # said by the user, the same window is refused
    stored = json.loads(first.files[-1].read_text())
    del stored["methods"][0]["default_values"]
    first.files[-1].write_text(json.dumps(stored))
    assert "holds none of the" in run("generate", "--from", first.files[-1], "--out", "third").message


def test_a_sidecar_that_does_not_say_what_was_left_open_is_replayed(run: Any, tiny_model: Path) -> None:
    fine = ("--steps", 10, "--device", "cpu", "--num-images", 2)
    call = ("generate", "a bear", "--model", tiny_model, *fine, "--negtome")
    first = run(*call, "--out", "first")
    stored = json.loads(first.files[-1].read_text())
    assert set(stored["methods"][0].pop("default_values")) == {"threshold", "stop"}
    first.files[-1].write_text(json.dumps(stored))
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    # the files differ: they hold their settings
    for again, before in zip(second.files[:2], first.files, strict=False):
        assert np.array_equal(pixels(again), pixels(before))


def test_another_process_gives_the_same_bytes(run: Any, tiny_model: Path) -> None:
    first = run("generate", "a bear", "--model", tiny_model, *FAST, "--out", "first")
    again = subprocess.run(
        [sys.executable, "-m", "negguide", "generate", "--from", first.files[-1], "--out", "second"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert again.returncode == 0, again.stderr
    assert [Path(line) for line in again.stdout.splitlines()] == [
        Path("second", path.name) for path in first.files
    ]
    assert files_of(Path("second")) == files_of(Path("first"))


@pytest.mark.parametrize(
    "changed",
    [
        {"methods": []},
        {"negative_prompt": ""},
        {"seeds": [7, 8]},
        {"steps": 5},
        {"guidance_scale": 3.0},
    ],
    ids=str,
)
def test_every_setting_decides_the_images(run: Any, everything: list[object], changed: dict) -> None:
    first = run(*everything, "--out", "first")
    sidecar = first.files[-1]
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changed}))
    second = run("generate", "--from", sidecar, "--out", "second")
    assert second.exit_code == 0, second.message
    assert "2 of 2 images differ from the recorded ones: the versions are the same" in second.message
    assert not np.array_equal(pixels(second.files[0]), pixels(first.files[0]))


def test_a_replay_with_other_versions_says_what_changed(run: Any, tiny_model: Path) -> None:
    first = run("generate", "a bear", "--model", tiny_model, *FAST, "--out", "first")
    settings = json.loads(first.files[-1].read_text())
    settings["versions"]["torch"] = "1.0"
    first.files[-1].write_text(json.dumps(settings | {"images": [{}]}))
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert f"torch was 1.0, is {version('torch')}" in second.message
    assert "diffusers was" not in second.message


def test_a_replay_that_differs_does_not_write_over_the_recorded_images(run: Any, tiny_model: Path) -> None:
    first = run("generate", "a bear", "--model", tiny_model, *FAST, "--num-images", 2)
    *images, sidecar = first.files
    # as if another version had made the second one
    with Image.open(images[1]) as image:
        content = save_png(image.transpose(Image.Transpose.ROTATE_180), images[1], read_settings(images[1]))
    settings = json.loads(sidecar.read_text())
    settings["images"][1]["sha256"] = hashlib.sha256(content).hexdigest()
    sidecar.write_text(json.dumps(settings))
    before = [path.read_bytes() for path in first.files]
    again = run("generate", "--from", sidecar)
    assert again.exit_code == 2 and f"{images[1].name} there is the recorded image" in again.message
    assert [path.read_bytes() for path in first.files] == before
    # elsewhere both can be looked at
    assert "1 of 2 images differ" in run("generate", "--from", sidecar, "--out", "second").message


def test_an_image_does_not_depend_on_how_many_were_asked_for(run: Any, tiny_model: Path) -> None:
    together = run("generate", "a bear", "--model", tiny_model, *FAST, "--num-images", 3, "--seed", 4)
    alone = run("generate", "a bear", "--model", tiny_model, *FAST, "--seed", 5)
    assert np.abs(pixels(together.files[1]) - pixels(alone.files[0])).max() <= 1
    assert np.abs(pixels(together.files[0]) - pixels(alone.files[0])).max() > 10


def test_other_settings_do_not_overwrite_earlier_images(run: Any, tiny_model: Path) -> None:
    one = run("generate", "a bear", "--model", tiny_model, *FAST)
    other = run("generate", "a bear", "--model", tiny_model, *FAST, "--negative", "hat")
    same = run("generate", "a bear", "--model", tiny_model, *FAST)
    assert not set(one.files) & set(other.files)
    assert same.files == one.files


def test_negtome_may_stand_before_the_prompt(run: Any, tiny_model: Path) -> None:
    few = ("--model", tiny_model, "--steps", 5, "--device", "cpu", "--num-images", 2)
    outcome = run("generate", *few, "--negtome", "a bear", "--alpha", 2)
    assert outcome.exit_code == 0, outcome.message
    settings = read_settings(outcome.files[0])
    assert settings["prompt"] == "a bear"
    method = method_from_dict(settings["methods"][0])
    assert method == NegToMe("others", alpha=2.0, threshold=0.65, stop=Timestep(800))


def test_negtome_first_is_the_published_batch_mode(run: Any, tiny_model: Path) -> None:
    few = ("--steps", 5, "--device", "cpu", "--num-images", 2)
    plain = run("generate", "a bear", "--model", tiny_model, *few)
    outcome = run("generate", "a bear", "--negtome", "first", "--threshold", 0.5, "--model", tiny_model, *few)
    assert outcome.exit_code == 0, outcome.message
    method = method_from_dict(read_settings(outcome.files[0])["methods"][0])
    assert method == NegToMe("first", threshold=0.5, stop=Timestep(800))
    assert np.array_equal(pixels(outcome.files[0]), pixels(plain.files[0]))
    assert not np.array_equal(pixels(outcome.files[1]), pixels(plain.files[1]))


@pytest.mark.usefixtures("tiny_toyworld")
def test_toyworld_is_the_default_model_with_defaults_of_its_own(run: Any) -> None:
    outcome = run("generate", "a bear", "--negtome", "--num-images", 2, *FAST)
    assert outcome.exit_code == 0, outcome.message
    settings = read_settings(outcome.files[0])
    assert settings["model"] == "toyworld"
    assert settings["guidance_scale"] == TOYWORLD_DEFAULTS.guidance_scale
    assert method_from_dict(settings["methods"][0]) == NegToMe(**TOYWORLD_DEFAULTS.negtome)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give a PROMPT"),
        (("",), "PROMPT is empty"),
        ((" ",), "PROMPT is empty"),
        ((",",), "',' holds no word; write a caption"),
        (("a bear", "--negative", ","), "',' holds no word"),
        (("a bear", "--negative-prompt", ","), "',' holds no word"),
        (("a bear", "--negative-prompt", " "), "--negative-prompt is blank"),
        (("a bear", "--negative", "bear and cat"), "the kind is said twice"),
        (("a bear", "--out", __file__), "is a file; give a folder"),
        (("a bear", "--out", f"{__file__}/below"), "is a file; give a folder"),
        (("a dragon",), "the toy world does not know 'dragon'; its words are: a, an,"),
        (("a bear", "--negative", "dark glasses"), "does not know 'dark'"),
        (("a bear", "--negative-prompt", "dark glasses"), "does not know 'dark'"),
        (("bear a",), "expected"),
        (("a bear", "--negative", "hat:heavy"), "--negative 'hat:heavy': the weight must be a number"),
        (("a bear", "--negative", "hat:-1"), "write text:weight@start-stop"),
        (("a bear", "--negative", "hat:nan"), "weight must be a finite number >= 0, got nan"),
        (("a bear", "--negative", "hat:1@0.6-0.2"), "0 <= start < stop <= 1, got start=0.6, stop=0.2"),
        (("a bear", "--negative", ""), "must say what to leave out"),
        (
            ("a bear", "--negative", "hat", "--guidance-scale", 1),
            "--negative acts only with --guidance-scale above 1",
        ),
        (
            ("a bear", "--negative-prompt", "hat", "--guidance-scale", 1),
            "acts only with --guidance-scale above 1",
        ),
        (("a bear", "--guidance-scale", "nan"), "--guidance-scale must be a finite number >= 0, got nan"),
        (("a bear", "--joint"), "--joint acts on --negative"),
        (("a bear", "--negtome"), "--num-images must be at least 2, got 1"),
        (("a bear", "--negtome", "first"), "--num-images must be at least 2, got 1"),
        (("a bear", "--negtome=second", "--num-images", 2), "--negtome must be others or first"),
        (("a bear", "--alpha", 2), "--alpha: acts only with --negtome or --reference"),
        (
            ("a bear", "--negtome", "--num-images", 2, "--alpha", -1),
            "alpha must be a finite number >= 0, got -1",
        ),
        (("a bear", "--negtome", "--num-images", 2, "--threshold", 2), "threshold is a cosine"),
        (("a bear", "--negtome", "--num-images", 2, "--negtome-window", "1-0"), "0 <= start < stop <= 1"),
        (
            ("a bear", "--negtome", "--num-images", 2, "--negtome-window", "early"),
            "the window must be start-stop",
        ),
        (("a bear", "--negtome", "--num-images", 2, "--blocks", "("), "blocks must be a regular expression"),
        (("a bear", "--reference", "nosuch.png"), "--reference nosuch.png: cannot be read: No such file"),
        (("a bear", "--reference", "."), "--reference .: cannot be read: Is a directory"),
        (("a bear", "--reference", __file__), "cannot identify image file; use e.g. a PNG or a JPEG"),
        (
            ("a bear", "--negtome", "--num-images", 2, "--mask", "nosuch.png"),
            "--mask nosuch.png: cannot be read",
        ),
        (("a bear", "--model", "nosuch"), "model='nosuch' is unknown"),
        (("a bear", "--model", "owner/nosuch"), "model='owner/nosuch' cannot be loaded"),
        (("a bear", "--device", "warp"), "--device must be auto or one of"),
        (("a bear", "--device", "cuda:99"), "--device must be auto or one of"),
        (
            ("a bear", "--dtype", "float64"),
            "--dtype must be auto or one of float32, float16, bfloat16, got 'float64'",
        ),
        (("a bear", "--num-images", 0), "--num-images must be at least 1"),
        (("a bear", "--steps", 0), "--steps must be at least 1, got 0"),
        (("a bear", "--seed", -1), "--seed must be an integer from 0 to 2**63 - 1, got -1"),
        (("a bear", "--seed", 2**63), "--seed must be an integer from 0"),
        (("a bear", "--steps", "many"), "Invalid value for '--steps'"),
        (("a bear", "--colour"), "No such option: --colour"),
        (("a bear", "--from", "out.json"), "it goes with --out only, not with PROMPT"),
        (("--from", "out.json", "--steps", 25), "it goes with --out only, not with --steps"),
        (("--from", "nosuch.json"), "nosuch.json cannot be read: No such file"),
        (("--from", __file__), "is neither a PNG nor JSON that negguide wrote"),
    ],
    ids=str,
)
def test_wrong_input_is_one_message_and_exit_code_2(run: Any, arguments: tuple, reason: str) -> None:
    outcome = run("generate", *arguments)
    assert outcome.exit_code == 2
    assert reason in outcome.message
    assert "Traceback" not in outcome.message
    assert not list(Path().glob("out/*"))


def test_a_mask_of_the_wrong_shape_is_refused_before_anything_is_drawn(
    run: Any, tiny_model: Path, tmp_path: Path
) -> None:
    Image.new("L", (64, 32), 255).save(tmp_path / "wide.png")
    few = ("--model", tiny_model, *FAST, "--num-images", 2)
    outcome = run("generate", "a bear", "--negtome", "--mask", "wide.png", *few)
    assert outcome.exit_code == 2
    assert "mask of NegToMe is 64x32 (width x height) and the image is 64x64" in outcome.message


def test_a_window_without_a_step_is_refused(run: Any, tiny_model: Path) -> None:
    outcome = run("generate", "a bear", "--negative", "hat:1@0-0.1", "--model", tiny_model, *FAST)
    assert outcome.exit_code == 2
    assert "holds none of the 4 steps" in outcome.message


def test_a_changed_reference_is_refused_at_a_replay(run: Any, photo: Path, tiny_model: Path) -> None:
    first = run(
        "generate", "a bear", "--reference", photo, "--model", tiny_model, "--steps", 5, "--device", "cpu"
    )
    assert first.exit_code == 0, first.message
    (copy,) = Path("out").glob("my-photo-*.png")
    assert copy.read_bytes() == photo.read_bytes()
    Image.new("RGB", (40, 40)).save(copy)
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 2
    assert f"{copy} has changed since the images were made" in second.message
    copy.unlink()
    third = run("generate", "--from", first.files[-1], "--out", "second")
    assert third.exit_code == 2
    assert f"{copy} is needed for this replay and cannot be read: No such file" in third.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"command": "compare"}, "made by 'compare', not by 'generate'"),
        ({"steps": None}, "steps must be of type int, got None"),
        ({"seeds": 5}, "seeds must be a list, got 5"),
        ({"seeds": ["a"]}, "--seed must be an integer"),
        ({"methods": [{"method": "Magic"}]}, "method must be one of PerpNeg, NegToMe"),
        ({"methods": ["PerpNeg"]}, "methods must hold JSON objects, got 'PerpNeg'"),
        ({"model": "nosuch"}, "model='nosuch' is unknown"),
        ({"device": "cuda:99"}, "--device must be auto or one of"),
        ({"dtype": 7}, "--dtype must be auto or one of"),
        ({"images": 7}, "must list their 1 images"),
        (
            {
                "methods": [
                    NegToMe().to_dict() | {"reference": [{"file": "../a", "sha256": "", "mode": "RGB"}]}
                ]
            },
            "must lie beside the settings",
        ),
        ({"methods": [NegToMe().to_dict() | {"reference": [7]}]}, "must be {file, sha256, mode}, got 7"),
    ],
    ids=str,
)
def test_a_damaged_sidecar_is_refused_by_name(run: Any, tmp_path: Path, change: dict, reason: str) -> None:
    job = Job(prompt="a bear", model="toyworld", steps=4, guidance_scale=5.0, seeds=(0,))
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"command": "generate", **job.to_dict(), "images": [{}], **change}))
    outcome = run("generate", "--from", path)
    assert outcome.exit_code == 2
    assert f"--from {path}: " in outcome.message
    assert reason in outcome.message


def test_settings_that_lack_something_are_refused_with_its_name(run: Any, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(
        '{"command": "generate", "prompt": "a bear", "seeds": [], "methods": []}'
    )
    outcome = run("generate", "--from", "x.json")
    assert outcome.exit_code == 2
    assert "the settings lack model, steps, guidance_scale, negative_prompt, device, dtype" in outcome.message


def test_a_folder_that_cannot_be_written_is_one_message(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = run("generate", "a bear", "--model", tiny_model, *FAST, "--out", "file")
    assert outcome.exit_code == 2
    assert "file" in outcome.message


def test_too_little_memory_is_one_message(
    run: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @functools.wraps(negguide.NegGuideStableDiffusionPipeline.__call__)
    def full(*_args: object, **_kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("negguide.NegGuideStableDiffusionPipeline.__call__", full)
    outcome = run("generate", "a bear", "--model", tiny_model, *FAST, "--num-images", 2)
    assert outcome.exit_code == 2
    assert "cpu has too little memory for 2 images at once; use a smaller --num-images" in outcome.message


def test_ctrl_c_ends_with_130_and_one_line(
    run: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @functools.wraps(negguide.NegGuideStableDiffusionPipeline.__call__)
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("negguide.NegGuideStableDiffusionPipeline.__call__", interrupt)
    outcome = run("generate", "a bear", "--model", tiny_model, *FAST)
    assert outcome.exit_code == 130
    assert outcome.message.strip().endswith("stopped")
    assert not Path("out").exists()


def test_where_an_error_comes_from_is_shown_on_request(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEGGUIDE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="does not know 'dragon'"):
        run("generate", "a dragon")


def test_a_real_process_shows_no_traceback_and_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "negguide", "generate", "a bear", "--negative", "hat:x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--negative 'hat:x'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_changed_since_is_named_at_a_replay(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    first = run("generate", "a bear", "--model", folder, *FAST, "--out", "first")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2:] = b"\x80\x3f"
    weights.write_bytes(content)
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "1 of 1 images differ from the recorded ones: revision was" in second.message
