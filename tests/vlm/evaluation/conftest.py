"""Tiny random two-tower models that read the words of the toy world, written as folders."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from negguide.toyworld.words import new_tokenizer
from negguide.vlm.models import VisionLanguageModel, load_model

SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for every supported architecture, by its ``model_type``."""
    tokenizer = new_tokenizer(negation=True)
    words = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    ends = {"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
    view = {**SIZE, "patch_size": 16}
    # transformers rebuilds the tokenizer of this type as BPE; here one token is one letter
    letters = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"▁abcdefghijklmnopqrstuvwxyz")
    by_letter = Siglip2Tokenizer({letter: i for i, letter in enumerate(letters)}, [])
    square = {"height": 32, "width": 32}
    torch.manual_seed(0)
    made = {
        "clip": (
            CLIPModel(
                CLIPConfig(
                    text_config={**words, **ends}, vision_config={**view, "image_size": 32}, projection_dim=8
                )
            ),
            CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square), tokenizer),
        ),
        "siglip": (
            SiglipModel(SiglipConfig(text_config=words, vision_config={**view, "image_size": 32})),
            SiglipProcessor(SiglipImageProcessorPil(size=square), tokenizer),
        ),
        "siglip2": (
            Siglip2Model(Siglip2Config(text_config=words, vision_config={**view, "num_patches": 16})),
            Siglip2Processor(Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16), by_letter),
        ),
    }
    root = tmp_path_factory.mktemp("two-towers")
    for name, (model, processor) in made.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return {name: root / name for name in made}


@pytest.fixture(scope="session")
def clip() -> VisionLanguageModel:
    """The embedded CLIP."""
    return load_model("toyworld")
