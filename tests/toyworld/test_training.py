import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from negguide.toyworld.train.data import batch_of_scenes
from negguide.toyworld.train.loop import result, train
from negguide.toyworld.train.recipe import RECIPES, run
from negguide.toyworld.train.settings import Settings


def regression(folder, settings, stop_after=None):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def make_batch(step):
        if step == stop_after:
            raise KeyboardInterrupt
        return {"x": torch.randn(16, 4, generator=torch.Generator().manual_seed(step))}

    def loss(batch, generator):
        x = batch["x"] + 0.1 * torch.randn(16, 4, generator=generator)
        return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

    train({"model": model}, make_batch, loss, settings, folder, name="test")
    return model


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("negguide.toyworld.train.loop.SAVE_EVERY_SECONDS", 0.0)
    settings = Settings(steps=30, lr=0.1, warmup=5, ema=0.9)
    whole = regression(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        regression(tmp_path / "killed", settings, stop_after=17)
    resumed = regression(tmp_path / "killed", settings)
    assert torch.equal(whole.weight, resumed.weight)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    ]
    assert steps[-1] == 29


def test_a_training_does_not_go_on_with_another_seed(tmp_path):
    settings = Settings(steps=3, lr=0.1, warmup=1)
    regression(tmp_path, settings)
    with pytest.raises(ValueError, match=r"seed=1: .* was begun with seed 0"):
        regression(tmp_path, replace(settings, steps=6, seed=1))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_the_result_is_the_running_average_where_one_is_kept(tmp_path):
    model = regression(tmp_path / "a", Settings(steps=10, lr=0.1, warmup=1, ema=0.9))
    stored = result(tmp_path / "a", "model")
    assert torch.equal(stored["weight"], model.weight)
    plain = regression(tmp_path / "b", Settings(steps=10, lr=0.1, warmup=1))
    assert torch.equal(result(tmp_path / "b", "model")["weight"], plain.weight)
    assert not torch.equal(model.weight, plain.weight)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    settings = Settings(steps=5, lr=0.1, warmup=1)
    regression(tmp_path, settings)
    before = result(tmp_path, "model")["weight"].clone()
    model = nn.Linear(4, 1)

    def loss(batch, generator):
        return {"loss": model.weight.sum() * torch.nan}

    with pytest.raises(FloatingPointError, match="step 5"):
        train({"model": model}, lambda _: {}, loss, replace(settings, steps=9), tmp_path, name="test")
    assert torch.equal(result(tmp_path, "model")["weight"], before)


def test_worker_processes_change_nothing(tmp_path):
    settings = Settings(steps=6, lr=0.1, warmup=1)
    here = regression(tmp_path / "here", settings)
    ahead = regression(tmp_path / "ahead", replace(settings, workers=1))
    assert torch.equal(here.weight, ahead.weight)


def test_the_learning_rate_rises_holds_and_falls():
    settings = Settings(steps=100, lr=1.0, warmup=10, decay=0.5)
    assert settings.lr_at(0) == pytest.approx(0.1)
    assert settings.lr_at(40) == 1.0
    assert settings.lr_at(75) == pytest.approx(0.5)


def test_by_the_clock_the_learning_rate_falls_with_the_minutes():
    settings = Settings(steps=1, minutes=2.0, lr=1.0, warmup=1, decay=0.5)
    assert settings.lr_at(500, seconds=59.0) == 1.0
    assert settings.lr_at(500, seconds=90.0) == pytest.approx(0.5)
    assert settings.lr_at(500, seconds=121.0) == 0.0


def test_a_training_by_the_clock_stops_and_counts_what_earlier_runs_took(tmp_path, monkeypatch):
    monkeypatch.setattr("negguide.toyworld.train.loop.SAVE_EVERY_SECONDS", 0.0)
    clock = iter(range(10_000))
    monkeypatch.setattr("negguide.toyworld.train.loop.time.monotonic", lambda: 1.0 * next(clock))
    settings = Settings(steps=1, minutes=0.2, lr=0.1, warmup=1)  # twelve ticks of the clock
    with pytest.raises(KeyboardInterrupt):
        regression(tmp_path, settings, stop_after=4)
    regression(tmp_path, settings)
    first, second = 4, None
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    second = lines[-1]["step"] + 1
    assert second > first
    assert lines[-1]["seconds"] >= 12
    regression(tmp_path, settings)  # nothing is left to do
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] + 1 == second


def test_a_checkpoint_is_followed_by_samples(tmp_path):
    seen = []
    model = nn.Linear(4, 1)

    def loss(batch, generator):
        return {"loss": model.weight.square().sum()}

    settings = Settings(steps=3, lr=0.1, warmup=1)
    train({"model": model}, lambda _: {}, loss, settings, tmp_path, name="test", sample=seen.append)
    assert seen == [3]


def test_a_batch_depends_on_seed_and_number_alone_and_the_splits_are_disjoint():
    assert batch_of_scenes(0, 5, 8)[0] == batch_of_scenes(0, 5, 8)[0]
    assert batch_of_scenes(0, 5, 8)[0] != batch_of_scenes(1, 5, 8)[0]
    trained = {scene for step in range(20) for scene in batch_of_scenes(0, step, 64)[0]}
    tested = {scene for step in range(20) for scene in batch_of_scenes(0, step, 64, test=True)[0]}
    assert not trained & tested


def test_every_model_trains_and_is_written_from_nothing(tmp_path, monkeypatch):
    for name, settings in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(settings, batch_size=4))
        run(name, tmp_path, steps=2)
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPProcessor

    from negguide.toyworld.judge import Judge

    weights = tmp_path / "weights"
    pipe = StableDiffusionPipeline.from_pretrained(weights / "text-to-image", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a bear", num_inference_steps=2).images[0]
    assert image.size == (64, 64)
    samples = list((tmp_path / "text-to-image" / "samples").glob("*.png"))
    assert [path.name for path in samples] == ["000002.png"]
    card = (weights / "README.md").read_text()
    made = json.loads((weights / "training.json").read_text())
    assert list(made) == list(RECIPES)
    for name in RECIPES:
        assert f"| {name} | 2 | 4 | 8 |" in card
        assert made[name]["settings"]["batch_size"] == 4
    assert (weights / "training.png").stat().st_size > 10_000
    assert len(Judge.load(weights / "judge").read([image])) == 1
    clip = CLIPModel.from_pretrained(weights / "clip", dtype=torch.float32)
    written = weights / "text-to-image" / "unet" / "diffusion_pytorch_model.safetensors"
    trained = written.read_bytes()
    written.write_bytes(b"of an earlier checkpoint")  # as where the process is killed after the last one
    run("text-to-image", tmp_path, steps=2)
    assert written.read_bytes() == trained
    batch = CLIPProcessor.from_pretrained(weights / "clip")(
        text=["a bear"], images=[image], return_tensors="pt"
    )
    assert clip(**batch).logits_per_image.shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 1, "batch_size": 0}, "batch_size=0"),
        ({"steps": 1, "ema": 1.0}, "ema=1.0"),
        ({"steps": 1, "minutes": 0.0}, "minutes=0.0"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)


def test_an_unknown_model_and_a_missing_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'upscaler'"):
        run("upscaler", tmp_path)
    with pytest.raises(ValueError, match="train 'text-encoder' first"):
        run("text-to-image", tmp_path, steps=1)
