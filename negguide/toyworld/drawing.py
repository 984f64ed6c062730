"""Measure how an embedded text-to-image model draws, read by the judge, against the bars that it is meant to pass."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from negguide._utils.stats import mean, share
from negguide.models import guidance_arguments
from negguide.toyworld.bars import SEED, Bar, held_out_scenes
from negguide.toyworld.domain import EMBEDDED, TOYWORLD, TOYWORLD_DISTILLED, TOYWORLD_FLOW, TOYWORLD_TURBO
from negguide.toyworld.judge import Judge, to_pixels
from negguide.toyworld.language import caption
from negguide.toyworld.measure import agreement, draw
from negguide.toyworld.render import LAYOUTS, render
from negguide.toyworld.scene import ACCESSORIES, KINDS, Character, Scene, sample_scene


@dataclass(frozen=True)
class Goals:
    """What a model is meant to reach, as shares.

    Attributes:
        kind, fur, worn: of single characters of whom everything is said: kind, fur, and accessories with their colours.
        both_kinds: both kinds of two characters, in order.
        sharpness: edges of faces, over those of the same faces as the world draws them; None = not asked for.
    """

    kind: float
    fur: float
    worn: float
    both_kinds: float
    sharpness: float | None = None


GOALS: Mapping[str, Goals] = MappingProxyType(
    {
        TOYWORLD: Goals(kind=0.95, fur=0.90, worn=0.85, both_kinds=0.80),
        TOYWORLD_FLOW: Goals(kind=0.99, fur=0.99, worn=0.98, both_kinds=0.97, sharpness=0.9),
        # within two or three points of the base, five of two kinds in four steps
        TOYWORLD_DISTILLED: Goals(kind=0.97, fur=0.97, worn=0.96, both_kinds=0.94, sharpness=0.9),
        TOYWORLD_TURBO: Goals(kind=0.96, fur=0.96, worn=0.95, both_kinds=0.92, sharpness=0.85),
    }
)
STEPS = {TOYWORLD: 25}
"""Of the sampler, where it is measured with others than are usual for it."""
GUIDANCE_SCALES = {TOYWORLD: 4.0}
"""Likewise of classifier-free guidance."""


class Drawer:
    """An embedded model as it is measured: with steps and guidance that suit it.

    Args:
        pipe: the model.
        name: a key of `EMBEDDED`, of what suits it.
        judge: reads what it draws.
    """

    def __init__(self, pipe: DiffusionPipeline, name: str, judge: Judge) -> None:
        self.pipe, self.name, self.judge = pipe, name, judge
        model = EMBEDDED[name]
        self.steps = STEPS.get(name, model.steps)
        own = model.defaults.guidance_scale if model.always_guided else 1.0
        self.guidance_scale = GUIDANCE_SCALES.get(name, own)

    def images(self, prompts: Sequence[str]) -> list[Image.Image]:
        """One picture a prompt, always the same ones."""
        seeds = [random.Random(f"{SEED}-{i}").getrandbits(31) for i in range(len(prompts))]
        call = dict(EMBEDDED[self.name].call)
        call |= guidance_arguments(self.pipe, self.guidance_scale, prompts=len(prompts))
        return draw(self.pipe, prompts, seeds, steps=self.steps, **call)

    def facts(self, scenes: Sequence[Scene]) -> list[dict[str, bool]]:
        """For each scene: what it fixes, and whether that is so in the picture of its caption."""
        images = self.images([caption(scene) for scene in scenes])
        return [dict(agreement(s, seen)) for s, seen in zip(scenes, self.judge.read(images), strict=True)]


def drawing_bars(pipe: DiffusionPipeline, name: str, judge: Judge, count: int) -> list[Bar]:
    """A model on captions of held-out scenes that say everything but the front view.

    Args:
        pipe, name: the model, and the key of `EMBEDDED` whose steps, guidance and goals are its.
        judge: reads the pictures.
        count: pictures a figure.
    """
    drawer, goals = Drawer(pipe, name, judge), GOALS[name]
    single = [_front_unsaid(s) for s in held_out_scenes(count, characters=1, biased=False) if not s.explorer]
    facts = drawer.facts(single)
    bars = [
        Bar(name, what, share([f[f"{what}0"] for f in facts if f"{what}0" in f]), at_least)
        for what, at_least in (("kind", goals.kind), ("fur", goals.fur))
    ]
    worn = [f[f"{one}0"] for f in facts for one in ACCESSORIES if f"{one}0" in f]
    bars.append(Bar(name, "accessory and its colour", share(worn), goals.worn))
    for view in ("side", "back"):
        scenes = [Scene((Character(kind=kind, view=view),)) for kind in KINDS] * (count // len(KINDS))
        bars.append(
            Bar(name, f"{view} view when asked for", share([f["view0"] for f in drawer.facts(scenes)]))
        )
    pairs = [_front_unsaid(s) for s in held_out_scenes(count, characters=2)]
    both = [f["kind0"] and f["kind1"] for f in drawer.facts(pairs)]
    bars.append(Bar(name, "both kinds of two", share(both), goals.both_kinds))
    if goals.sharpness is not None:
        bars += [*unasked_bars(drawer, count), sharpness_bar(drawer, count, goals.sharpness)]
    return bars


def unasked_bars(drawer: Drawer, count: int) -> list[Bar]:
    """How often a plain prompt's picture holds each accessory: at most as often as the world's own scenes do."""
    images = drawer.images([f"a {kind}" for kind in KINDS] * (count // len(KINDS)))
    seen = [scene.characters[0] for scene in drawer.judge.read(images) if scene.count == 1]
    rng = random.Random(SEED)
    world = [scene.characters[0] for scene in (sample_scene(rng) for _ in range(20_000)) if scene.count == 1]
    return [
        Bar(
            drawer.name,
            f"{one} that nobody asked for",
            share([getattr(character, one) is not None for character in seen]),
            at_most=sum(getattr(character, one) is not None for character in world) / len(world),
        )
        for one in ACCESSORIES
    ]


def sharpness_bar(drawer: Drawer, count: int, at_least: float) -> Bar:
    """Edges of faces seen from the front, over those of the same scenes as the world draws them."""
    scenes = [
        scene
        for scene in held_out_scenes(4 * count, characters=1, biased=False)
        if scene.characters[0].view == "front" and not scene.explorer
    ][:count]
    drawn = face_edges(drawer.images([caption(scene) for scene in scenes]))
    wanted = face_edges([render(scene, 64, SEED + i) for i, scene in enumerate(scenes)])
    return Bar(drawer.name, "edges of faces", mean((drawn / wanted.mean()).tolist()), at_least)


def face_edges(images: Sequence[Image.Image]) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels where a single character's face is, float32 [images]."""
    radius, height, (middle,) = LAYOUTS[1]
    pixels = to_pixels(list(images))
    side = pixels.shape[-1]
    top, left = round(side * (height - radius)), round(side * (middle - radius))
    span = round(2 * radius * side)
    face = pixels[..., top : top + span, left : left + span]
    edges: torch.Tensor = face.diff(dim=-1).abs().mean((1, 2, 3)) + face.diff(dim=-2).abs().mean((1, 2, 3))
    return edges


def _front_unsaid(scene: Scene) -> Scene:
    characters = tuple(replace(c, view=None if c.view == "front" else c.view) for c in scene.characters)
    return replace(scene, characters=characters)
