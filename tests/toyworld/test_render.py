import random
from dataclasses import replace

import numpy as np
import pytest

from negguide.toyworld.labels import decode, encode, fields
from negguide.toyworld.render import render
from negguide.toyworld.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    COLORS,
    FURS,
    KINDS,
    VIEWS,
    Character,
    Scene,
    sample_scene,
)

BASE = Scene((Character("bear", "brown", "front", hat="red", glasses="blue", scarf="green"),), "snow")


def difference(first: Scene, second: Scene) -> float:
    a, b = (np.asarray(render(scene), dtype=float) for scene in (first, second))
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(
    ("name", "values"),
    [("kind", KINDS), ("fur", FURS), ("view", VIEWS), *((name, (None, *COLORS)) for name in ACCESSORIES)],
)
def test_every_value_of_every_attribute_can_be_seen(name, values):
    scenes = [replace(BASE, characters=(replace(BASE.characters[0], **{name: value}),)) for value in values]
    for i, first in enumerate(scenes):
        for second in scenes[i + 1 :]:
            assert difference(first, second) > 30


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ACCESSORIES)
def test_accessories_can_be_seen_from_every_side_on_every_fur(view, name):
    for fur in FURS:
        bare = Scene((Character("cat", fur, view),), "night")
        for color in COLORS:
            worn = Scene((Character("cat", fur, view, **{name: color}),), "night")
            assert difference(bare, worn) > 30


def test_backgrounds_differ():
    images = {render(replace(BASE, background=name)).tobytes() for name in BACKGROUNDS}
    assert len(images) == len(BACKGROUNDS)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another_pose():
    assert render(BASE, seed=3).tobytes() == render(BASE, seed=3).tobytes()
    assert render(BASE, seed=3).tobytes() != render(BASE, seed=4).tobytes()


@pytest.mark.parametrize("size", [16, 64, 200])
def test_any_size_shows_the_same_scene(size):
    image = render(BASE, size)
    assert image.size == (size, size)
    small = np.asarray(image.resize((16, 16)), dtype=float)
    reference = np.asarray(render(BASE, 256).resize((16, 16)), dtype=float)
    assert np.abs(small - reference).mean() < 12


def test_incomplete_scenes_and_tiny_sizes_are_refused():
    with pytest.raises(ValueError, match="leaves something open"):
        render(Scene((Character("bear"),), "snow"))
    with pytest.raises(ValueError, match="size=8"):
        render(BASE, 8)


def test_a_scene_survives_the_way_through_class_numbers():
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(200)]
    rows = fields()
    for scene, back in zip(scenes, decode(encode(scenes, rows), rows), strict=True):
        assert back.left_to_right == scene.left_to_right
        assert back.background == scene.background
