"""Whole runs on the tiny set: results, resumption after a kill, and what stops a run."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPProcessor, SiglipModel

from negguide.vlm import losses
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.rows import open_image
from negguide.vlm.losses import registry
from negguide.vlm.losses.registry import loss_by_name, registered_losses
from negguide.vlm.models import load_model
from negguide.vlm.training.checkpoint import Checkpoints
from negguide.vlm.training.config import Settings, default_lr
from negguide.vlm.training.log import Log
from negguide.vlm.training.loop import LossNotFiniteError, Outcome, finetune
from negguide.vlm.training.towers import MAX_SCALE, interpolate


def run(settings: Settings, out: Path, **more: Any) -> Outcome:
    return finetune(settings, out, cpu=True, **more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(
    triplet_set: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, Path]:
    """A run that nobody disturbed."""
    settings = Settings(
        str(triplet_set), str(tiny_clip), batch_size=14, epochs=2, lr=1e-3, save_every=2, mix_pairs=4
    )
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(settings, out)
    return settings, out


def test_the_result_is_a_model_of_plain_transformers_with_card_log_and_curves(
    whole: tuple[Settings, Path], tiny_clip: Path
) -> None:
    settings, out = whole
    model, processor = CLIPModel.from_pretrained(out), CLIPProcessor.from_pretrained(out)
    assert processor.tokenizer("a bear").input_ids[0] == 1
    assert not same(dict(model.state_dict()), weights(tiny_clip))
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = Log(out / "log.jsonl").lines()
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0]["lr"] == settings.lr and steps[-1]["lr"] < settings.lr / 2
    assert [line["step"] for line in lines if "validation" in line] == [3, 6]
    card = (out / "README.md").read_text()
    assert "| loss | `triplet` |" in card and "| mix_pairs | `4` |" in card
    assert "| held out/pairs | group |" in card and "| held out/retrieval | text to image R@1 |" in card
    told = json.loads((out / "finetune.json").read_text())
    assert (
        told["settings"] == settings.to_dict()
        and told["start_revision"] == load_model(str(tiny_clip)).revision
    )
    assert told["made_by"]["torch"] == torch.__version__
    assert not list(out.glob(".*")) and not list((out / "checkpoints").glob(".*"))


def test_the_best_state_on_held_out_rows_is_the_result(whole: tuple[Settings, Path]) -> None:
    _, out = whole
    checkpoints = Checkpoints(out / "checkpoints")
    best = checkpoints.best()
    scores = {
        line["step"]: line["validation"] for line in Log(out / "log.jsonl").lines() if "validation" in line
    }
    assert best is not None and best[1] == max(scores.values()) == scores[best[0]]
    kept = load_file(out / "checkpoints" / "best.safetensors")
    assert same({f"model.{name}": value for name, value in weights(out).items()}, kept)


KILLED = """
import json, sys
from pathlib import Path
from negguide.vlm.training.config import Settings
from negguide.vlm.training.loop import finetune
finetune(Settings(**json.loads(sys.argv[1])), Path(sys.argv[2]), cpu=True)
"""


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(
    whole: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings, out = whole
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, json.dumps(asdict(settings)), str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = killed / "checkpoints" / "step-00000002" / "state.json"
    end = time.monotonic() + 100
    while not first.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (killed / "config.json").exists()
    with pytest.raises(ValueError, match="holds a run already; go on with it by resume='latest'"):
        run(settings, killed)
    # settings that change nothing may differ
    run(replace(settings, workers=1), killed, resume="latest")
    assert same(weights(killed), weights(out))
    for name in ("model", "optimizer"):
        path = Path("checkpoints") / "step-00000006" / f"{name}.safetensors"
        assert same(load_file(killed / path), load_file(out / path))
    times = ("images_per_second",)
    logs = [
        [{k: v for k, v in line.items() if k not in times} for line in Log(folder / "log.jsonl").lines()]
        for folder in (killed, out)
    ]
    assert logs[0] == logs[1]


def test_a_run_is_not_resumed_with_other_settings(whole: tuple[Settings, Path]) -> None:
    settings, out = whole
    with pytest.raises(
        ValueError, match=r"made with other settings: loss='negclip' \(was 'triplet'\), lr=0\.1 \(was"
    ):
        run(replace(settings, loss="negclip", lr=0.1), out, resume="latest")
    with pytest.raises(
        ValueError, match=r"resume='step-9' is no checkpoint of .*; give 'latest' or one of: step-00000004"
    ):
        run(settings, out, resume="step-9")
    before = weights(out)
    run(settings, out, resume="latest")  # nothing is left to do
    assert same(weights(out), before)


def test_a_line_cut_off_by_a_kill_and_later_steps_are_forgotten(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.begin(0)
    for step in (1, 2, 3):
        log.add({"step": step, "loss": 0.1})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in log.lines()] == [1, 2, 3]
    log.begin(2)
    assert [line["step"] for line in log.lines()] == [1, 2]


@pytest.mark.parametrize("loss", [name for name in registered_losses() if "siglip" not in name])
def test_every_softmax_loss_trains_clip(settings: Settings, tmp_path: Path, loss: str) -> None:
    outcome = run(replace(settings, loss=loss, epochs=1, val_fraction=0.0), tmp_path / "out")
    lines = Log(tmp_path / "out" / "log.jsonl").lines()
    assert len(lines) == outcome.steps == (3 if loss != "grouped" else 6) and outcome.before is None
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in lines)


@pytest.mark.parametrize("loss", ["siglip", "negsiglip", "triplet"])
def test_siglip_trains_with_its_own_losses_and_the_others(
    settings: Settings, tiny_siglip: Path, tmp_path: Path, loss: str
) -> None:
    run(replace(settings, model=str(tiny_siglip), loss=loss, epochs=1), tmp_path / "out")
    tuned, start = SiglipModel.from_pretrained(tmp_path / "out"), SiglipModel.from_pretrained(tiny_siglip)
    assert torch.equal(tuned.logit_bias, start.logit_bias) == (loss == "triplet")
    with pytest.raises(ValueError, match="loss='siglip' needs a model with a logit bias"):
        run(replace(settings, loss="siglip"), tmp_path / "other")


def test_a_loss_from_outside_trains(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_LOSSES", dict(registered_losses()))

    @registry.register_loss("cosine")
    def cosine(image: torch.Tensor, text: torch.Tensor, negative_text: torch.Tensor) -> torch.Tensor:
        return ((image * negative_text).sum(dim=1) - (image * text).sum(dim=1)).mean()

    run(replace(settings, loss="cosine", epochs=4, lr=1e-2, val_fraction=0.0), tmp_path / "out")
    values = [line["loss"] for line in Log(tmp_path / "out" / "log.jsonl").lines()]
    assert sum(values[-3:]) < sum(values[:3]) - 0.01
    assert "| loss | `cosine` |" in (tmp_path / "out" / "README.md").read_text()


def test_all_options_act_together_with_cached_gradients(settings: Settings, tmp_path: Path) -> None:
    options = {
        "accum_freq": 2,
        "batch_size": 7,
        "distill": 0.5,
        "rank_margin": 0.1,
        "smoothing": 0.1,
        "focal": 1.0,
        "paraphrases": True,
        "false_negative_fraction": 0.9,
        "mix_pairs": 4,
        "mix_queries": 2,
        "mix_hardest": 4,
        "grad_checkpointing": True,
        "precision": "amp_bf16",
        "epochs": 1,
    }
    run(replace(settings, **options), tmp_path / "out")
    line = Log(tmp_path / "out" / "log.jsonl").lines()[0]
    assert line["loss"] == pytest.approx(line["triplet"] + line["rank margin"] + line["distill"], rel=1e-4)
    run(replace(settings, continuous=True, epochs=1), tmp_path / "cwcl")
    assert Log(tmp_path / "cwcl" / "log.jsonl").lines()[0]["loss"] > 0


def test_a_run_that_was_killed_before_its_first_state_leaves_nothing_to_the_next(
    settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(replace(settings, epochs=1, val_fraction=0.2), out)
    for path in (*out.glob("checkpoints/step-*"), *out.glob("*.json")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert (out / "checkpoints" / "best.safetensors").is_file()
    before = json.loads((out / "checkpoints" / "before.json").read_text())
    (out / "checkpoints" / "before.json").write_text(json.dumps({**before, "model": "another"}))
    outcome = run(replace(settings, epochs=1, seed=5, val_fraction=0.2), out, resume="latest")
    assert outcome.before is not None and outcome.before.model == settings.model


def test_lora_begins_with_the_same_numbers_for_the_same_seed(settings: Settings, tmp_path: Path) -> None:
    told = replace(settings, lora=2, epochs=1, lr=1e-2)
    for name in "ab":
        torch.manual_seed(ord(name))  # what other code has drawn before
        run(told, tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_accumulated_batches_train_as_one_large_one(settings: Settings, tmp_path: Path) -> None:
    # dropout draws other numbers for other batch sizes, so without it
    start = load_model(settings.model)
    for config in (start.model.config.text_config, start.model.config.vision_config):
        config.attention_dropout = 0.0
    start.model.save_pretrained(tmp_path / "model")
    start.processor.save_pretrained(tmp_path / "model")
    found = []
    for size, accum in ((14, 1), (7, 2)):
        changed = replace(
            settings,
            model=str(tmp_path / "model"),
            batch_size=size,
            accum_freq=accum,
            epochs=1,
            val_fraction=0.0,
        )
        run(changed, tmp_path / str(size))
        found.append([line["loss"] for line in Log(tmp_path / str(size) / "log.jsonl").lines()])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_scale_of_the_cosines_stays_within_clips_bounds(
    settings: Settings, tiny_clip: Path, tmp_path: Path
) -> None:
    start = load_model(str(tiny_clip))
    start.model.logit_scale.data.fill_(6.0)  # a factor of 403
    start.model.save_pretrained(tmp_path / "model")
    start.processor.save_pretrained(tmp_path / "model")
    run(replace(settings, model=str(tmp_path / "model"), epochs=1), tmp_path / "out")
    scales = [line["scale"] for line in Log(tmp_path / "out" / "log.jsonl").lines() if "scale" in line]
    assert max(scales) == pytest.approx(MAX_SCALE)
    assert weights(tmp_path / "out")["logit_scale"].exp() <= MAX_SCALE * 1.0001


def test_a_tracker_gets_the_settings_every_step_and_every_validation(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    class Recorder(tracking.GeneralTracker):
        """In the place of tensorboard, which the tests do not install."""

        name = "tensorboard"
        requires_logging_directory = True
        tracker = None

        def __init__(self, run_name: str, logging_dir: Path, **more: Any) -> None:
            super().__init__()
            told.append(("begin", run_name, Path(logging_dir)))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            told.append(("settings", values))

        def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
            told.append((step, values))

        def finish(self) -> None:
            told.append(("end",))

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    run(settings, tmp_path / "out", report_to="tensorboard")
    begin, (_, flat), *lines, end = told
    assert begin == ("begin", "negguide", tmp_path / "out" / "tracker") and end == ("end",)
    assert flat["loss"] == "triplet" and flat["lr"] == settings.lr and flat["warmup"] == ""
    assert [step for step, values in lines if "loss" in values] == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in lines if "validation" in values] == [3, 6]


def test_a_run_that_can_measure_nothing_logs_it(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="negguide"):
        run(replace(settings, epochs=1, val_fraction=0.0), tmp_path / "out")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("negguide")]
    assert told == [
        "nothing is measured before and after: no suite is named, and val_fraction=0 holds no rows out"
    ]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_stays_as_it_was(
    settings: Settings, tiny_clip: Path, tmp_path: Path, tower: str
) -> None:
    run(replace(settings, **{f"lock_{tower}": True}, epochs=1), tmp_path / "out")
    before, after = weights(tiny_clip), weights(tmp_path / "out")
    prefix = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}[
        tower
    ]
    for name in before:
        if "position_ids" not in name:
            assert torch.equal(before[name], after[name]) == name.startswith(prefix), name


def test_lora_changes_the_layers_of_the_towers_alone_and_leaves_a_plain_model(
    settings: Settings, tiny_clip: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    run(replace(settings, lora=2, lock_text=True, lr=1e-2), tmp_path / "out")
    before, after = weights(tiny_clip), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(
        name.startswith("vision_model.encoder.layers.") for name in changed - {"logit_scale"}
    )
    assert len(load_file(tmp_path / "out" / "checkpoints" / "best.safetensors")) < len(before)
    CLIPModel.from_pretrained(tmp_path / "out")


def test_wise_ft_lies_between_the_start_model_and_the_tuned_one(
    settings: Settings, tiny_clip: Path, tmp_path: Path
) -> None:
    run(settings, tmp_path / "tuned")
    run(replace(settings, wise_ft=0.25), tmp_path / "mixed")
    start, tuned, mixed = weights(tiny_clip), weights(tmp_path / "tuned"), weights(tmp_path / "mixed")
    for name, value in mixed.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * tuned[name])
    model = CLIPModel.from_pretrained(tiny_clip)
    interpolate(model, model, 0.3)
    assert same(dict(model.state_dict()), weights(tiny_clip))


def test_distillation_holds_on_to_the_start_models_view(settings: Settings, tmp_path: Path) -> None:
    moved = {}
    for weight in (0.0, 20.0):
        out = tmp_path / str(weight)
        run(replace(settings, epochs=4, loss="clip", distill=weight, val_fraction=0.0), out)
        rows = read_triplets(settings.train_data)
        views = []
        for model in (load_model(str(out)), load_model(settings.model)):
            images = model.encode_images([open_image(row.id, row.image) for row in rows])
            views += [images, model.encode_texts([row.caption for row in rows])]
        moved[weight] = float(losses.distill(*views[:2], 14.3, *views[2:], 14.3))
    assert moved[20.0] < 0.5 * moved[0.0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(**inputs: Any) -> torch.Tensor:
        calls.append(1)
        return losses.clip(**inputs) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setitem(registry._LOSSES, "clip", replace(loss_by_name("clip"), function=broken))
    settings = replace(settings, loss="clip", val_fraction=0.0)
    with pytest.raises(
        LossNotFiniteError, match=r"the loss is not finite at step 5; .* the items item-"
    ) as failure:
        run(settings, tmp_path / "out")
    last = Log(tmp_path / "out" / "log.jsonl").lines()[-1]
    assert last["step"] == 5 and len(last["items"]) == 14
    assert all(f"item-{name.removeprefix('item-')}" in str(failure.value) for name in last["items"])
    assert f"the last good checkpoint is {tmp_path / 'out' / 'checkpoints' / 'step-00000003'}" in str(
        failure.value
    )
    state = load_file(tmp_path / "out" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())
    run(settings, tmp_path / "out", resume="latest")
    assert [line["step"] for line in Log(tmp_path / "out" / "log.jsonl").lines()] == [1, 2, 3, 4, 5, 6]


def test_a_broken_image_stops_the_run_and_is_named(
    changed_set: Callable[..., Path], settings: Settings, tmp_path: Path
) -> None:
    folder = changed_set(lambda i, row: row)
    (folder / "images" / "030.png").write_bytes(b"not an image")
    for workers in (0, 1):
        changed = replace(settings, train_data=str(folder), val_fraction=0.0, workers=workers)
        with pytest.raises(ValueError, match=r"^the image .*030\.png of item 'item-30' cannot be read"):
            run(changed, tmp_path / f"out{workers}")


def test_wrong_settings_are_refused_with_what_would_be_right(tmp_path: Path, settings: Settings) -> None:
    for changes, message in (
        ({"loss": "hinge"}, "loss='hinge' is not known; use one of clip, conclip, grouped"),
        ({"precision": "fp8"}, "precision='fp8' is not known; use one of fp32, amp, amp_bf16"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"lr": 0.0}, "lr=0.0 must be above 0"),
        ({"wise_ft": 1.5}, "wise_ft=1.5 must be at least 0 and at most 1"),
        ({"smoothing": 1.0}, "smoothing=1.0 must be at least 0 and below 1"),
        ({"false_negative_fraction": 0.0}, "false_negative_fraction=0.0 must be above 0"),
        ({"lock_image": True, "lock_text": True}, "leave nothing to train"),
        ({"loss": "siglip", "focal": 1.0}, "loss='siglip' has no focal"),
        ({"continuous": True, "focal": 1.0}, "no single positive"),
        ({"continuous": True, "dice": True}, "no single positive"),
        ({"dice": True, "smoothing": 0.1}, r"dice has no labels that smoothing=0\.1 could smooth"),
        ({"loss": "siglip", "dice": True}, "loss='siglip' has no dice"),
        ({"loss": "grouped", "rank_margin": 0.1}, "rank_margin compares a row with its own negative"),
        (
            {"curriculum": "object", "epochs": 1},
            "curriculum_epochs=1 of epochs=1 leaves none for the whole set",
        ),
        ({"curriculum": " , "}, "curriculum=' , ' names no category; give one, or several with commas"),
        ({"curriculum_epochs": 2}, "curriculum_epochs=2 has no meaning without curriculum"),
        ({"train_num_samples": 0}, "train_num_samples=0 must be at least 1"),
        ({"curriculum_epochs": 0}, "curriculum_epochs=0 must be at least 1"),
        ({"loss": "grouped", "batch_size": 2, "group_size": 3}, "batch_size=2 is smaller than a group of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(settings, **changes)
    with pytest.raises(ValueError, match="batch_size=64 is larger than the set, which has 43 rows"):
        run(replace(settings, batch_size=64), tmp_path / "out")
    with pytest.raises(
        ValueError,
        match=r"curriculum='colour': .* has no rows of category 'colour'; it has attribute, object",
    ):
        run(replace(settings, curriculum="colour"), tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"curriculum='object', \d+ rows: batch_size=40 is larger than the set"
    ):
        run(replace(settings, curriculum="object", batch_size=40), tmp_path / "out")
    with pytest.raises(ValueError, match=r"warmup=500 is more than the \d+ steps of the run"):
        run(replace(settings, warmup=500), tmp_path / "out")
    with pytest.raises(ValueError, match="report_to='tensorbord' is not installed or not known"):
        run(settings, tmp_path / "out", report_to="tensorbord")
    with pytest.raises(
        ValueError, match=r"precision='amp' \(float16\) needs a GPU, .*; use amp_bf16 or fp32"
    ):
        run(replace(settings, precision="amp"), tmp_path / "out")
    assert default_lr("toyworld") > default_lr("openai/clip-vit-base-patch32")
