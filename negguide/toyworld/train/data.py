"""Batches of scenes, made on the fly: batch number i is a function of the seed and i alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from negguide.toyworld.render import render
from negguide.toyworld.scene import (
    BACKGROUNDS,
    RELATIONS,
    Character,
    Scene,
    held_out,
    sample_character,
    sample_scene,
)

PRACTICE = 0.5
"""Share of the pictures the text-to-image model learns from that are practice: what the world rarely shows."""
PRACTICE_PAIRS = 0.7
"""Share of practice scenes with two different characters; the others have one."""
PRACTICE_VIEWS = {"front": 0.5, "side": 0.15, "back": 0.35}
"""From which sides the characters of practice scenes are seen."""


def batch_of_scenes(
    seed: int, step: int, size: int, *, test: bool = False, biased: bool = True, practice: float = 0.0
) -> tuple[list[Scene], random.Random]:
    """``size`` scenes of the training split (or of the held-out one) and the generator that made them.

    ``practice`` is the share of scenes drawn by `practice_scene` instead of as often as the world shows them.
    """
    rng = random.Random(f"{'test' if test else 'train'}-{seed}-{step}")
    scenes: list[Scene] = []
    while len(scenes) < size:
        hard = practice > 0 and rng.random() < practice
        scene = practice_scene(rng) if hard else sample_scene(rng, biased=biased)
        if held_out(scene) == test:
            scenes.append(scene)
    return scenes, rng


def practice_scene(rng: random.Random) -> Scene:
    """One or two characters, more often two and from behind than the world shows; its other biases hold."""

    def character(accessories: int) -> Character:
        view = rng.choices(tuple(PRACTICE_VIEWS), weights=tuple(PRACTICE_VIEWS.values()))[0]
        return replace(sample_character(rng, max_accessories=accessories), view=view)

    background = rng.choice(BACKGROUNDS)
    if rng.random() >= PRACTICE_PAIRS:
        return Scene((character(3),), background)
    first = character(2)
    second = character(2)
    while second == first:
        second = character(2)
    return Scene((first, second), background, rng.choice(RELATIONS))


def pixels(scenes: list[Scene], rng: random.Random, size: int = 64) -> Tensor:
    """Render in random poses: float32 [B, 3, size, size] in [-1, 1]."""
    images = [np.asarray(render(scene, size, rng.getrandbits(32))) for scene in scenes]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1
