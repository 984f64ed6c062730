"""Batches of scenes, made on the fly: batch number i is a function of the seed and i alone."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from negguide.toyworld.render import render
from negguide.toyworld.scene import Scene, held_out, sample_scene

PRACTICE = 0.3
"""Share of the pictures the text-to-image model learns from that are practice: two different characters."""
DETAIL = 3.0
"""How much more a place of average detail counts in a loss than a flat one."""


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
    """Two different characters, more often than the world shows them; its biases hold."""
    while True:
        scene = sample_scene(rng)
        if scene.relation is not None:
            return scene


def pixels(scenes: list[Scene], rng: random.Random, size: int = 64) -> Tensor:
    """Render in random poses: uint8 [B, 3, size, size], a quarter of what a process would send as floats."""
    images = [np.asarray(render(scene, size, rng.getrandbits(32))) for scene in scenes]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def centred(images: Tensor) -> Tensor:
    """uint8 pixels as models take them: float32 in [-1, 1], channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last).float() / 127.5 - 1


def detail_weights(x: Tensor, patch: int) -> Tensor:
    """How much each patch of a picture counts: [B, 3, H, W] in [-1, 1] to [B, 1, H/patch, W/patch] with mean 1.

    Most of a picture is sky and ground. What a caption names (ears, glasses, a hat) fills a few places, full of edges.
    """
    edges = F.pad(x.diff(dim=-1).abs(), (0, 1)) + F.pad(x.diff(dim=-2).abs(), (0, 0, 0, 1))
    detail = F.avg_pool2d(edges.mean(dim=1, keepdim=True), patch)
    weights = 1 + DETAIL * (detail / detail.mean().clamp(min=1e-6)).clamp(max=3)
    return weights / weights.mean()
