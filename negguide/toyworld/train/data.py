"""Batches of scenes, made on the fly: batch number i is a function of the seed and i alone."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from negguide.toyworld.render import render
from negguide.toyworld.scene import Scene, held_out, sample_scene


def batch_of_scenes(
    seed: int, step: int, size: int, *, test: bool = False, biased: bool = True
) -> tuple[list[Scene], random.Random]:
    """``size`` scenes of the training split (or of the held-out one) and the generator that made them."""
    rng = random.Random(f"{'test' if test else 'train'}-{seed}-{step}")
    scenes: list[Scene] = []
    while len(scenes) < size:
        scene = sample_scene(rng, biased=biased)
        if held_out(scene) == test:
            scenes.append(scene)
    return scenes, rng


def pixels(scenes: list[Scene], rng: random.Random, size: int = 64) -> Tensor:
    """Render in random poses: float32 [B, 3, size, size] in [-1, 1]."""
    images = [np.asarray(render(scene, size, rng.getrandbits(32))) for scene in scenes]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1
