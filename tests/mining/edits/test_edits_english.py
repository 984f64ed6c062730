import random
import sys
from collections import Counter
from itertools import pairwise

import pytest

from negguide.mining.edits import make_planner, plan, plan_positives
from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.planner import normalised
from negguide.mining.edits.tagging import LexiconTagger
from negguide.mining.item import CATEGORIES, Edit

CAPTIONS = (
    "A dog on a red sofa next to two cats.",
    "An orange car and a big blue truck are parked in front of a house.",
    "a dog and a cat on a sofa",
    "A man wearing a hat and a woman with an umbrella, at night",
    "Two dogs are sitting under a wooden table",
    "A dog chasing a cat",
    "An old man holding an umbrella",
    "A puppy sleeps in a basket",
    "Jeans and boots on a bed",
    "a table without a red vase",
    "A large,  empty bowl on top of a desk !",
)


@pytest.fixture(scope="module")
def rules():
    return make_planner("rules", tagger="lexicon")


def captions_of(rules, text, *categories):
    return {edit.caption: edit for edit in rules.propose(text, categories, random.Random(0))}


def test_nothing_outside_the_span_is_touched_and_articles_are_right(rules):
    import inflect

    engine = inflect.engine()
    seen = Counter()
    for text in CAPTIONS:
        for edit in rules.propose(text, CATEGORIES, random.Random(0)):
            seen[edit.category] += 1
            assert text[edit.start : edit.end] == edit.before
            assert edit.caption == text[: edit.start] + edit.after + text[edit.end :]
            assert edit.caption.endswith(text[-2:]) or edit.end >= len(text) - 1
            said = normalised(edit.caption).split()
            for word, following in pairwise(said):
                if word in ("a", "an"):
                    assert engine.a(following) == f"{word} {following}", edit
            assert edit.caption[0].isupper() == text[0].isupper()
    assert set(seen) == set(CATEGORIES)


@pytest.mark.parametrize(
    ("text", "category", "expected", "before", "after", "draw", "avoid"),
    [
        ("A dog on a sofa.", "object", "An elephant on a sofa.", "A dog", "An elephant", None, "dog"),
        ("two  puppies", "object", "two  foxes", "puppies", "foxes", None, "puppy"),
        ("an orange car", "attribute", "a red car", "an orange", "a red", None, "orange car"),
        ("a big dog", "attribute", "a tiny dog", "big", "tiny", None, "big dog"),
        ("the wooden table", "attribute", "the stone table", "wooden", "stone", None, "wooden table"),
        ("Two dogs sit here", "count", "Four dogs sit here", "Two", "Four", None, ""),
        ("2 dogs on grass", "count", "3 dogs on grass", "2", "3", None, ""),
        (
            "A dog sits on a bench.",
            "count",
            "Two dogs sit on a bench.",
            "A dog sits",
            "Two dogs sit",
            None,
            "",
        ),
        ("Two dogs are asleep", "count", "One dog is asleep", "Two dogs are", "One dog is", None, ""),
        ("a man with a knife", "count", "a man with three knives", "a knife", "three knives", None, ""),
        ("a cat on a table", "relation", "a cat under a table", "on", "under", None, ""),
        ("a cat to the left of a dog", "relation", "a cat to the right of a dog", "left", "right", None, ""),
        (
            "A red car and an orange bus",
            "swap",
            "An orange car and a red bus",
            "A red car and an orange",
            "An orange car and a red",
            None,
            "",
        ),
        (
            "A dog chasing a cat",
            "swap",
            "A cat chasing a dog",
            "dog chasing a cat",
            "cat chasing a dog",
            None,
            "",
        ),
        ("A dog on grass", "add", "A dog and an elephant on grass", "", " and an elephant", None, ""),
        ("A dog sits on grass", "add", "A dog and a cat sit on grass", "sits", "and a cat sit", None, ""),
        ("a dog and a cat on a sofa", "remove", "a dog on a sofa", " and a cat", "", None, "cat"),
        ("A dog and a cat are here.", "remove", "A dog is here.", "and a cat are", "is", None, "cat"),
        ("a man wearing a red hat", "remove", "a man", " wearing a red hat", "", None, "red hat"),
        (
            "a man with an old umbrella, at night",
            "negation",
            "a man without an umbrella, at night",
            "with an old",
            "without an",
            "a man, at night",
            "old umbrella",
        ),
        ("a dog and a cat.", "negation", "a dog but no cat.", "and a", "but no", "a dog.", "cat"),
        ("a table without a vase", "negation", "a table with a vase", "without", "with", None, ""),
    ],
)
def test_examples(rules, text, category, expected, before, after, draw, avoid):
    found = captions_of(rules, text, category)
    assert expected in found, sorted(found)
    edit = found[expected]
    assert (edit.before, edit.after, edit.draw, edit.avoid) == (before, after, draw, avoid)


@pytest.mark.parametrize(
    "text",
    [
        "a dog house",  # the first half of another noun
        "a sea lion",
        "two brown bears",
        "a hot dog stand",
        "an orange on grass",  # a fruit
        "the white house",
        "a parking meter",
        "people dress in red light",
        "they book a flight",
        "a zorp near a flib",
        "",
    ],
)
def test_what_is_not_sure_is_left_alone(rules, text):
    assert rules.propose(text, ["object", "attribute", "count", "add", "remove"], random.Random(0)) == []


def test_a_table_that_something_stands_on_is_not_multiplied(rules):
    found = captions_of(rules, "A dog on a table", "count", "add")
    assert all(caption.endswith(" on a table") for caption in found)


def test_the_number_of_a_far_verb_is_not_guessed(rules):
    assert captions_of(rules, "A dog near the lake, which is sleeping, runs", "count", "add") == {}


def test_people_are_not_exchanged_when_words_say_who_they_are(rules):
    assert captions_of(rules, "a man", "object")
    assert not any("woman" in caption for caption in captions_of(rules, "a man and his guitar", "object"))


def test_what_is_denied_is_never_changed_but_affirmed(rules):
    found = captions_of(rules, "a table without a red vase", *CATEGORIES)
    assert "a table with a red vase" in found
    assert all("red vase" in caption for caption in found)
    assert found["a chair without a red vase"].draw == "a chair"


def test_no_synonym_and_no_broader_or_narrower_word_is_proposed(rules):
    words = lexicon()
    for kind, group in words.classes.items():
        for word, related in group["words"].items():
            noun = words.noun(word)
            if noun.kind != kind:
                continue
            instead = set(words.nouns_instead(noun))
            same = {word, *group["hypernyms"]}
            same |= {w for name in ("synonyms", "hyponyms", "near") for w in related.get(name, ())}
            assert instead
            assert not instead & same
    for text in CAPTIONS:
        for edit in rules.propose(text, CATEGORIES, random.Random(0)):
            assert rules.objection(text, edit) is None, edit


@pytest.mark.parametrize(
    ("text", "old", "new", "category", "reason"),
    [
        ("a dog on a couch", "couch", "sofa", "object", "paraphrase"),
        ("a dog on a couch", "dog", "hound", "object", "synonym"),
        ("a dog on a couch", "dog", "puppy", "object", "hyponym"),
        ("a dog on a couch", "dog", "animal", "object", "hypernym"),
        ("two dogs here", "dogs", "animals", "object", "hypernym"),
        ("a puppy here", "puppy", "dog", "object", "hypernym"),
        ("a cup here", "cup", "glass", "object", "synonym"),
        ("a big dog", "big", "huge", "attribute", "synonym"),
        ("a pink cup", "pink", "red", "attribute", "synonym"),
        ("a grey dog", "grey", "gray", "attribute", "paraphrase"),
        ("a dog and a cat", "a dog and a cat", "a cat and a dog", "swap", "paraphrase"),
        ("a dog near a cat", "a dog near a cat", "a cat by a dog", "swap", "words changed"),
        ("a dog", "a dog", "one dog", "count", "paraphrase"),
        ("2 dogs", "2", "two", "count", "paraphrase"),
        ("a cat below a chair", "below", "beneath", "relation", "paraphrase"),
        ("a dog on a couch", "dog", "cat", "object", None),
        ("a big dog", "big", "small", "attribute", None),
    ],
)
def test_what_is_still_true_of_the_picture_is_refused(text, old, new, category, reason):
    start = text.index(old)
    edit = Edit.replacing(text, start, start + len(old), new, category=category, backend="llm")
    assert english_objection(text, edit, LexiconTagger()) == reason


def test_positives_keep_the_meaning(rules):
    found = {
        e.caption for e in rules.propose_positives("A big dog and an old cat on a sofa", random.Random(0))
    }
    assert found == {
        "A large dog and an old cat on a sofa",
        "An old cat and a big dog on a sofa",
        "A big dog and an old cat on a couch",
    }
    for text in CAPTIONS:
        assert plan_positives(text, rules, count=9, rng=random.Random(0))[1] == []
    wrong = Edit.replacing(
        "two dogs", 0, 3, "three", category="paraphrase", backend="llm", meaning="positive"
    )
    assert rules.objection("two dogs", wrong) == "changed meaning"


def test_a_plan_depends_on_the_seed_alone(rules):
    def chosen(seed):
        return plan(CAPTIONS[1], rules, categories=CATEGORIES, per_item=6, rng=random.Random(seed))[0]

    assert chosen(3) == chosen(3)
    assert chosen(3) != chosen(4)
    assert len({edit.category for edit in chosen(3)}) == 6


def test_a_tagger_that_is_missing_or_unknown_is_refused_with_what_to_install(monkeypatch):
    with pytest.raises(ValueError, match="tagger='nltk' is unknown; use auto, lexicon or spacy"):
        make_planner("rules", tagger="nltk")
    with pytest.raises(ValueError, match="spacy_model='any' is not used by tagger='lexicon'"):
        make_planner("rules", tagger="lexicon", spacy_model="any")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match="pip install spacy && python -m spacy download en_core_web_sm"):
        make_planner("rules", tagger="spacy")
    with pytest.raises(ImportError, match="python -m spacy download de_core_news_sm"):
        make_planner("rules", spacy_model="de_core_news_sm")  # never another tagger in silence


def test_a_missing_package_is_named(monkeypatch):
    from negguide.mining.edits import lexicon as module

    module._inflect.cache_clear()
    module.lexicon.cache_clear()
    module.plural.cache_clear()
    monkeypatch.setitem(sys.modules, "inflect", None)
    try:
        with pytest.raises(ImportError, match=r"need the package inflect: pip install inflect lemminflect"):
            make_planner("rules", tagger="lexicon")
    finally:
        module.lexicon.cache_clear()


@pytest.fixture(scope="module")
def spacy_model(tmp_path_factory):
    """A real spaCy pipeline on disk; its parts of speech are those of a list."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    tags = {
        "NOUN": "dog dogs house sofa car orange",
        "ADJ": "red big",
        "NUM": "two",
        "DET": "a the",
        "ADP": "on",
    }
    for part, said in tags.items():
        ruler.add(patterns=[[{"LOWER": word}] for word in said.split()], attrs={"POS": part})
    nlp.meta["name"] = "listed"
    folder = tmp_path_factory.mktemp("spacy") / "model"
    nlp.to_disk(folder)
    return folder


def test_spacy_is_the_evidence_where_it_is_there(spacy_model):
    spaced = make_planner("rules", tagger="spacy", spacy_model=str(spacy_model))
    assert spaced.description["tagger"].startswith("spacy en_listed")
    found = captions_of(spaced, "Two dogs on a red sofa", *CATEGORIES)
    assert {"Two cats on a red sofa", "Two dogs on a blue sofa", "Three dogs on a red sofa"} <= set(found)
    assert not captions_of(spaced, "a dog house", "object", "count")
    with pytest.raises(
        ValueError, match="spacy_model='no_such' is not installed: python -m spacy download no_such"
    ):
        make_planner("rules", tagger="spacy", spacy_model="no_such")


def test_a_spacy_model_without_parts_of_speech_is_refused(tmp_path):
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="gives no parts of speech; use one with a tagger"):
        make_planner("rules", tagger="spacy", spacy_model=str(tmp_path / "blank"))
