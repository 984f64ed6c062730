"""Measure the embedded models on held-out scenes against the bars they are meant to pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

from negguide.toyworld.judge import Judge, to_pixels
from negguide.toyworld.language import caption
from negguide.toyworld.measure import Rate, agreement, draw, mean, share
from negguide.toyworld.render import render
from negguide.toyworld.scene import ACCESSORIES, KINDS, Character, Scene
from negguide.toyworld.train.autoencoder import psnr
from negguide.toyworld.train.data import batch_of_scenes

SEED = 2026
TEXT_TO_IMAGE_STEPS = 25
GUIDANCE_SCALE = 4.0


@dataclass(frozen=True)
class Bar:
    """One measured figure and what it should reach; ``at_least`` None is a figure without a bar."""

    model: str
    name: str
    rate: Rate
    at_least: float | None = None
    unit: str = "%"

    @property
    def passed(self) -> bool | None:
        return None if self.at_least is None else self.rate.value >= self.at_least


def held_out_scenes(count: int, *, characters: int | None = None, biased: bool = True) -> list[Scene]:
    """``count`` scenes of the held-out tenth; with ``characters``, only scenes of so many different ones."""
    scenes: list[Scene] = []
    step = 0
    while len(scenes) < count:
        drawn, _ = batch_of_scenes(SEED, step, 256, test=True, biased=biased)
        if characters is not None:
            drawn = [
                s for s in drawn if s.count == characters and (characters == 1 or s.relation is not None)
            ]
        scenes += drawn
        step += 1
    return scenes[:count]


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
    scenes = held_out_scenes(count)
    x = to_pixels([render(scene, 64, SEED + i) for i, scene in enumerate(scenes)])
    values = torch.cat([psnr(vae, part) for part in x.split(50)])
    return [Bar("autoencoder", "PSNR", mean(values.tolist()), 28.0, unit="dB")]


def text_to_image_bars(pipe: StableDiffusionPipeline, judge: Judge, count: int = 300) -> list[Bar]:
    """Plain classifier-free guidance, 25 steps, read by the judge; captions say everything but the front view."""
    single = [_front_unsaid(s) for s in held_out_scenes(count, characters=1, biased=False) if not s.explorer]
    facts = _draw_and_read(pipe, judge, single)
    bars = []
    for name, at_least in (("kind", 0.95), ("fur", 0.90)):
        bars.append(
            Bar("text-to-image", name, share([f[f"{name}0"] for f in facts if f"{name}0" in f]), at_least)
        )
    worn = [f[f"{name}0"] for f in facts for name in ACCESSORIES if f"{name}0" in f]
    bars.append(Bar("text-to-image", "accessory and its colour", share(worn), 0.85))
    for view in ("side", "back"):
        scenes = [Scene((Character(kind=kind, view=view),)) for kind in KINDS] * (count // len(KINDS))
        facts = _draw_and_read(pipe, judge, scenes)
        bars.append(Bar("text-to-image", f"{view} view when asked for", share([f["view0"] for f in facts])))
    pairs = [_front_unsaid(s) for s in held_out_scenes(count, characters=2)]
    facts = _draw_and_read(pipe, judge, pairs)
    bars.append(
        Bar("text-to-image", "both kinds of two", share([f["kind0"] and f["kind1"] for f in facts]), 0.80)
    )
    return bars


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


def _front_unsaid(scene: Scene) -> Scene:
    characters = tuple(replace(c, view=None if c.view == "front" else c.view) for c in scene.characters)
    return replace(scene, characters=characters)


def _furs_exchanged(scene: Scene) -> Scene:
    first, second = scene.characters
    return replace(scene, characters=(replace(first, fur=second.fur), replace(second, fur=first.fur)))


def _draw_and_read(pipe: StableDiffusionPipeline, judge: Judge, scenes: list[Scene]) -> list[dict[str, bool]]:
    prompts = [caption(scene) for scene in scenes]
    seeds = [random.Random(f"{SEED}-{i}").getrandbits(31) for i in range(len(scenes))]
    images = draw(pipe, prompts, seeds, steps=TEXT_TO_IMAGE_STEPS, guidance_scale=GUIDANCE_SCALE)
    return [dict(agreement(s, seen)) for s, seen in zip(scenes, judge.read(images), strict=True)]
