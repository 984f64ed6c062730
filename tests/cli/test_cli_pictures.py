"""Pipelines that need pictures: asked for, passed on, checked, and the same again at a replay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negguide._utils.text import listed
from negguide.models import picture_arguments
from negguide.pictures import read_settings

MODEL = ("--model", "owner/name", "--steps", 2, "--device", "cpu")
AS_IMG2IMG = ("--pipeline", "StableDiffusionImg2ImgPipeline")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A picture, a mask and a control image of 64x64."""
    found = {name: tmp_path / f"{name}.png" for name in ("image", "mask-image", "control-image")}
    picture = Image.linear_gradient("L").resize((64, 64))
    picture.convert("RGB").save(found["image"])
    picture.rotate(90).convert("RGB").save(found["control-image"])
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(found["mask-image"])
    return found


def options(files: dict[str, Path], *names: str) -> list[object]:
    return [word for name in names for word in (f"--{name}", files[name])]


TAKES = {
    "sd-img2img": {"image": "image"},
    "sdxl-inpaint": {"image": "image", "mask-image": "mask_image"},
    # Stable Diffusion's call their control image `image`
    "sd-controlnet": {"control-image": "image"},
    "sd-controlnet-img2img": {"image": "image", "control-image": "control_image"},
    "sd-adapter": {"control-image": "image"},
    "sd3-img2img": {"image": "image"},
    "sd3-controlnet-inpaint": {"mask-image": "control_mask", "control-image": "control_image"},
    "flux-inpaint": {"image": "image", "mask-image": "mask_image"},
    "qwen-image-edit": {"image": "image"},
    "z-image-img2img": {"image": "image"},
}


@pytest.mark.parametrize(("calls", "wanted"), TAKES.items(), ids=TAKES, indirect=["calls"])
def test_it_asks_for_the_pictures_that_it_needs_passes_them_on_and_replays_them(
    run: Any, calls: Any, wanted: dict[str, str], files: dict[str, Path]
) -> None:
    outcome = run("generate", "a bear", *MODEL)
    assert outcome.exit_code == 2
    asked = listed(f"--{name}" for name in files if name in wanted)
    assert f"needs {asked}; give it, or a text-to-image model" in outcome.message
    given = options(files, *wanted)
    # in attention space, which acts with every kind of guidance
    first = run(
        "generate", "a bear", "--negative", "hat", "--method", "nag", *given, *MODEL, "--out", "first"
    )
    assert first.exit_code == 0, first.message
    for name, argument in wanted.items():
        mode = "L" if "mask" in name else "RGB"
        with Image.open(files[name]) as file:
            assert np.array_equal(np.asarray(calls[0][argument]), np.asarray(file.convert(mode)))
    (*_, sidecar) = first.files
    second = run("generate", "--from", sidecar, "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message
    for name in wanted:
        assert any(path.read_bytes() == files[name].read_bytes() for path in Path("second").iterdir())


@pytest.mark.parametrize("calls", ["flux-kontext", "flux2-klein"], indirect=True)
def test_a_picture_that_it_may_have_is_not_asked_for(run: Any, calls: Any, files: dict[str, Path]) -> None:
    outcome = run("generate", "a bear", *options(files, "image"), "--height", 64, "--width", 64, *MODEL)
    assert outcome.exit_code == 0, outcome.message
    assert calls[0]["image"].size == (64, 64)


@pytest.mark.parametrize("calls", ["sdxl-inpaint", "flux-img2img"], indirect=True)
def test_the_size_is_that_of_the_picture_and_not_the_pipelines_own(
    run: Any, calls: Any, tmp_path: Path
) -> None:
    Image.linear_gradient("L").resize((70, 40)).save(tmp_path / "wide.png")
    given = ["--image", "wide.png"]
    given += ["--mask-image", "wide.png"] if "mask_image" in picture_arguments(calls.pipe) else []
    outcome = run("generate", "a bear", *given, *MODEL)
    assert outcome.exit_code == 0, outcome.message
    assert (calls[0]["width"], calls[0]["height"]) == (64, 32)
    assert Image.open(outcome.files[0]).size == (64, 32)
    settings = read_settings(outcome.files[0])
    assert (settings["width"], settings["height"]) == (64, 32)
    calls.clear()
    assert run("generate", "a bear", *given, "--width", 32, "--height", 48, *MODEL).exit_code == 0
    assert (calls[0]["width"], calls[0]["height"]) == (32, 48)


@pytest.mark.parametrize("calls", ["sdxl-inpaint", "sd3-img2img", "z-image-img2img"], indirect=True)
def test_each_image_is_that_of_its_seed_whatever_is_drawn_beside_it(
    run: Any, calls: Any, files: dict[str, Path]
) -> None:
    given = options(files, *(name.replace("_", "-") for name in picture_arguments(calls.pipe)))
    together = run("generate", "a bear", *given, *MODEL, "--num-images", 2, "--seed", 4, "--out", "together")
    assert together.exit_code == 0, together.message
    alone = run("generate", "a bear", *given, *MODEL, "--seed", 5, "--out", "alone")
    first, second, one = (np.asarray(Image.open(path)) for path in (*together.files[:2], alone.files[0]))
    assert np.array_equal(second, one)
    assert not np.array_equal(first, second)


@pytest.fixture
def draw(run: Any, tiny_model: Path) -> Any:
    """`draw(...)` with a model in a folder, whose pipeline is known before it is loaded."""
    fast = ("--model", tiny_model, "--steps", 4, "--device", "cpu")
    return lambda *words, command="generate": run(command, "a bear", *words, *fast)


def test_a_model_is_loaded_as_another_pipeline_and_the_picture_and_strength_decide(
    draw: Any, files: dict[str, Path]
) -> None:
    given = (*options(files, "image"), *AS_IMG2IMG)
    outcomes = [
        draw(*words, "--out", str(i))
        for i, words in enumerate([(), given, (*given, "--strength", 0.5), (*given, "--negative", "hat")])
    ]
    assert [outcome.exit_code for outcome in outcomes] == [0] * 4, outcomes[1].message
    drawn = [np.asarray(Image.open(outcome.files[0])).tobytes() for outcome in outcomes]
    assert len(set(drawn)) == 4
    settings = read_settings(outcomes[2].files[0])
    assert (settings["pipeline"], settings["strength"]) == (AS_IMG2IMG[1], 0.5)
    assert "strength" not in read_settings(outcomes[1].files[0])


def test_a_picture_is_compared_too(draw: Any, files: dict[str, Path]) -> None:
    given = (*options(files, "image"), *AS_IMG2IMG, "--negative", "hat")
    outcome = draw(*given, "--num-images", 2, command="compare")
    assert outcome.exit_code == 0, outcome.message
    for column in read_settings(outcome.files[0])["columns"]:
        assert (Path("out") / column["input_image"]["file"]).read_bytes() == files["image"].read_bytes()
    refused = draw(*given, "--num-images", 2, "--explain", command="compare")
    assert "--explain: StableDiffusionImg2ImgPipeline draws one image a call" in refused.message
    assert len(draw(*given, "--num-images", 1, "--explain", command="compare").files) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ("--image", "image.png"),
            "--image: StableDiffusionPipeline takes none; leave it out, or give --pipeline "
            "StableDiffusionImg2ImgPipeline",
        ),
        (
            ("--image", "image.png", "--mask-image", "mask-image.png"),
            "--image, --mask-image: StableDiffusionPipeline takes none; leave it out, or give --pipeline "
            "StableDiffusionInpaintPipeline",
        ),
        (
            ("--control-image", "image.png"),
            "--control-image: StableDiffusionPipeline takes none; leave it out",
        ),
        (("--strength", 0.5), "--strength: StableDiffusionPipeline takes none; leave it out"),
        (("--control-mode", 1), "--control-mode: StableDiffusionPipeline takes none"),
        (
            (*AS_IMG2IMG, "--image", "image.png", "--height", 64),
            "--height: StableDiffusionImg2ImgPipeline takes",
        ),
        (AS_IMG2IMG, "StableDiffusionImg2ImgPipeline needs --image; give it, or a text-to-image model"),
        (("--pipeline", "WanPipeline"), "WanPipeline makes videos; give a text-to-image model"),
        (("--strength", 1.5), "--strength must be from 0 to 1, got 1.5"),
        (("--image", "nosuch.png"), "--image nosuch.png: cannot be read: No such file"),
        (("--height", 0), "Invalid value for '--height'"),
        (("--control-mode", -1), "--control-mode must be a whole number from 0, got -1"),
        (
            ("--image", "image.png", "--mask-image", "wide.png"),
            "--mask-image is 64x32 (width x height) and --image is 64x64; give one with the same aspect ratio",
        ),
    ],
    ids=str,
)
def test_what_it_does_not_take_is_refused_by_name_before_it_is_loaded(
    draw: Any, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, words: Any, reason: str
) -> None:
    monkeypatch.delattr("negguide.cli.draw.load_pipeline")
    Image.new("L", (64, 32)).save("wide.png")
    outcome = draw(*words)
    assert outcome.exit_code == 2
    assert reason in outcome.message
    assert not Path("out").exists()


def test_an_unknown_pipeline_is_refused_with_all_that_there_are(draw: Any) -> None:
    outcome = draw("--pipeline", "MagicPipeline")
    assert outcome.exit_code == 2
    assert "pipeline must be one of " in outcome.message and "got 'MagicPipeline'" in outcome.message
    assert "StableDiffusionXLImg2ImgPipeline" in outcome.message


def test_height_and_width_decide_the_size(draw: Any) -> None:
    outcome = draw("--height", 32, "--width", 48)
    assert outcome.exit_code == 0, outcome.message
    assert Image.open(outcome.files[0]).size == (48, 32)
    settings = read_settings(outcome.files[0])
    assert (settings["height"], settings["width"]) == (32, 48)


def test_a_replay_from_one_of_the_pngs_has_the_picture_too(
    draw: Any, run: Any, files: dict[str, Path]
) -> None:
    first = draw(*options(files, "image"), *AS_IMG2IMG, "--num-images", 2, "--out", "first")
    second = run("generate", "--from", first.files[1], "--out", "second")
    assert second.exit_code == 0, second.message
    assert "identical to the recorded images" in second.message
    contents = [{path.name: path.read_bytes() for path in Path(out).iterdir()} for out in ("first", "second")]
    assert contents[0] == contents[1]


def test_a_changed_picture_is_refused_at_a_replay(draw: Any, run: Any, files: dict[str, Path]) -> None:
    first = draw(*options(files, "image"), *AS_IMG2IMG)
    (copy,) = Path("out").glob("image-*.png")
    Image.new("RGB", (64, 64)).save(copy)
    second = run("generate", "--from", first.files[-1], "--out", "second")
    assert second.exit_code == 2
    assert f"{copy} has changed since the images were made" in second.message
