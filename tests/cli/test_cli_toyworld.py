import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from negguide.cli.toyworld import complete
from negguide.pictures import read_settings
from negguide.toyworld import drawing
from negguide.toyworld.language import caption, parse
from negguide.toyworld.models import WEIGHTS
from negguide.toyworld.render import render
from negguide.toyworld.scene import ACCESSORIES, ANY_COLOR, Character, Scene, is_complete, sample_scene


def test_a_caption_is_drawn_as_the_renderer_draws_it(run: Any) -> None:
    text = "a brown bear in back view wearing a red hat in the snow"
    outcome = run("toyworld", "draw", text, "--out", "new/x.png", "--size", 100, "--seed", 3)
    assert outcome.exit_code == 0, outcome.message
    assert outcome.files == [Path("new/x.png")]
    with Image.open("new/x.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(render(parse(text), 100, seed=3)))
    settings = read_settings(Path("new/x.png"))
    assert (settings["said"], settings["caption"], settings["seed"]) == (text, text, 3)


def test_a_home_folder_is_known_behind_an_equals_sign(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for out in ("--out=~/x.png", f"--out={tmp_path}/home/y.png"):
        outcome = run("toyworld", "draw", "a bear", out)
        assert outcome.exit_code == 0, outcome.message
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["x.png", "y.png"]
    assert not Path("~").exists()
    # a text that begins so is a text
    assert run("toyworld", "parse", "~/bear").message.count("home") == 0


def test_what_a_caption_leaves_open_is_told(run: Any) -> None:
    outcome = run("toyworld", "draw", "a bear wearing glasses")
    said = read_settings(outcome.files[0])["caption"]
    assert said in outcome.message
    assert is_complete(parse(said))


def half_said(character: Character, rng: random.Random) -> Character:
    said = {
        name: getattr(character, name) if rng.random() < 0.5 else None for name in ("kind", "fur", "view")
    }
    worn = {name: ANY_COLOR if rng.random() < 0.5 else color for name, color in character.worn}
    return Character(**said, **worn)


@given(seed=st.integers(0, 10**6), fill=st.integers(0, 100))
def test_completing_a_scene_keeps_everything_that_is_said(seed: int, fill: int) -> None:
    rng = random.Random(seed)
    whole = sample_scene(rng)
    said = {character: half_said(character, rng) for character in whole.characters}
    background = whole.background if rng.random() < 0.5 else None
    hidden = Scene(tuple(said[character] for character in whole.characters), background, whole.relation)
    filled = complete(hidden, random.Random(fill))
    assert is_complete(filled)
    assert filled.count == hidden.count and filled.relation == hidden.relation
    assert filled.background == hidden.background or hidden.background is None
    for before, after in zip(hidden.characters, filled.characters, strict=True):
        for name in ("kind", "fur", "view"):
            assert getattr(before, name) in (None, getattr(after, name))
        for name in ACCESSORIES:
            said, drawn = getattr(before, name), getattr(after, name)
            assert said == drawn or (said == ANY_COLOR and drawn is not None)


@pytest.mark.parametrize("text", ["an explorer", "pip", "two cats", "black glasses", "at night", "brown fur"])
def test_every_kind_of_caption_can_be_drawn(text: str) -> None:
    scene = complete(parse(text), random.Random(1))
    assert is_complete(scene)
    assert parse(caption(scene)).characters == scene.characters


def test_an_explorer_is_mostly_the_trademark_character() -> None:
    drawn = [complete(parse("an explorer"), random.Random(seed)).characters[0] for seed in range(200)]
    assert all(c.hat and c.scarf for c in drawn)
    assert 0.6 < sum((c.kind, c.fur, c.hat) == ("cat", "orange", "green") for c in drawn) / 200 < 0.9


def test_a_sheet_holds_as_many_scenes_as_asked_for(run: Any) -> None:
    outcome = run("toyworld", "sheet", "--count", 12, "--out", "s.png", "--seed", 5)
    assert outcome.exit_code == 0, outcome.message
    with Image.open("s.png") as image:
        assert image.size == (10 * 128, 2 * 128)
        last = np.asarray(image.crop((2 * 128, 128, 3 * 128, 256)))
        assert (last == 255).all()
    rng = random.Random(5)
    assert read_settings(Path("s.png"))["captions"] == [caption(sample_scene(rng)) for _ in range(12)]


def test_parse_shows_what_is_said_and_what_is_open(run: Any) -> None:
    outcome = run("toyworld", "parse", "a grey cat to the left of a rabbit wearing a red hat at night")
    assert outcome.exit_code == 0
    rows = [line for line in outcome.stdout.splitlines() if line.startswith("│")]
    assert list(rows[0].replace("│", " ").split()) == ["1", "cat", "grey", "-", "-", "-", "-"]
    assert list(rows[1].replace("│", " ").split()) == ["2", "rabbit", "-", "-", "red", "-", "-"]
    assert "background: night" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("draw", "a dragon"), "does not know 'dragon'; its words are:"),
        (("parse", "a dragon"), "does not know 'dragon'; its words are:"),
        (("draw", "a bear", "--size", 8), "size=8 is too small"),
        (("draw", "a bear", "--size", 100_000), "--size must be at most 4096, got 100000"),
        # which would be the pictures of seed 1
        (("draw", "a bear", "--seed", -1), "--seed must be at least 0, got -1"),
        (("sheet", "--seed", -1), "--seed must be at least 0, got -1"),
        (("draw", ""), "CAPTION holds no word, got ''"),
        (("parse", ","), "CAPTION holds no word, got ','"),
        (("draw", "a bear", "--out", "x.jpg"), "must end in .png"),
        (("sheet", "--count", 0), "--count must be at least 1, got 0"),
        (("train", "--device", "foo"), "--device must be auto or one of"),
        (("train", "--device", "cuda:99"), "--device must be auto or one of"),
        (("evaluate", "--weights", "nosuch"), "--weights nosuch has no folder 'judge'; train it first"),
        (("parse", "bear and cat"), "the kind is said twice"),
        (
            ("train", "--part", "upscaler"),
            "use one of autoencoder, diffusion, clip, judge, flow, distill, turbo, all",
        ),
        (("train", "--minutes", 1), "minutes: these need --part with one part, got --part all"),
        (("train", "--part", "judge", "--minutes", 1, "--steps", 5), "both say when to stop"),
        (("train", "--part", "judge", "--minutes", 0), "minutes=0.0 must be above 0"),
        (("train", "--part", "diffusion", "--steps", 1), "train 'autoencoder' first"),
    ],
    ids=str,
)
def test_wrong_input_is_one_message_and_exit_code_2(run: Any, arguments: tuple, reason: str) -> None:
    outcome = run("toyworld", *arguments)
    assert outcome.exit_code == 2
    assert reason in outcome.message


@pytest.mark.parametrize("file", ["judge/model.safetensors", "clip/model.safetensors", "judge/config.json"])
def test_damaged_weights_are_one_message_before_anything_is_measured(
    run: Any, tmp_path: Path, file: str
) -> None:
    for name in ("judge", "clip"):
        shutil.copytree(WEIGHTS / name, tmp_path / "weights" / name)
    content = (tmp_path / "weights" / file).read_bytes()
    (tmp_path / "weights" / file).write_bytes(content[: len(content) // 2])
    outcome = run("toyworld", "evaluate", "--weights", "weights")
    assert outcome.exit_code == 2
    assert f"--weights weights: {Path(file).parent} cannot be loaded: " in outcome.message


def test_a_damaged_checkpoint_of_a_training_is_one_message(run: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "judge").mkdir(parents=True)
    (tmp_path / "runs" / "judge" / "checkpoint.safetensors").write_bytes(b"no weights")
    outcome = run("toyworld", "train", "--part", "judge", "--steps", 1, "--batch-size", 2, "--out", "runs")
    assert outcome.exit_code == 2
    assert "--out runs: " in outcome.message


def test_evaluation_draws_with_as_many_steps_as_its_figures_say() -> None:
    drawer = drawing.Drawer(None, "toyworld", judge=None)
    assert (drawer.steps, drawer.guidance_scale) == (25, 4.0)
