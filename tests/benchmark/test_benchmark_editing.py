"""`negguide evaluate-editing`: what is counted, and that a real pipeline of diffusers goes through it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from negguide.benchmark.editing import Editor, evaluate_editing, load_editor
from negguide.benchmark.judges import Verdict, load_judge
from negguide.benchmark.suites import Check
from negguide.cli.errors import CleanErrors
from negguide.cli.evaluate_editing import evaluate_editing as command
from negguide.cli.toyworld import complete
from negguide.image_files import read_image
from negguide.mining.formats.editing import EditingRow
from negguide.pictures import read_settings
from negguide.toyworld import parse, render

PAIRS = (
    ("a brown bear wearing a red hat in a meadow", "a brown bear in a meadow", "red hat"),
    ("a grey cat wearing black glasses on a beach", "a grey cat on a beach", "black glasses"),
    ("a white rabbit wearing a blue scarf in the snow", "a white rabbit in the snow", "blue scarf"),
)


def png(caption: str, folder: Path, seed: int) -> bytes:
    path = folder / f"{seed}.png"
    render(complete(parse(caption), Random(seed)), 64, seed=seed).save(path)
    return path.read_bytes()


@pytest.fixture
def rows(tmp_path: Path) -> list[EditingRow]:
    return [
        EditingRow(
            png(before, tmp_path, 2 * number),
            f"The image has no {thing}.",
            png(after, tmp_path, 2 * number + 1),
            after,
            thing,
            str(number),
        )
        for number, (before, after, thing) in enumerate(PAIRS)
    ]


def giving(rows: list[EditingRow], which: str) -> Editor:
    """An editor that gives back the source or the target of each triplet."""
    known = {row.instruction: getattr(row, which) for row in rows}
    return lambda image, instruction, seed: read_image(known[instruction])


@pytest.mark.parametrize(("which", "removed", "both"), [("target", 1.0, 1.0), ("original", 0.0, 0.0)])
def test_the_target_is_right_and_the_source_is_not(
    rows: list[EditingRow], tmp_path: Path, which: str, removed: float, both: float
) -> None:
    judge = load_judge("toyworld")
    settings = {"model": which, "judge": "toyworld"}
    report = evaluate_editing(rows, giving(rows, which), judge, tmp_path / "out", settings)
    rates = report.rates["edited"]
    assert (rates["removed"].value, rates["kept"].value, rates["both"].value) == (removed, 1.0, both)
    # what the judge says of the right and of the unchanged image stands beside it, whatever the editor does
    assert report.rates["target"]["both"].value == 1.0 and report.rates["original"]["removed"].value == 0.0
    width = rates["removed"].high - rates["removed"].low
    assert rates["removed"].n == 3 and 0.5 < width < 0.6
    files = report.write(tmp_path / "out")
    told = json.loads(files[0].read_text())
    assert told["figures"]["edited"]["removed"]["value"] == removed
    assert [one["removed"] for one in told["triplets"]] == [thing for *_, thing in PAIRS]
    with Image.open(files[1]) as sheet:
        assert sheet.width > 3 * 64
    assert read_settings(files[1])["judge"] == "toyworld"


def test_what_loses_the_rest_is_not_kept(rows: list[EditingRow], tmp_path: Path) -> None:
    other = read_image(png("a black robot at night", tmp_path, 99))
    report = evaluate_editing(
        rows,
        lambda image, instruction, seed: other,
        load_judge("toyworld"),
        tmp_path / "out",
        {"model": "other", "judge": "toyworld"},
    )
    rates = report.rates["edited"]
    assert (rates["removed"].value, rates["kept"].value, rates["both"].value) == (1.0, 0.0, 0.0)


def test_unclear_answers_are_counted_and_images_are_not_made_twice(
    rows: list[EditingRow], tmp_path: Path
) -> None:
    class Unsure:
        name, revision, remark = "unsure", None, ""

        def verdicts(self, images: Any, checks: list[Check]) -> list[Verdict]:
            return [Verdict(None, "perhaps") for _ in checks]

    calls: list[tuple[str, int]] = []

    def editor(image: Image.Image, instruction: str, seed: int) -> Image.Image:
        calls.append((instruction, seed))
        return image

    settings = {"model": "x", "judge": "unsure"}
    for _ in range(2):
        report = evaluate_editing(rows, editor, Unsure(), tmp_path / "out", settings, seed=5)
    assert calls == [(row.instruction, 5 + number) for number, row in enumerate(rows)]
    assert report.unclear == 6 and report.rates["edited"]["removed"].value == 0.0
    with pytest.raises(ValueError, match="rows is empty"):
        evaluate_editing([], editor, Unsure(), tmp_path / "other", settings)


@pytest.fixture(scope="module")
def tiny_editor(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random InstructPix2Pix pipeline for 64x64 images."""
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )
    from transformers import AutoTokenizer, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        # the latents, and those of the image
        in_channels=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    pipe = StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            latent_channels=4,
        ),
        text_encoder=CLIPTextModel.from_pretrained(tiny_model / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(tiny_model / "tokenizer"),
        unet=unet,
        scheduler=EulerAncestralDiscreteScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("models") / "editor"
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def write_triplets(rows: list[EditingRow], folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for row in rows:
        names = {}
        for kind, content in (("original_image", row.original), ("edited_image", row.target)):
            names[f"{kind}_file_name"] = f"images/{row.id}-{kind}.png"
            (folder / names[f"{kind}_file_name"]).write_bytes(content)
        lines.append(
            {
                **names,
                # words that the tiny tokenizer knows
                "edit_prompt": f"a {row.removed}",
                "edited_prompt": row.target_caption,
                "removed": row.removed,
                "id": row.id,
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    app.command(name="evaluate-editing")(command)
    app.callback()(lambda: None)

    def invoke(*args: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["evaluate-editing", *map(str, args)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output)

    return invoke


def test_the_command_measures_a_pipeline_of_diffusers(
    run: Callable[..., tuple[int, str]], rows: list[EditingRow], tmp_path: Path, tiny_editor: Path
) -> None:
    triplets = write_triplets(rows, tmp_path / "triplets")
    common = (triplets, "--model", tiny_editor, "--judge", "toyworld", "--steps", 2, "--device", "cpu")
    code, said = run(*common, "--out", "out", "--image-guidance-scale", 1.2)
    assert code == 0, said
    assert "3 triplets, judged by toyworld" in said and "out/editing.json" in said
    told = json.loads(Path("out/editing.json").read_text())
    assert told["settings"]["model"] == "editor" and told["settings"]["image_guidance_scale"] == 1.2
    assert set(told["figures"]["edited"]) == {"removed", "kept", "both"}
    assert told["figures"]["target"]["both"]["value"] == 1.0
    made = sorted(path.name for path in Path("out/images").iterdir())
    assert made == ["00000.png", "00001.png", "00002.png"]
    code, said = run(*common, "--out", "out", "--seed", 3)
    assert code == 2 and "holds a run with other settings" in said
    assert str(tmp_path) not in Path("out/editing.json").read_text()


def test_a_run_on_a_model_of_the_hub_goes_on(
    run: Callable[..., tuple[int, str]],
    rows: list[EditingRow],
    tmp_path: Path,
    tiny_editor: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from negguide.benchmark import editing

    triplets = write_triplets(rows, tmp_path / "triplets")
    common = (triplets, "--judge", "toyworld", "--steps", 2, "--device", "cpu", "--out", "out")
    loaded: list[str] = []

    def load(model: str, **how: Any) -> Editor:
        found = load_editor(str(tiny_editor), **how)
        loaded.append(model)
        return found

    monkeypatch.setattr(editing, "load_editor", load)
    # known once it is on this machine
    monkeypatch.setattr("negguide.models.revision", lambda model: "abc" if model in loaded else None)
    for _ in range(2):
        code, said = run(*common, "--model", "owner/editor")
        assert code == 0, said
    assert read_settings(tmp_path / "out/settings.json")["revision"] == "abc"


def test_an_editor_depends_on_seed_instruction_and_image(tiny_editor: Path, rows: list[EditingRow]) -> None:
    edit = load_editor(str(tiny_editor), device="cpu", dtype="float32", steps=2)
    image = read_image(rows[0].original)
    first = edit(image, "a red hat", 0)
    assert first.tobytes() == edit(image, "a red hat", 0).tobytes()
    others = [
        edit(image, "a red hat", 1),
        edit(image, "a black robot", 0),
        edit(read_image(rows[1].original), "a red hat", 0),
    ]
    assert all(first.tobytes() != other.tobytes() for other in others)


def test_what_cannot_edit_or_judge_is_refused(
    run: Callable[..., tuple[int, str]],
    rows: list[EditingRow],
    tmp_path: Path,
    tiny_model: Path,
    tiny_editor: Path,
) -> None:
    from negguide.toyworld.models import CLIP

    triplets = write_triplets(rows, tmp_path / "triplets")
    common = ("--out", "out", "--judge", "toyworld", "--device", "cpu")
    code, said = run(triplets, "--model", tiny_model, *common)
    assert code == 2 and "is a StableDiffusionPipeline, which is not edited by an image and an" in said
    code, said = run(triplets, "--model", "no/such", "--out", "out2", "--judge", "toyworld")
    assert code == 2 and "--model 'no/such' cannot be loaded" in said
    # a run that never began is no run of the folder
    assert not Path("out/settings.json").exists() and not Path("out2/settings.json").exists()
    code, said = run(triplets, "--model", tiny_editor, "--out", "out", "--judge", CLIP)
    assert code == 2 and "compares images with phrases" in said
    code, said = run(tmp_path / "none", "--model", tiny_editor, *common)
    assert code == 2 and "holds neither metadata.jsonl nor parquet files" in said
