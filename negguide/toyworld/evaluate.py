"""Measure the embedded judge, CLIP and autoencoder on held-out scenes against the bars they are meant to pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import AutoencoderTiny
from transformers import CLIPModel, CLIPProcessor

from negguide._utils.stats import mean, share
from negguide.toyworld.bars import SEED, Bar, held_out_scenes
from negguide.toyworld.judge import Judge, to_pixels
from negguide.toyworld.language import caption
from negguide.toyworld.render import render
from negguide.toyworld.scene import ACCESSORIES, KINDS, Character, Scene
from negguide.toyworld.train.autoencoder import psnr


def judge_bars(judge: Judge, count: int = 2000) -> list[Bar]:
    """The judge on held-out renders: accuracy of every attribute over all places."""
    scenes = held_out_scenes(count)
    seen = judge.read([render(scene, 64, SEED + i) for i, scene in enumerate(scenes)])
    outcomes: dict[str, list[bool]] = {}
    for said, got in zip(scenes, seen, strict=True):
        outcomes.setdefault("count", []).append(said.count == got.count)
        outcomes.setdefault("background", []).append(said.background == got.background)
        for place, wanted in enumerate(said.left_to_right):
            found = got.left_to_right[place] if got.count == said.count else Character()
            for name in ("kind", "fur", "view", *ACCESSORIES):
                outcomes.setdefault(name, []).append(getattr(wanted, name) == getattr(found, name))
    return [Bar("judge", name, share(values), 0.99) for name, values in outcomes.items()]


def autoencoder_bars(vae: AutoencoderTiny, count: int = 400) -> list[Bar]:
    """How like the drawings the autoencoder gives them back, in dB of PSNR."""
    scenes = held_out_scenes(count)
    x = to_pixels([render(scene, 64, SEED + i) for i, scene in enumerate(scenes)])
    values = torch.cat([psnr(vae, part) for part in x.split(50)])
    return [Bar("autoencoder", "PSNR", mean(values.tolist()), 28.0, unit="dB")]


def clip_bars(model: CLIPModel, processor: CLIPProcessor, count: int = 600) -> list[Bar]:
    """Zero-shot kind of single characters, and captions whose two furs are exchanged (chance is 50%)."""
    scenes = held_out_scenes(count, characters=1)
    images = [render(scene, 64, SEED + i) for i, scene in enumerate(scenes)]
    scores = clip_scores(model, processor, images, [f"a {kind}" for kind in KINDS])
    right = [
        KINDS[best] == s.characters[0].kind for s, best in zip(scenes, scores.argmax(1).tolist(), strict=True)
    ]
    bars = [Bar("CLIP", "zero-shot kind", share(right), 0.95)]
    pairs = [
        s for s in held_out_scenes(3 * count, characters=2) if s.characters[0].fur != s.characters[1].fur
    ][:count]
    images = [render(scene, 64, SEED + i) for i, scene in enumerate(pairs)]
    texts = [caption(s) for s in pairs] + [caption(_furs_exchanged(s)) for s in pairs]
    scores = clip_scores(model, processor, images, texts)
    n = len(pairs)
    index = torch.arange(n)
    wins = (scores[index, index] > scores[index, index + n]).tolist()
    return [*bars, Bar("CLIP", "caption over its furs exchanged", share(wins))]


@torch.no_grad()
def clip_scores(
    model: CLIPModel, processor: CLIPProcessor, images: Sequence[object], texts: list[str]
) -> torch.Tensor:
    """Cosines, float32 [images, texts]."""
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    tokens = processor(text=texts, return_tensors="pt", padding=True)
    out = model(pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    scores: torch.Tensor = out.image_embeds @ out.text_embeds.T
    return scores


def _furs_exchanged(scene: Scene) -> Scene:
    first, second = scene.characters
    return replace(scene, characters=(replace(first, fur=second.fur), replace(second, fur=first.fur)))
