import json

import pytest
import torch
from diffusers import FluxPipeline

from negguide.toyworld.train import distill
from negguide.toyworld.train.distill import (
    GUIDANCE_SCALES,
    SUBSTEPS,
    TURBO_GUIDANCE,
    TURBO_STEPS,
    Captions,
    at_guidance,
    predict,
    train_distilled,
    train_turbo,
    trajectory,
    with_guidance,
)
from negguide.toyworld.train.flow import new_t5_encoder, new_t5_tokenizer
from negguide.toyworld.train.loop import result
from negguide.toyworld.train.recipe import frozen_parts, run
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.words import MAX_TOKENS

pytestmark = pytest.mark.usefixtures("tiny_transformer")


@pytest.fixture
def conditions():
    """Packed noise, times, hidden states and pooled vectors of three captions."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 64, 32), (3, 7, 192), (3, 192))
    x, text, pooled = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, torch.tensor([1.0, 0.6, 0.1]), text, pooled


def settings(**changes):
    return Settings(**({"steps": 3, "batch_size": 2, "lr": 1e-3, "warmup": 1, "ema": 0.9} | changes))


def stir(model):
    """Random weights where a new model has zeros, as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def test_the_guidance_embedding_begins_without_effect_and_is_an_input(conditions, tiny_transformer):
    base = stir(tiny_transformer())
    student = with_guidance(base)
    assert student.config.guidance_embeds
    one, six = torch.full((3,), 1.0), torch.full((3,), 6.0)
    with torch.no_grad():
        torch.testing.assert_close(predict(student, *conditions, one), predict(base, *conditions))
        stir(student.time_text_embed.guidance_embedder)
        assert not torch.equal(predict(student, *conditions, one), predict(student, *conditions, six))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_one_guidance_folds_into_the_embedding_of_time(conditions, scale, tiny_transformer):
    distilled = stir(tiny_transformer(guidance=True))
    folded = at_guidance(distilled, scale)
    assert not folded.config.guidance_embeds
    with torch.no_grad():
        wanted = predict(distilled, *conditions, torch.full((3,), scale))
        torch.testing.assert_close(predict(folded, *conditions), wanted, atol=1e-5, rtol=1e-5)
        other = predict(distilled, *conditions, torch.full((3,), scale + 1))
    assert not torch.allclose(wanted, other, atol=1e-3)


def test_captions_stand_behind_as_many_empty_ones(tmp_path):
    text_encoder = frozen_parts(tmp_path)[1]
    captions = Captions(text_encoder, new_t5_encoder(new_t5_tokenizer()), torch.device("cpu"))
    batch = captions.batch(0, 5, 6, pictures=True)
    ids = batch["ids"]
    assert len(ids) == len(batch["pooled_ids"]) == 12
    assert batch["images"].shape == (6, 3, 64, 64)
    read = captions.t5_tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert read[:6] == [""] * 6
    assert sum(text != "" for text in read[6:]) >= 4
    assert torch.equal(batch["ids"], captions.batch(0, 5, 6, pictures=True)["ids"])
    alone = captions.batch(0, 5, 6, pictures=False)
    assert alone.keys() == {"ids", "pooled_ids"}
    assert len(alone["ids"]) == len(alone["pooled_ids"]) == 6
    text, pooled = captions.encode(batch)
    assert text.shape == (12, ids.shape[1], 192)
    assert pooled.shape == (12, 192)


def test_a_trajectory_is_what_the_pipeline_draws(trained):
    """Of the distilled model at a guidance scale, and of the few-step one, by the pipelines that users load."""
    for name, guidance in (("flow-distilled", 3.0), ("flow-turbo", None)):
        pipe = FluxPipeline.from_pretrained(trained / "weights" / name, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        stir(pipe.transformer)
        with torch.no_grad():
            text, pooled, _ = pipe.encode_prompt("a red hat", None, max_sequence_length=MAX_TOKENS)
        noise = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
        points = trajectory(pipe.transformer, noise, text, pooled, 4, guidance)
        assert len(points) == 5
        drawn = pipe(
            "a red hat",
            height=64,
            width=64,
            latents=noise,
            num_inference_steps=4,
            guidance_scale=guidance or 1.0,
            max_sequence_length=MAX_TOKENS,
            output_type="latent",
        ).images
        torch.testing.assert_close(points[-1], drawn, atol=1e-4, rtol=1e-4)


def test_the_exports_are_plain_pipelines_of_their_kinds(trained):
    for name, embeds in (("flow-distilled", True), ("flow-turbo", False)):
        pipe = FluxPipeline.from_pretrained(trained / "weights" / name, local_files_only=True)
        assert pipe.transformer.config.guidance_embeds is embeds
        assert [path.name for path in (trained / name / "samples").glob("*.png")] == ["000002.png"]
        made = json.loads((trained / "weights" / "training.json").read_text())[name]
        assert (made["steps"], made["images"]) == (2, 4)


def test_the_distilled_model_learns_what_guidance_does(tmp_path, monkeypatch, tiny_transformer):
    """One step towards the target of a known teacher: the loss is that of the written-out formula."""
    vae, text_encoder = frozen_parts(tmp_path)
    base = stir(tiny_transformer())
    losses = []

    def once(modules, make_batch, loss, settings, folder, **_):
        losses.append(loss(make_batch(0), torch.Generator().manual_seed(0))["loss"].item())
        # at guidance 1 there is nothing to learn
        monkeypatch.setattr(distill, "GUIDANCE_SCALES", (1.0, 1.0))
        losses.append(loss(make_batch(0), torch.Generator().manual_seed(0))["loss"].item())

    monkeypatch.setattr(distill, "train", once)
    train_distilled(tmp_path, settings(), vae, text_encoder, new_t5_encoder(new_t5_tokenizer()), base)
    assert losses[0] > 1e-6
    assert losses[1] == pytest.approx(0.0, abs=1e-9)


def test_both_trainings_lower_their_loss_and_leave_the_teacher_alone(tmp_path, tiny_transformer):
    vae, text_encoder = frozen_parts(tmp_path)
    encoder = new_t5_encoder(new_t5_tokenizer())
    base = stir(tiny_transformer())
    before = {key: value.clone() for key, value in base.state_dict().items()}
    rest = (vae, text_encoder, encoder)
    distilled = train_distilled(tmp_path / "d", settings(steps=41), *rest, base)
    train_turbo(tmp_path / "t", settings(steps=41), *rest, distilled)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    for name in "dt":
        lines = [
            json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        assert lines[-1] < lines[0], name


def test_a_killed_distillation_goes_on_to_the_same_weights(tmp_path, monkeypatch, tiny_transformer):
    monkeypatch.setattr("negguide.toyworld.train.loop.SAVE_EVERY_SECONDS", 0.0)
    rest = (*frozen_parts(tmp_path), new_t5_encoder(new_t5_tokenizer()).eval())
    distilled = stir(tiny_transformer(guidance=True))

    def stop(step):
        if step == 2:
            raise KeyboardInterrupt

    for train, teacher in ((train_distilled, stir(tiny_transformer())), (train_turbo, distilled)):
        folder = tmp_path / train.__name__
        train(folder / "whole", settings(), *rest, teacher)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "killed", settings(), *rest, teacher, stop)
        train(folder / "killed", settings(), *rest, teacher)
        whole, resumed = (result(folder / part, "transformer") for part in ("whole", "killed"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_few_steps_are_those_of_the_teacher(tmp_path, monkeypatch, tiny_transformer):
    """The student's targets are mean velocities between points of the teacher's path, at the student's times."""
    vae, text_encoder = frozen_parts(tmp_path)
    distilled = stir(tiny_transformer(guidance=True))
    asked = []

    def seen(model, x, t, text, pooled, guidance=None):
        asked.append(
            (
                len(x),
                sorted({round(v, 4) for v in t.tolist()}),
                None if guidance is None else guidance[0].item(),
            )
        )
        return 0 * x + t.view(-1, 1, 1)

    monkeypatch.setattr(distill, "predict", seen)
    monkeypatch.setattr(
        distill,
        "train",
        lambda modules, make_batch, loss, *_, **__: losses.append(
            loss(make_batch(0), torch.Generator().manual_seed(0))["loss"].item()
        ),
    )
    losses: list[float] = []
    train_turbo(tmp_path, settings(), vae, text_encoder, new_t5_encoder(new_t5_tokenizer()), distilled)
    many = TURBO_STEPS * SUBSTEPS
    assert [one[1] for one in asked[:-1]] == [[round(1 - i / many, 4)] for i in range(many)]
    assert {one[2] for one in asked[:-1]} == {TURBO_GUIDANCE}
    assert asked[-1] == (2 * TURBO_STEPS, sorted(1 - i / TURBO_STEPS for i in range(TURBO_STEPS)), None)
    # the mean of t over a step's substeps lies half a step less half a substep below the step's beginning
    offset = (1 / TURBO_STEPS - 1 / many) / 2
    assert losses == [pytest.approx(offset**2, rel=1e-3)]


def test_the_scales_hold_the_one_that_the_few_step_model_imitates():
    low, high = GUIDANCE_SCALES
    assert low <= TURBO_GUIDANCE <= high


@pytest.mark.parametrize("name", ["flow-distilled", "flow-turbo"])
def test_a_student_needs_its_teacher_first(tmp_path, name):
    with pytest.raises(ValueError, match="train 'flow-text-encoder' first"):
        run(name, tmp_path, steps=1)
