import json
import random
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from negguide.toyworld.models import TEXT_TO_IMAGE
from negguide.toyworld.train import flow, recipe
from negguide.toyworld.train.flow import (
    TEXT_LENGTHS,
    TokenReader,
    flow_times,
    new_flow_scheduler,
    new_t5_encoder,
    new_t5_tokenizer,
    new_transformer,
    packed,
    places,
    text_tokens,
    train_flow,
    train_t5_encoder,
)
from negguide.toyworld.train.loop import result
from negguide.toyworld.train.recipe import PARTS, frozen_parts, run, run_part
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.words import MAX_TOKENS

pytestmark = pytest.mark.usefixtures("tiny_transformer")


def settings(**changes):
    return Settings(**({"steps": 3, "batch_size": 2, "lr": 1e-3, "warmup": 1, "ema": 0.9} | changes))


def test_the_part_trains_the_text_encoder_and_then_the_transformer():
    assert PARTS["flow"] == ("flow-text-encoder", "flow")


def test_plain_diffusers_loads_the_export_and_draws_with_true_guidance(trained):
    pipe = FluxPipeline.from_pretrained(trained / "weights" / "flow", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": MAX_TOKENS}

    def draw(**arguments):
        return pipe("a bear", generator=torch.Generator().manual_seed(0), **size, **arguments).images[0]

    guided = draw(true_cfg_scale=4.0, negative_prompt="")
    assert guided.size == (64, 64)
    assert guided.tobytes() != draw().tobytes()
    assert not pipe.transformer.config.guidance_embeds
    assert (pipe.scheduler.config.shift, pipe.scheduler.config.use_dynamic_shifting) == (1.0, False)
    longer = pipe("a bear", height=64, width=64, num_inference_steps=1).images[0]  # pads to 512 tokens
    assert longer.size == (64, 64)


def test_the_export_is_safetensors_in_half_precision_and_names_no_folder(trained):
    folder = trained / "weights" / "flow"
    weights = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert {path.suffix for path in weights} == {".safetensors"}
    assert len(weights) == 4
    for path in weights:
        tensors = load_file(path)
        small = [key for key, value in tensors.items() if value.dtype == torch.float16]
        # transformers keeps the output of T5's feed-forward layers in float32
        assert all(key.endswith(".wo.weight") for key in tensors.keys() - set(small))
    written = "".join(path.read_text() for path in folder.rglob("*.json"))
    assert str(TEXT_TO_IMAGE.parent) not in written
    assert str(trained) not in written


def test_the_frozen_models_are_the_shipped_ones_where_none_was_trained(trained):
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        shipped = load_file(TEXT_TO_IMAGE / part / f"{name}.safetensors")
        exported = load_file(trained / "weights" / "flow" / part / f"{name}.safetensors")
        assert shipped.keys() == exported.keys()
        assert all(torch.equal(shipped[key], exported[key]) for key in shipped)


def test_it_leaves_grids_curves_and_a_card(trained):
    names = [path.name for path in (trained / "flow" / "samples").glob("*.png")]
    assert names == ["000002.png"]
    card = (trained / "weights" / "README.md").read_text()
    made = json.loads((trained / "weights" / "training.json").read_text())
    for name in PARTS["flow"]:
        assert f"| {name} | 2 | 4 | 8 |" in card
        assert made[name]["settings"]["steps"] == 2
    assert (trained / "weights" / "training.png").stat().st_size > 10_000


def test_grids_are_drawn_no_closer_than_asked(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("negguide.toyworld.train.loop.SAVE_EVERY_SECONDS", 0.0)
    drawn = []
    monkeypatch.setattr(recipe, "draw_samples", lambda pipe, path, title, **_: drawn.append(path.name))
    (tmp_path / "flow-text-encoder").symlink_to(trained / "flow-text-encoder")
    recipe._flow(tmp_path, settings())  # a checkpoint every step, and a grid only at the end
    assert drawn == ["000003.png"]


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("negguide.toyworld.train.loop.SAVE_EVERY_SECONDS", 0.0)

    def start(folder, sample=None):
        torch.manual_seed(1)
        train_flow(folder, settings(), *frozen_parts(tmp_path), new_t5_encoder(new_t5_tokenizer()), sample)

    def stop(step):
        if step == 2:
            raise KeyboardInterrupt

    start(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "killed", stop)
    start(tmp_path / "killed")
    whole, resumed = (result(tmp_path / folder, "transformer") for folder in ("whole", "killed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_it_learns_and_leaves_the_frozen_models_alone(tmp_path):
    vae, text_encoder = frozen_parts(tmp_path)
    encoder = new_t5_encoder(new_t5_tokenizer())
    frozen = [p for model in (vae, text_encoder, encoder) for p in model.parameters()]
    before = [p.clone() for p in frozen]
    train_flow(tmp_path, settings(steps=21), vae, text_encoder, encoder)
    first, last = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][:2]
    assert last["loss"] < first["loss"]
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))


def test_the_t5_encoder_learns_to_read(tmp_path):
    train_t5_encoder(tmp_path, settings(steps=21, batch_size=16))
    first, last = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][:2]
    assert all(last[name] < first[name] for name in ("whole", "slots", "words"))


def test_the_sampler_of_the_pipeline_follows_the_learned_direction_to_the_picture():
    """With the exact velocity noise - latents in place of the transformer, two steps end at the latents."""
    vae, text_encoder = frozen_parts(TEXT_TO_IMAGE)
    encoder = new_t5_encoder(new_t5_tokenizer()).eval()
    latents, noise = torch.randn(2, 1, 8, 16, 16).unbind()

    class Exact(torch.nn.Module):
        config = SimpleNamespace(in_channels=32, guidance_embeds=False)
        device, dtype = torch.device("cpu"), torch.float32

        def cache_context(self, name):
            return torch.no_grad()

        def forward(self, hidden_states, timestep, img_ids, txt_ids, **_):
            t = timestep.view(-1, 1, 1)
            torch.testing.assert_close(hidden_states, (1 - t) * packed(latents) + t * packed(noise))
            assert torch.equal(img_ids, places())
            assert not txt_ids.any()
            return (packed(noise - latents),)

    pipe = FluxPipeline(
        scheduler=new_flow_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=flow.new_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=new_t5_tokenizer(),
        transformer=Exact(),
    )
    pipe.set_progress_bar_config(disable=True)
    got = pipe(
        "a bear", height=64, width=64, num_inference_steps=2, latents=packed(noise), output_type="latent"
    ).images
    torch.testing.assert_close(got, packed(latents))
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (1.0, 0.0)


def test_packing_is_undone_by_the_pipeline():
    latents = torch.randn(2, 8, 16, 16)
    assert packed(latents).shape == (2, 64, 32)
    assert torch.equal(FluxPipeline._unpack_latents(packed(latents), 64, 64, 4), latents)


def test_times_lie_between_picture_and_noise_and_reach_both_ends():
    t = flow_times(20_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert 0 < t.min() < 1e-3
    assert 1 - 1e-3 < t.max() < 1
    assert t.mean() == pytest.approx(0.5, abs=0.01)
    assert ((t > 0.25) & (t < 0.75)).float().mean() == pytest.approx(0.8 * 0.728 + 0.2 * 0.5, abs=0.02)
    again = flow_times(20_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(t, again)


def test_text_is_padded_to_few_lengths_and_never_cut():
    tokenizer = new_t5_tokenizer()
    long = "a white cat in side view wearing a red hat " * 4  # 40 words
    rng = random.Random(0)
    lengths = {text_tokens(tokenizer, ["a bear", ""], rng).shape[1] for _ in range(100)}
    assert lengths == set(TEXT_LENGTHS)
    ids = text_tokens(tokenizer, ["a bear", long], random.Random(1))
    assert ids.shape[1] >= 41
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "a bear"
    assert ids[0].tolist()[2:4] == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert ids[1, 40] == tokenizer.eos_token_id


def test_a_word_outside_the_vocabulary_is_an_error_for_the_t5_tokenizer():
    with pytest.raises(Exception, match="WordLevel"):
        new_t5_tokenizer()(["a unicorn"])


def test_reading_is_perfect_when_the_logits_name_every_field():
    reader = TokenReader()
    labels = torch.zeros(2, len(reader.rows), dtype=torch.int64)
    of_words = torch.tensor([[0, 0, 0, -1, 0, -1, -1]] * 2)
    for layer in (reader.whole, reader.slot, reader.word):
        torch.nn.init.zeros_(layer.weight)
        sizes = reader.sizes if layer is reader.whole else [reader.sizes[i] for i in reader.of_slot[0]]
        sizes = [3, *sizes] if layer is reader.word else sizes
        layer.bias.data = torch.cat([50.0 * (torch.arange(size) == 0) for size in sizes])
    terms = reader.loss(torch.randn(2, 7, 192), labels, of_words)
    assert {name: round(term.item(), 6) for name, term in terms.items()} == dict.fromkeys(terms, 0.0)
    wrong = reader.loss(torch.randn(2, 7, 192), labels + 1, of_words + (of_words >= 0).int())
    assert all(term.item() == pytest.approx(50.0, rel=1e-4) for term in wrong.values())


def test_each_word_is_read_as_part_of_its_character():
    reader = TokenReader()
    text = "a bear to the right of a white cat wearing a red hat at night"
    made = reader.labels([text, ""], 32)
    words = text.split()
    assert made["of_words"][0].tolist() == [1, 1, *[-1] * 4, *[0] * 7, *[-1] * 19]
    assert made["of_words"][1].tolist() == [-1] * 32
    # a word's answer: the place, and the fields of the character there
    hidden = torch.randn(2, 32, 192)
    torch.nn.init.zeros_(reader.word.weight)
    cat = {"kind": "cat", "fur": "white", "view": None, "hat": "red", "glasses": None, "scarf": None}
    bear = {"kind": "bear", "fur": None, "view": None, "hat": None, "glasses": None, "scarf": None}

    def told(place, character):
        rows = [reader.rows[i] for i in reader.of_slot[0]]
        answers = [
            torch.eye(3)[place],
            *(torch.eye(len(r.options))[r.options.index(character[r.name])] for r in rows),
        ]
        reader.word.bias.data = 50.0 * torch.cat(answers)
        alone = made["of_words"].masked_fill(made["of_words"] != place, -1)
        return reader.loss(hidden, made["labels"], alone)["words"].item()

    assert told(0, cat) == pytest.approx(0.0, abs=1e-6)
    assert told(1, bear) == pytest.approx(0.0, abs=1e-6)
    assert told(0, bear) > 10
    assert words[6:13] == ["a", "white", "cat", "wearing", "a", "red", "hat"]


def test_the_transformer_is_small_enough_to_ship():
    with torch.device("meta"):
        count = sum(p.numel() for p in new_transformer().parameters())
    assert count < 9.5e6


def test_the_transformer_needs_its_text_encoder_first(tmp_path):
    with pytest.raises(ValueError, match="train 'flow-text-encoder' first"):
        run("flow", tmp_path, steps=1)


def test_the_command_trains_both(tmp_path, monkeypatch):
    seen = []
    trainers = {name: lambda out, how, name=name: seen.append((name, how.steps)) for name in PARTS["flow"]}
    monkeypatch.setattr(recipe, "_TRAINERS", trainers)
    for name in ("note_training", "draw_curves", "write_card"):
        monkeypatch.setattr(recipe, name, lambda *_: None)
    run_part("flow", tmp_path, {"steps": 7})
    assert seen == [("flow-text-encoder", recipe.RECIPES["flow-text-encoder"].steps), ("flow", 7)]
