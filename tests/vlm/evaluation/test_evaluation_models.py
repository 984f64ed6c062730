"""Loading CLIP-like models, and their features."""

import json
import random
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from negguide.toyworld import caption, render, sample_scene
from negguide.vlm.models import load_model


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(6)]
    return [render(s) for s in scenes], [caption(s) for s in scenes]


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_every_architecture_gives_features_of_unit_length_whatever_the_batch(tiny_folders, pairs, kind):
    images, texts = pairs
    model = load_model(str(tiny_folders[kind]))
    assert model.kind == ("clip" if kind == "clip" else "siglip")
    for whole, parts in (
        (model.encode_images(images), model.encode_images(images, batch_size=4)),
        (model.encode_texts(texts), model.encode_texts(texts, batch_size=1)),
    ):
        assert whole.shape[0] == 6 and whole.dtype == torch.float32 and not whole.requires_grad
        assert torch.allclose(whole.norm(dim=1), torch.ones(6))
        assert torch.allclose(whole, parts, atol=1e-6)
    assert model.encode_images([]).shape == (0, model.encode_images(images[:1]).shape[1])
    assert model.encode_texts([]).shape == (0, model.encode_texts(texts[:1]).shape[1])


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_the_features_are_those_of_plain_transformers(tiny_folders, pairs, kind):
    from transformers import AutoModel, AutoProcessor

    images, texts = pairs
    plain = AutoModel.from_pretrained(tiny_folders[kind]).eval()
    processor = AutoProcessor.from_pretrained(tiny_folders[kind])
    options = {"max_length": 24, "truncation": True, "padding": kind == "clip" or "max_length"}
    if kind == "siglip2":
        options["max_num_patches"] = (
            16  # its processor has a default that goes before the checkpoint's setting
        )
    inputs = dict(processor(text=texts, images=images, return_tensors="pt", **options))
    if kind != "clip":
        inputs.pop("attention_mask", None)  # trained without one
    with torch.no_grad():
        out = plain(**inputs)
    ours = load_model(str(tiny_folders[kind]))
    assert torch.allclose(out.image_embeds, ours.encode_images(images), atol=1e-5)
    assert torch.allclose(out.text_embeds, ours.encode_texts(texts), atol=1e-5)


def test_features_for_training_carry_a_gradient(tiny_folders, pairs):
    model = load_model(str(tiny_folders["clip"]))
    features = (
        model.text_features(model.text_inputs(pairs[1]))
        @ model.image_features(model.image_inputs(pairs[0])).T
    )
    features.sum().backward()
    assert model.model.text_projection.weight.grad.abs().sum() > 0
    assert model.model.visual_projection.weight.grad.abs().sum() > 0


def test_the_embedded_model_finds_each_scenes_caption(clip, pairs):
    images, texts = pairs
    scores = clip.encode_images(images) @ clip.encode_texts(texts).T
    assert scores.argmax(dim=1).tolist() == list(range(6))


def test_half_precision_gives_nearly_the_same_features_in_float32(tiny_folders, pairs):
    exact = load_model(str(tiny_folders["clip"])).encode_images(pairs[0])
    half = load_model(str(tiny_folders["clip"]), dtype=torch.bfloat16).encode_images(pairs[0])
    assert half.dtype == torch.float32
    assert torch.allclose(exact, half, atol=0.03) and not torch.equal(exact, half)


def test_texts_that_lose_their_end_are_told(clip):
    exactly = " ".join(["bear"] * (clip.max_tokens - 2))
    assert clip.truncated([exactly, exactly + " bear", "a cat"]) == [False, True, False]
    assert torch.equal(clip.encode_texts([exactly]), clip.encode_texts([exactly + " cat"]))
    assert clip.truncated([]) == []


def test_the_revision_follows_the_weights(tiny_folders, tmp_path, clip):
    assert clip.revision and clip.name == "toyworld"
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folders["clip"], copy)
    before = load_model(str(copy)).revision
    weights = load_file(copy / "model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(copy)).revision != before


def test_a_word_outside_the_vocabulary_names_the_text(clip):
    with pytest.raises(ValueError, match=r"text='a zebra' cannot be read .* toy world only"):
        clip.encode_texts(["a bear", "a zebra"])


def test_a_batch_size_below_one_is_refused(clip):
    with pytest.raises(ValueError, match=r"batch_size=0 must be at least 1"):
        clip.encode_images([Image.new("RGB", (64, 64))], batch_size=0)


def test_models_that_cannot_be_used_are_refused_with_what_would_be_right(tiny_folders, tmp_path):
    with pytest.raises(TypeError, match=r"model must be 'toyworld'.* got 3"):
        load_model(3)
    with pytest.raises(ValueError, match=r"model='nowhere' is unknown: no such folder, and no hub id"):
        load_model("nowhere")
    with pytest.raises(ValueError, match=r"without config.json"):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match=r"model='some/model' cannot be loaded"):
        load_model("some/model")

    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"of type 'bert', which is not supported; use one of CLIPModel"):
        load_model(str(other))

    broken = tmp_path / "broken"
    shutil.copytree(tiny_folders["clip"], broken)
    (broken / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded \(AutoTokenizer\)"):
        load_model(str(broken))


def test_a_model_with_missing_weights_is_refused(tiny_folders, tmp_path):
    shutil.copytree(tiny_folders["clip"], tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    for name in [name for name in weights if name.startswith("vision_model")]:
        del weights[name]
    save_file(weights, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks .* weights"):
        load_model(str(tmp_path / "half"))
