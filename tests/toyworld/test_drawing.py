"""What `negguide toyworld evaluate` says of a text-to-image model: its figures, its bars, and how it is called."""

import random
from types import SimpleNamespace

import pytest
from PIL import Image, ImageFilter

from negguide._utils.stats import Rate, share
from negguide.toyworld import Scene, caption, parse, render
from negguide.toyworld.bars import Bar, held_out_scenes
from negguide.toyworld.domain import EMBEDDED
from negguide.toyworld.drawing import GOALS, Drawer, drawing_bars, face_edges, sharpness_bar, unasked_bars
from negguide.toyworld.judge import Judge
from negguide.toyworld.models import JUDGE
from negguide.toyworld.scene import ACCESSORIES, Character


class Painter:
    """A pipeline that draws what a prompt says as the world does, without any model."""

    def __init__(self, change=lambda image: image, worn=()):
        self.change, self.worn, self.calls = change, worn, []

    def __call__(
        self,
        prompt,
        *,
        generator,
        num_inference_steps,
        guidance_scale=3.5,
        true_cfg_scale=1.0,
        negative_prompt=None,
        height=None,
        width=None,
        max_sequence_length=None,
    ):
        self.calls.append(
            {
                "steps": num_inference_steps,
                "scale": true_cfg_scale,
                "negative_prompt": negative_prompt,
                "size": (height, width, max_sequence_length),
            }
        )

        return SimpleNamespace(images=[self.change(self.draw(text)) for text in prompt])

    def draw(self, text):
        said = parse(text)
        whole = []
        for one in said.characters:
            worn = dict(one.worn) | dict(self.worn)
            worn = {name: "red" if value == "any" else value for name, value in worn.items()}
            whole.append(Character(kind=one.kind, fur=one.fur or "grey", view=one.view or "front", **worn))
        scene = Scene(tuple(whole), said.background or "meadow", said.relation)
        return render(scene, 64, random.Random(text).getrandbits(31))


@pytest.fixture(scope="module")
def judge():
    return Judge.load(JUDGE)


def test_what_is_drawn_as_asked_passes_every_bar(judge):
    painter = Painter()
    bars = {bar.name: bar for bar in drawing_bars(painter, "toyworld-flow", judge, 20)}
    assert [name for name, bar in bars.items() if bar.passed is False] == []
    assert bars["kind"].rate.value == bars["both kinds of two"].rate.value == 1.0
    assert bars["side view when asked for"].passed is None
    assert {f"{one} that nobody asked for" for one in ACCESSORIES} < set(bars)
    assert {(call["steps"], call["scale"], call["size"]) for call in painter.calls} == {
        (20, 4.0, (64, 64, 64))
    }
    assert all(len(call["negative_prompt"]) <= 50 for call in painter.calls)


def test_an_accessory_on_every_picture_is_one_that_nobody_asked_for(judge):
    bars = {
        bar.name: bar
        for bar in unasked_bars(Drawer(Painter(worn=[("hat", "blue")]), "toyworld-flow", judge), 20)
    }
    assert bars["hat that nobody asked for"].rate.value > 0.9
    assert bars["hat that nobody asked for"].passed is False
    assert bars["scarf that nobody asked for"].passed is True
    # the world's own share
    assert 0.1 < bars["hat that nobody asked for"].at_most < 0.6


def test_blurred_faces_have_fewer_edges(judge):
    blur = Painter(change=lambda image: image.filter(ImageFilter.GaussianBlur(1.5)))
    sharp, soft = (sharpness_bar(Drawer(one, "toyworld-flow", judge), 20, 0.9) for one in (Painter(), blur))
    assert 0.9 < sharp.rate.value < 1.1 and sharp.passed
    assert soft.rate.value < 0.7 and not soft.passed


def test_edges_are_those_of_the_face_alone():
    plain = Image.new("RGB", (64, 64), "white")
    corner, middle = plain.copy(), plain.copy()
    corner.paste("black", (2, 50, 12, 60))
    middle.paste("black", (28, 24, 38, 34))
    edges = face_edges([plain, corner, middle]).tolist()
    assert edges[0] == edges[1] == 0 < edges[2]


def test_every_embedded_model_has_goals_and_the_held_out_scenes_say_what_is_measured():
    assert set(GOALS) == set(EMBEDDED)
    for scene in held_out_scenes(30, characters=2):
        assert scene.relation is not None and parse(caption(scene))


def test_a_bar_says_what_is_right_and_whether_it_is_passed():
    half = share([True, False])
    assert (Bar("m", "n", half, 0.4).passed, Bar("m", "n", half, 0.6).passed) == (True, False)
    assert (Bar("m", "n", half, at_most=0.4).passed, Bar("m", "n", half, at_most=0.6).passed) == (False, True)
    assert Bar("m", "n", half).passed is None
    words = [Bar("m", "n", half, 0.4), Bar("m", "n", half, at_most=0.4), Bar("m", "n", half)]
    assert [bar.bar_in_words for bar in words] == ["40%", "≤ 40%", ""]
    assert Bar("m", "n", Rate(29.0, 28.0, 30.0, 4), 28.0, unit="dB").bar_in_words == "28 dB"
    assert [bar.goal for bar in words[:2]] == [{"at_least": 0.4}, {"at_most": 0.4}]
