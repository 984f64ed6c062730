"""Train the embedded CLIP: ordinary in-batch contrastive learning (arXiv 2103.00020) and nothing more.

It is the baseline that hard negatives must later improve, so it never sees one. Its tokenizer knows "without", a word
that no caption of this training holds.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from negguide.toyworld.language import training_caption
from negguide.toyworld.train.data import batch_of_scenes, centred, pixels
from negguide.toyworld.train.loop import Batch, train
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.words import MAX_TOKENS, new_tokenizer, token_ids

WIDTH = 128


def new_clip(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A `CLIPModel` for 64x64 images: patches of 8, four layers for images and three for text."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def train_clip(folder: Path, settings: Settings) -> CLIPModel:
    """Minimise the symmetric InfoNCE of a batch of image-caption pairs."""
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    tokenizer = new_tokenizer(negation=True)
    model = new_clip(tokenizer).to(device)

    def make_batch(step: int) -> Batch:
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size)
        captions = [training_caption(scene, rng) for scene in scenes]
        return {"input_ids": token_ids(tokenizer, captions), "images": pixels(scenes, rng)}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(
                input_ids=batch["input_ids"], pixel_values=centred(batch["images"])
            ).logits_per_image
        target = torch.arange(len(logits), device=device)
        logits = logits.float()
        return {"loss": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2}

    train({"clip": model}, make_batch, loss, settings, folder, name="clip")
    return model.eval()
