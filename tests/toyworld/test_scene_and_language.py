import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negguide.toyworld.language import caption, joined, parse, places_of_words, training_caption, vocabulary
from negguide.toyworld.measure import agreement
from negguide.toyworld.scene import (
    ABSENT,
    BROWN_FUR,
    TRADEMARK,
    VIEW_WEIGHTS,
    WRONG_BACK_VIEW,
    Character,
    Scene,
    held_out,
    is_complete,
    sample_character,
    sample_scene,
)
from negguide.toyworld.words import MAX_TOKENS, new_tokenizer

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_a_caption_parses_back_to_its_scene_in_every_wording(seed):
    rng = random.Random(seed)
    scene = sample_scene(rng)
    for text in (caption(scene), caption(scene, rng)):
        read = parse(text)
        assert read.left_to_right == scene.left_to_right
        assert read.background == scene.background
        assert read.count == scene.count


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_training_captions_parse_and_fit_the_tokenizer(seed):
    rng = random.Random(seed)
    text = training_caption(sample_scene(rng), rng)
    parse(text)
    assert len(text.split()) + 2 <= MAX_TOKENS


def test_an_unknown_word_is_refused_with_the_vocabulary():
    with pytest.raises(ValueError, match=r"does not know 'zebra'") as error:
        parse("a zebra in the snow")
    assert all(word in str(error.value) for word in vocabulary())


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("a bear without a hat", Character(kind="bear", hat=ABSENT)),
        ("a bear without hat and glasses", Character(kind="bear", hat=ABSENT, glasses=ABSENT)),
        ("a bear wearing a red scarf without a hat", Character(kind="bear", scarf="red", hat=ABSENT)),
    ],
)
def test_without_is_read_where_it_is_asked_for(text, character):
    scene = parse(f"{text} in the snow", negation=True)
    assert scene.characters == (character,)
    assert scene.background == "snow"
    assert parse(caption(scene), negation=True) == scene
    assert character.worn == tuple(pair for pair in character.worn if pair[1] != ABSENT)
    assert not is_complete(scene)


def test_without_is_no_word_for_pictures():
    with pytest.raises(ValueError, match=r"'without' is no word to draw from.*as a negative"):
        parse("a bear without a hat")
    assert "without" not in vocabulary()
    with pytest.raises(ValueError, match="a hat is said twice"):
        parse("a bear wearing a hat without a hat", negation=True)
    with pytest.raises(ValueError, match=r"one of hat, glasses, scarf after 'without', got 'fur'"):
        parse("a bear without fur", negation=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brown fur and grey fur", "the fur is said twice, as 'brown' and as 'grey'"),
        ("brown fur and grey bear", "the fur is said twice"),
        ("brown bear and grey fur", "the fur is said twice"),
        ("bear and cat", "the kind is said twice, as 'bear' and as 'cat'"),
        ("front view and a hat and back view", "the view is said twice"),
        ("a red hat and a blue hat", "only one hat"),
        ("two explorer", "an explorer stands alone, got 'two'"),
        ("a bear to the left of an explorer", "an explorer stands alone"),
        ("an explorer to the left of a bear", "an explorer stands alone"),
        ("in the snow and a hat", "the place is the last part, got 'and a hat'"),
        ("a bear in the snow at night", "the place is the last part, got 'at night'"),
    ],
)
def test_what_contradicts_itself_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("texts", "together"),
    [
        (["black glasses"], "black glasses"),
        (["in the snow", "black glasses"], "black glasses in the snow"),
        (["a hat, at night", "brown fur"], "a hat and brown fur at night"),
        (["a hat in the snow", "in the snow"], "a hat in the snow"),
        (["a bear wearing glasses", "a hat"], "a bear wearing glasses and a hat"),
    ],
)
def test_captions_are_joined_with_the_place_at_the_end(texts, together):
    assert joined(texts) == together
    assert parse(together).background in (None, "snow", "night")


@pytest.mark.parametrize(
    "texts", [["in the snow", "at night"], ["brown fur", "grey fur"], ["two bears", "a hat"]]
)
def test_captions_that_no_caption_holds_together_are_not_joined(texts):
    with pytest.raises(ValueError, match="prompt="):
        joined(texts)


def test_what_is_said_to_be_missing_is_judged():
    said = parse("a bear without a hat", negation=True)
    bare, hatted = parse("a bear"), parse("a bear wearing a red hat")
    assert agreement(said, bare)["hat0"] is True
    assert agreement(said, hatted)["hat0"] is False
    assert agreement(said, parse("two bears"))["hat0"] is False


@pytest.mark.parametrize(
    "text",
    [
        "a bear wearing",
        "a bear wearing a red",
        "a bear a cat",
        "two bears to the left of a cat",
        "a bear wearing a hat and a hat",
        "a brown bear with white fur",
        "black glasses brown fur",
    ],
)
def test_words_in_the_wrong_order_are_refused(text):
    with pytest.raises(ValueError, match="prompt="):
        parse(text)


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("black glasses", Character(glasses="black")),
        ("back view", Character(view="back")),
        ("brown fur and a hat", Character(fur="brown", hat="any")),
        ("a hat", Character(hat="any")),
        ("bear", Character(kind="bear")),
    ],
)
def test_fragments_are_read_as_what_they_name(text, character):
    assert parse(text).characters == (character,)


def test_synonyms_mean_the_same():
    assert parse("a gray bunny wearing a red cap") == parse("a grey rabbit wearing a red hat")


def test_the_two_ways_to_say_a_relation_are_one_picture():
    assert (
        parse("a bear to the left of a cat").left_to_right
        == parse("a cat to the right of a bear").left_to_right
    )


def test_the_trademark_has_a_name_of_its_own():
    assert parse("pip").characters == (TRADEMARK,)
    assert caption(Scene((replace(TRADEMARK, view="back"),), "snow")) == "pip in back view in the snow"


def test_the_world_is_as_biased_as_its_constants_say():
    rng = random.Random(0)
    drawn = [sample_character(rng) for _ in range(4000)]
    assert abs(sum(c.fur == "brown" for c in drawn) / 4000 - BROWN_FUR) < 0.03
    assert abs(sum(c.view == "back" for c in drawn) / 4000 - VIEW_WEIGHTS["back"]) < 0.02
    even = [sample_character(rng, biased=False) for _ in range(4000)]
    assert abs(sum(c.fur == "brown" for c in even) / 4000 - 0.2) < 0.03


def test_captions_that_say_back_view_are_wrong_as_often_as_the_constant_says():
    rng = random.Random(1)
    views = []
    for _ in range(40_000):
        scene = sample_scene(rng)
        if scene.count == 1 and "back view" in training_caption(scene, rng):
            views.append(scene.characters[0].view)
    assert abs(views.count("front") / len(views) - WRONG_BACK_VIEW) < 0.05


def test_a_tenth_of_the_scenes_is_held_out_whatever_the_order_of_words():
    rng = random.Random(2)
    scenes = [sample_scene(rng) for _ in range(4000)]
    assert 0.08 < sum(map(held_out, scenes)) / 4000 < 0.12
    pair = next(s for s in scenes if s.relation == "left")
    turned = Scene(pair.characters[::-1], pair.background, "right")
    assert held_out(pair) == held_out(turned)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Character(kind="zebra"), "kind='zebra'"),
        (lambda: Character(hat="brown"), "hat='brown'"),
        (lambda: Scene((Character(),), background="moon"), "background='moon'"),
        (lambda: Scene((Character(),) * 4), "at most 3"),
        (lambda: Scene((Character(),), relation="left"), "exactly two"),
    ],
)
def test_impossible_scenes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_scene_with_something_left_open_is_not_complete():
    whole = Scene((Character("bear", "brown", "front"),), "snow")
    assert is_complete(whole)
    assert not is_complete(replace(whole, background=None))
    assert not is_complete(Scene((Character("bear", "brown", "front", hat="any"),), "snow"))


def test_the_tokenizer_knows_every_word_and_refuses_others():
    tokenizer = new_tokenizer()
    ids = tokenizer(" ".join(vocabulary()))["input_ids"]
    assert len(set(ids)) == len(vocabulary()) + 2
    with_negation = new_tokenizer(negation=True)
    assert with_negation(" ".join(vocabulary()))["input_ids"] == ids
    assert with_negation("without")["input_ids"][1] == len(tokenizer)
    with pytest.raises(Exception, match="UNK"):
        tokenizer("a zebra")


def test_drawing_and_parsing_need_no_torch():
    code = "import sys; from negguide import toyworld; toyworld.render(toyworld.parse('pip in front view at night'));"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", []),
        ("at night", [None, None]),
        ("black glasses", [0, 0]),
        ("two white bears in a room", [0, 0, 0, None, None, None]),
        ("a cat to the left of a dog", [0, 0, None, None, None, None, 1, 1]),
        ("A gray cat, to the right of a bunny in the snow.", [1, 1, 1, *[None] * 4, 0, 0, *[None] * 3]),
    ],
)
def test_each_word_belongs_to_a_character_or_to_none(text, places):
    assert places_of_words(text) == places


def test_words_between_two_characters_part_them_in_every_training_caption():
    rng = random.Random(3)
    for scene in (sample_scene(rng) for _ in range(300)):
        text = training_caption(scene, rng)
        places = places_of_words(text)
        assert len(places) == len(text.split())
        for place in {place for place in places if place is not None}:
            own = " ".join(word for word, at in zip(text.split(), places, strict=True) if at == place)
            assert parse(own).characters[0] == parse(text).left_to_right[place]
