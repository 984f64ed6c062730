"""The suite of the embedded world: one change an item, held out, balanced, and the same for ever."""

import random
from collections import Counter
from dataclasses import fields

import pytest

from negguide.toyworld import caption, parse, render
from negguide.toyworld import suite as suite_module
from negguide.toyworld.scene import ABSENT, ACCESSORIES, Character, held_out, is_complete, is_trademark
from negguide.toyworld.suite import (
    EDITS,
    VERSION,
    fingerprint,
    paraphrases,
    scene_items,
    toyworld,
)
from negguide.vlm.evaluation.evaluate import make_suite


@pytest.fixture(scope="module")
def asked():
    return {category: scene_items(category, 40) for category in EDITS}


@pytest.fixture(scope="module")
def suite():
    return toyworld(6)


def facts(scene):
    """Everything that can be seen, by place from the left."""
    seen = {"background": scene.background, "count": scene.count}
    for place, character in enumerate(scene.left_to_right):
        seen |= {(place, f.name): getattr(character, f.name) for f in fields(Character)}
    return seen


def changes(question):
    before, after = facts(question.scene), facts(question.edited)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_both_scenes_are_held_out_and_complete(asked):
    for q in (q for group in asked.values() for q in group):
        assert held_out(q.scene) and held_out(q.edited)
        assert is_complete(q.scene) and is_complete(q.edited)
        assert not any(is_trademark(c) for c in (*q.scene.characters, *q.edited.characters))


def test_no_scene_comes_twice_in_a_category(asked):
    for group in asked.values():
        pictures = [(s.left_to_right, s.background) for q in group for s in (q.scene, q.edited)]
        assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("category", ["object", "attribute", "add", "remove", "negation"])
def test_one_thing_changes_and_nothing_else(asked, category):
    allowed = {
        "object": {"kind", "background"},
        "attribute": {"fur", "view", *ACCESSORIES},
        "add": set(ACCESSORIES),
        "remove": set(ACCESSORIES),
        "negation": set(ACCESSORIES),
    }[category]
    for q in asked[category]:
        names = {key if isinstance(key, str) else key[1] for key in changes(q)}
        assert len(names) == 1 and names <= allowed
        # of several equal characters, all change
        several = q.scene.relation is None and names != {"background"}
        assert len(changes(q)) == (q.scene.count if several else 1)


def test_add_and_remove_go_their_ways(asked):
    def worn(scene):
        return sum(len(c.worn) for c in scene.characters)

    assert all(worn(q.edited) > worn(q.scene) for q in asked["add"])
    assert all(worn(q.edited) < worn(q.scene) for q in asked["remove"])
    for category in ("object", "attribute", "add", "remove"):
        for q in asked[category]:
            assert all(
                (getattr(a, n) is None) == (getattr(b, n) is None)
                for a, b in zip(q.scene.characters, q.edited.characters, strict=True)
                for n in ACCESSORIES
            ) == (category not in ("add", "remove"))


def test_count_relation_and_swap_change_what_they_say(asked):
    for q in asked["count"]:
        assert q.scene.count != q.edited.count
        assert (
            set(q.scene.characters) == set(q.edited.characters) and q.scene.background == q.edited.background
        )
    assert {q.scene.count for q in asked["count"]} == {1, 2, 3}
    for q in asked["relation"]:
        assert q.scene.characters == q.edited.characters and q.scene.relation != q.edited.relation
        assert q.scene.left_to_right == q.edited.left_to_right[::-1]
    for q in asked["swap"]:
        names = {name for _, name in changes(q)}
        assert len(names) == 1 and len(changes(q)) == 2
        (name,) = names
        values = [getattr(c, name) for c in q.scene.left_to_right]
        assert [getattr(c, name) for c in q.edited.left_to_right] == values[::-1]


def test_negation_says_without_on_one_side_and_shows_the_lack(asked):
    for q in asked["negation"]:
        without = [("without" in caption(said)) for said in (q.first, q.second)]
        assert sorted(without) == [False, True]
        lacking, having = (q.scene, q.edited) if without[0] else (q.edited, q.scene)
        said = q.first if without[0] else q.second
        absent = {name for c in said.characters for name in c.absent}
        assert len(absent) == 1
        assert sum(len(c.worn) for c in lacking.characters) < sum(len(c.worn) for c in having.characters)
        assert parse(caption(said), negation=True) == said
    assert 8 < sum("without" in caption(q.first) for q in asked["negation"]) < 32


def test_the_captions_read_back_as_the_scenes(asked):
    for q in (q for group in asked.values() for q in group):
        for scene, said in ((q.scene, q.first), (q.edited, q.second)):
            plain = [
                Character(
                    **{
                        f.name: None if getattr(c, f.name) == ABSENT else getattr(c, f.name)
                        for f in fields(c)
                    }
                )
                for c in said.characters
            ]
            assert tuple(plain) == scene.characters
            assert parse(caption(said), negation=True) == said
        assert caption(q.first) != caption(q.second)


def test_paraphrases_are_other_words_for_the_same_scene(asked):
    rng = random.Random(0)
    for q in (q for group in asked.values() for q in group[:10]):
        wordings = paraphrases(q.first, rng)
        assert 1 <= len(wordings) <= 3 and len(set(wordings)) == len(wordings)
        for words in wordings:
            assert words != caption(q.first)
            said = parse(words, negation=True)
            assert (said.left_to_right, said.background) == (q.first.left_to_right, q.first.background)


def test_the_renders_are_true_and_in_one_pose(suite):
    part = suite.parts[""]
    place = 0
    for category in EDITS:
        for q in scene_items(category, 6):
            item = part.items[place]
            assert item.category == category and item.captions == (caption(q.first), caption(q.second))
            for index, scene in zip(item.images, (q.scene, q.edited), strict=True):
                assert part.images[index].tobytes() == render(scene, 64, q.pose).tobytes()
            assert part.images[item.images[0]].tobytes() != part.images[item.images[1]].tobytes()
            place += 1
    assert place == len(part.items)


def test_the_gallery_and_the_classes_are_held_out_and_different(suite):
    gallery = suite.parts["retrieval"]
    assert len(set(gallery.captions)) == len(gallery.captions) == len(gallery.images) == 6
    scenes = suite_module.gallery(50)
    assert all(held_out(s) for s in scenes)
    assert len({(s.left_to_right, s.background) for s in scenes}) == 50
    classes = suite.parts["zero-shot"]
    assert len(classes.prompts) == 25 and classes.prompts[0] == ("a brown bear",)
    assert all(0 <= label < 25 for label in classes.labels)


def test_a_limited_suite_is_the_beginning_of_a_larger_one(suite):
    def by_category(s):
        groups = {}
        for item in s.parts[""].items:
            groups.setdefault(item.category, []).append((item.captions, item.paraphrases))
        return groups

    large, small = by_category(toyworld(9)), by_category(suite)
    assert Counter(map(len, small.values())) == {6: len(EDITS)}
    assert all(large[category][:6] == small[category] for category in EDITS)
    assert toyworld(9).parts["retrieval"].captions[:6] == suite.parts["retrieval"].captions


def test_the_questions_of_this_version_never_change():
    """When this fails, the questions have changed: give the suite a new VERSION, and this test its new fingerprint."""
    full = toyworld()
    assert Counter(item.category for item in full.parts[""].items) == dict.fromkeys(EDITS, 125)
    assert len(full.parts["retrieval"].captions) == len(full.parts["zero-shot"].labels) == 500
    assert (full.version, VERSION, fingerprint(full)) == ("1", "1", "ec489d96f9d63143")


def test_the_second_draw_asks_nothing_that_the_first_does():
    second = toyworld(draw=2)
    assert (second.name, second.version, fingerprint(second)) == ("toyworld-2", VERSION, "25f1a6a3d47fc47e")
    categories = Counter(item.category for item in second.parts[""].items)
    assert categories == dict.fromkeys(EDITS, 125)
    for category in EDITS:
        first, other = ({item.shown for item in scene_items(category, draw=draw)} for draw in (1, 2))
        assert len(first) == len(other) == 125 and not first & other
    assert all(held_out(scene) for part in second.parts.values() for scene, _ in part.images.scenes)
    # limited, it is the beginning of the whole one
    assert toyworld(6, 2).parts["retrieval"].captions == second.parts["retrieval"].captions[:6]


def test_there_are_two_draws():
    assert make_suite("toyworld-2", limit=1).name == "toyworld-2"
    with pytest.raises(ValueError, match="draw=3 must be one of 1, 2"):
        toyworld(draw=3)
