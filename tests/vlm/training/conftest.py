"""A small set of true renders that differ in one thing, and tiny random models to train on it."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from negguide.mining.item import Item
from negguide.toyworld.language import caption
from negguide.toyworld.render import render
from negguide.toyworld.scene import BACKGROUNDS, COLORS, FURS, KINDS, Character, Scene
from negguide.toyworld.words import new_tokenizer
from negguide.vlm.training.config import Settings

ROWS = 48
LAYERS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def items(folder: Path) -> list[Item]:
    """Renders of ``ROWS`` scenes with one attribute changed, as a set of `negguide mine` holds them."""
    rng = random.Random(0)
    (folder / "images").mkdir(parents=True)
    made = []
    for i in range(ROWS):
        character = Character(
            kind=rng.choice(KINDS), fur=rng.choice(FURS), view="front", hat=rng.choice(COLORS)
        )
        name, options = rng.choice((("fur", FURS), ("hat", COLORS), ("kind", KINDS)))
        before = getattr(character, name)
        after = rng.choice([option for option in options if option != before])
        pair = [
            Scene((c,), rng.choice(BACKGROUNDS)) for c in (character, replace(character, **{name: after}))
        ]
        scenes = [replace(scene, background=pair[0].background) for scene in pair]
        files = [f"images/{i:03d}.png", f"images/{i:03d}-negative.png"]
        for scene, file in zip(scenes, files, strict=True):
            render(scene, 64, i).save(folder / file)
        text, negative = map(caption, scenes)
        start = text.find(before)
        made.append(
            Item(
                id=f"item-{i}",
                source_id=f"scene-{i}",
                image_file_name=files[0],
                negative_image_file_name=files[1],
                caption=text,
                negative_caption=negative,
                category="object" if name == "kind" else "attribute",
                start=start,
                end=start + len(before),
                before=before,
                after=after,
                backend="rules",
                scores=(1.0, 0.0, 0.0, 1.0),
                judge="truth",
                prompt=negative,
                model="renderer",
                revision=None,
                methods=[],
                seed=i,
                tries=1,
                positive_captions=(caption(scenes[0], random.Random(i)),),
            )
        )
    return made


@pytest.fixture(scope="session")
def triplet_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `negguide mine` leaves it."""
    folder = tmp_path_factory.mktemp("sets") / "mined"
    shard = folder / "data" / "00000"
    rows = [item.row() for item in items(shard)]
    (shard / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shard / "shard.json").write_text("{}")
    (folder / "set.json").write_text("{}")
    return folder


@pytest.fixture
def changed_set(triplet_set: Path, tmp_path: Path) -> Callable[..., Path]:
    """`changed_set(change)`: a plain imagefolder of the same rows, each as ``change(place, row)`` gives it."""

    def make(change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(triplet_set / "data" / "00000", folder)
        path = folder / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(change(i, row)) + "\n" for i, row in enumerate(rows)))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with dropout in its attention."""
    tokenizer = new_tokenizer(negation=True)
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **LAYERS,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 24,
            "attention_dropout": 0.1,
            "bos_token_id": 1,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**LAYERS, "image_size": 32, "patch_size": 16, "attention_dropout": 0.1},
        projection_dim=8,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("models") / "clip"
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def steady_clip(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without dropout, whose random numbers are each process's own."""
    model = CLIPModel.from_pretrained(tiny_clip)
    for config in (model.config.text_config, model.config.vision_config):
        config.attention_dropout = 0.0
    folder = tmp_path_factory.mktemp("models") / "steady"
    shutil.copytree(tiny_clip, folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SigLIP."""
    tokenizer = new_tokenizer(negation=True)
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config={**LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config={**LAYERS, "image_size": 32, "patch_size": 16},
    )
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("models") / "siglip"
    SiglipModel(config).save_pretrained(folder)
    SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(triplet_set: Path, tiny_clip: Path) -> Settings:
    """A run of six steps."""
    return Settings(str(triplet_set), str(tiny_clip), batch_size=14, epochs=2, lr=1e-3)
