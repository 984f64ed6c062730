import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from negguide.mining.categories import CATEGORIES
from negguide.mining.edits import make_planner, plan
from negguide.mining.edits.fill_mask import _most_tokens
from negguide.models import revision
from negguide.toyworld.language import parse, vocabulary

WORDS = """
a an the dog cat cats dogs elephant hound creature red blue orange big on under to of and two three sofa couch
quickly zebra ##s sleeping . , cac ##tus
"""


@pytest.fixture(scope="module")
def tiny_bert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = list(dict.fromkeys([*special, *WORDS.split(), *vocabulary(negation=True)]))
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    from tokenizers.decoders import WordPiece as Decoder

    tokenizer.decoder = Decoder()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )
    return model, fast


@pytest.fixture(scope="module")
def everything(tiny_bert):
    """A planner that looks at all words of the model, so that what it takes is a matter of the rules."""
    return make_planner("fill-mask", model=tiny_bert, top_k=10_000, english_model="lexicon")


def test_words_of_the_same_part_of_speech_and_number_are_proposed_with_their_article(everything):
    text = "A dog on a red sofa, and two cats."
    found = everything.propose(text, CATEGORIES, random.Random(0))
    captions = {edit.caption: edit for edit in found}
    assert captions["An elephant on a red sofa, and two cats."].avoid == "dog"
    assert captions["A dog on an orange sofa, and two cats."].before == "a red"
    assert captions["A dog on a blue sofa, and two cats."].avoid == "red sofa"
    assert captions["A dog under a red sofa, and two cats."].category == "relation"
    assert captions["A dog on a red sofa, and three cats."].category == "count"
    assert captions["A dog on a red sofa, and two dogs."].category == "object"
    for edit in found:
        assert edit.caption == text[: edit.start] + edit.after + text[edit.end :]
        assert edit.backend == "fill-mask"
        assert not {"quickly", "sleeping", "cac"} & set(edit.after.split())
        assert edit.category in ("object", "attribute", "count", "relation")


def test_synonyms_and_broader_words_are_refused(everything):
    chosen, rejected = plan(
        "a dog on a sofa", everything, categories=["object"], per_item=99, rng=random.Random(0)
    )
    assert {r.edit.caption: r.reason for r in rejected} == {
        "a hound on a sofa": "synonym",
        "a creature on a sofa": "hypernym",
        "a dog on a couch": "paraphrase",
    }
    assert "a cat on a sofa" in {edit.caption for edit in chosen}


def test_only_the_likeliest_words_are_looked_at(tiny_bert):
    text = "a dog on a red sofa and two cats"
    few = make_planner("fill-mask", model=tiny_bert, top_k=8, english_model="lexicon")
    every = make_planner("fill-mask", model=tiny_bert, top_k=10_000, english_model="lexicon")
    some = {edit.caption for edit in few.propose(text, CATEGORIES, random.Random(0))}
    assert some < {edit.caption for edit in every.propose(text, CATEGORIES, random.Random(0))}


def test_the_toy_world_is_read_by_its_own_parser(tiny_bert):
    planner = make_planner("fill-mask", model=tiny_bert, world="toyworld", top_k=10_000)
    text = "two orange bears wearing a red hat at night"
    found = planner.propose(text, CATEGORIES, random.Random(0))
    assert {edit.category for edit in found} == {"object", "attribute", "count"}
    for edit in found:
        after = parse(edit.caption)
        assert after.count == (3 if edit.category == "count" else 2)
    by_caption = {edit.caption: edit.avoid for edit in found}
    assert by_caption["two orange cats wearing a red hat at night"] == "bear"
    assert by_caption["two orange bears wearing a blue hat at night"] == "red hat"
    assert "two orange cat wearing a red hat at night" not in by_caption
    pair = "an orange bear to the left of a cat"
    moved = {edit.caption for edit in planner.propose(pair, ["relation", "attribute"], random.Random(0))}
    assert {"an orange bear to the right of a cat", "a grey bear to the left of a cat"} <= moved
    assert planner.propose("a red hat", CATEGORIES, random.Random(0)) == []


def test_a_folder_gives_the_same_as_the_loaded_model(tiny_bert, tmp_path):
    model, tokenizer = tiny_bert
    model.save_pretrained(tmp_path, safe_serialization=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = make_planner("fill-mask", model=tmp_path, english_model="lexicon", top_k=30)
    given = make_planner("fill-mask", model=tiny_bert, english_model="lexicon", top_k=30)
    arguments = ("a dog on a red sofa", CATEGORIES)
    assert loaded.propose(*arguments, random.Random(0)) == given.propose(*arguments, random.Random(0))
    assert loaded.description["model"] == str(tmp_path)
    assert loaded.description["top_k"] == 30


def test_models_that_cannot_fill_a_mask_are_refused(tiny_bert, tmp_path):
    from negguide.toyworld.words import new_tokenizer

    with pytest.raises(ValueError, match="its tokenizer has no mask token"):
        make_planner("fill-mask", model=(tiny_bert[0], new_tokenizer()))
    with pytest.raises(ValueError, match="cannot be loaded as a masked model"):
        make_planner("fill-mask", model=tmp_path)
    with pytest.raises(ValueError, match="top_k=0 must be a whole number"):
        make_planner("fill-mask", model=tiny_bert, top_k=0)


def test_a_caption_that_is_too_long_for_the_model_is_counted(tiny_bert):
    planner = make_planner("fill-mask", model=tiny_bert, top_k=10_000, english_model="lexicon")
    long = "a dog on a sofa " + "and a dog " * 30
    assert planner.propose(long, ["object"], random.Random(0)) == []
    assert planner.failures == {"the caption is too long for the masked model": 1}
    assert planner.propose("a dog on a sofa", ["object"], random.Random(0))
    assert planner.failures.total() == 1


def test_roberta_counts_positions_from_the_one_after_the_paddings():
    model = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=10,
            pad_token_id=1,
        )
    )
    most = _most_tokens(model, SimpleNamespace(model_max_length=10**30))
    assert most == 8
    ids = torch.full((1, 8), 5)
    assert model(input_ids=ids).logits.shape == (1, 8, 8)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 9), 5))
    assert _most_tokens(model, SimpleNamespace(model_max_length=5)) == 5


def test_other_weights_in_the_folder_are_told(tiny_bert, tmp_path):
    model, tokenizer = tiny_bert
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first = make_planner("fill-mask", model=str(tmp_path), world="toyworld").description
    assert first["revision"] == revision(str(tmp_path))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0@")
    now = make_planner("fill-mask", model=str(tmp_path), world="toyworld").description
    assert now == {**first, "revision": revision(str(tmp_path))} and now != first
    # without a folder there is nothing to tell
    assert make_planner("fill-mask", model=tiny_bert, world="toyworld").description["revision"] is None
