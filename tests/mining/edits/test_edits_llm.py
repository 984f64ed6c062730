import json
import random

import pytest
import torch

from negguide.mining.categories import CATEGORIES
from negguide.mining.edits import make_planner, plan, plan_positives
from negguide.mining.edits.answers import parse_answer, schema

TEXT = "a dog on a red sofa"


def answer(*edits):
    return json.dumps({"edits": list(edits)})


GOOD = {"category": "object", "before": "a dog on", "after": "an owl on", "avoid": "dog"}


def planner_at(endpoint, **options):
    options = {"english_model": "lexicon", "pause": 0.01, "timeout": 5.0, "say": lambda text: None} | options
    return make_planner("llm", base_url=endpoint.url, model="talker", **options)


def test_good_answers_become_edits_with_the_smallest_span(endpoint):
    planner = planner_at(endpoint)
    endpoint.replies = [
        answer(
            GOOD,
            {
                "category": "negation",
                "before": "on a red sofa",
                "after": "without a red sofa",
                "draw": "a dog",
            },
            {"category": "add", "before": "a dog", "after": "a dog and a cat"},
        )
    ]
    edits = {edit.category: edit for edit in planner.propose(TEXT, CATEGORIES, random.Random(0))}
    assert edits["object"].caption == "an owl on a red sofa"
    assert (edits["object"].before, edits["object"].after, edits["object"].avoid) == (
        "a dog",
        "an owl",
        "dog",
    )
    assert (edits["negation"].before, edits["negation"].after) == ("on", "without")
    assert edits["negation"].draw == "a dog"
    assert (edits["add"].before, edits["add"].after) == ("", " and a cat")
    assert {edit.backend for edit in edits.values()} == {"llm"}
    assert not planner.failures
    path, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "talker"
    assert body["temperature"] == 0.0
    assert TEXT in body["messages"][1]["content"]
    assert all(name in body["messages"][1]["content"] for name in CATEGORIES)


def test_what_the_model_gets_wrong_is_left_out_and_counted(endpoint):
    planner = planner_at(endpoint)
    fence = "```json\n" + answer(
        GOOD,
        {"category": "weather", "before": "dog", "after": "cat"},
        {"category": "count", "before": "dog", "after": "cat"},
        {"category": "object", "before": "horse", "after": "cat"},
        {"category": "object", "before": "a", "after": "the"},
        {"category": "object", "before": "do", "after": "ra"},
        {"category": "object", "before": "dog", "after": "dog"},
        {"category": "object", "before": TEXT, "after": " "},
        {"category": "object", "before": "dog"},
        "a cat",
    )
    endpoint.replies = [fence + "\n```"]
    edits = planner.propose(TEXT, ["object"], random.Random(0))
    assert [edit.caption for edit in edits] == ["an owl on a red sofa"]
    assert planner.failures == {
        "wrong category": 2,
        "words not found": 2,
        "words found twice": 1,
        "unchanged": 1,
        "nothing left": 1,
        "fields missing": 2,
    }
    endpoint.replies = [answer({"category": "negation", "before": "on", "after": "without"})]
    assert planner.propose(TEXT, ["negation"], random.Random(0)) == []
    assert planner.failures["no picture"] == 1


@pytest.mark.parametrize(
    "said",
    [
        answer(GOOD),
        "```json\n" + answer(GOOD) + "\n```",
        "Sure! Here you are:\n" + answer(GOOD) + "\nThat is all {really}.",
        "<think>\nPerhaps " + answer(GOOD | {"after": "a fox on"}) + "?\nNo.</think>\n\n" + answer(GOOD),
        # the template has opened the tag already
        "Perhaps [] or so.</think>" + answer(GOOD),
        json.dumps([GOOD]),
        json.dumps(GOOD),
        json.dumps({"Edits": [{name.upper(): value for name, value in GOOD.items()}]}),
        answer(GOOD | {"category": " Object", "why": "so", "n": 3, "draw": None, "more": ["x"]}),
        'Like {"edits": []}, with an edit: ' + answer(GOOD),
    ],
)
def test_answers_are_read_however_they_are_wrapped(endpoint, said):
    planner = planner_at(endpoint)
    endpoint.replies = [said]
    edits = planner.propose(TEXT, ["object"], random.Random(0))
    assert [(edit.caption, edit.avoid) for edit in edits] == [("an owl on a red sofa", "dog")]
    assert not planner.failures and len(endpoint.requests) == 1


def test_null_is_an_empty_text_and_a_number_its_digits():
    (edit,) = parse_answer('{"edits": [{"category": "remove", "before": "a", "after": null, "avoid": null}]}')
    assert edit == {"category": "remove", "before": "a", "after": "", "avoid": ""}
    assert parse_answer('{"edits": [{"category": "count", "before": "2", "after": 3}]}')[0]["after"] == "3"
    assert parse_answer('{"edits": null}') == parse_answer('{"edits": []}') == []


def test_a_schema_is_one_that_strict_servers_take():
    said = schema(("object", "count"))
    edit = said["properties"]["edits"]["items"]
    assert edit["properties"]["category"]["enum"] == ["object", "count"]
    for part in (said, edit):
        assert part["additionalProperties"] is False and part["required"] == list(part["properties"])
    assert set(schema(("paraphrase",))["properties"]["edits"]["items"]["properties"]) == {
        "category",
        "before",
        "after",
    }


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        ("Sure! Here you are.", "not JSON"),
        (answer(GOOD)[:-3], "not JSON"),
        ("[{" * 100_000, "not JSON"),
        ('{"category": "object"}', 'wrong schema: not {"edits": [...]}'),
        ('{"edits": "none"}', 'wrong schema: not {"edits": [...]}'),
    ],
)
def test_a_malformed_answer_is_sent_back_and_counted(endpoint, malformed, reason):
    planner = planner_at(endpoint)
    endpoint.replies = [malformed, answer(GOOD)]
    assert len(planner.propose(TEXT, ["object"], random.Random(0))) == 1
    assert planner.failures == {reason: 1}
    again = endpoint.requests[1][1]["messages"]
    assert again[2] == {"role": "assistant", "content": malformed}
    assert reason in again[3]["content"]


def test_a_model_that_never_gets_it_right_is_given_up(endpoint):
    planner = planner_at(endpoint, attempts=2)
    endpoint.replies = ["no", "no", answer(GOOD)]
    assert planner.propose(TEXT, ["object"], random.Random(0)) == []
    assert planner.failures == {"not JSON": 2, "gave up": 1}
    assert len(endpoint.replies) == 1


def test_what_the_model_proposes_is_checked_like_everything_else(endpoint):
    planner = planner_at(endpoint)
    endpoint.replies = [
        answer(
            GOOD,
            {"category": "object", "before": "sofa", "after": "couch"},
            {"category": "object", "before": "dog", "after": "animal"},
            {"category": "object", "before": "dog", "after": "DROP TABLE"},
            {"category": "object", "before": TEXT, "after": "a cat under a blue table"},
            {"category": "attribute", "before": "red", "after": "crimson"},
        )
    ]
    chosen, rejected = plan(
        TEXT, planner, categories=["object", "attribute"], per_item=9, rng=random.Random(0)
    )
    assert [edit.caption for edit in chosen] == ["an owl on a red sofa"]
    assert sorted(r.reason for r in rejected) == [
        "hypernym",
        "no word of English",
        "paraphrase",
        "several changes",
        "synonym",
    ]
    reworded = [
        {"category": "paraphrase", "before": "on a red sofa", "after": "lying on a red couch"},
        {"category": "paraphrase", "before": "red", "after": "blue"},
    ]
    endpoint.replies = [answer(*reworded)]
    fine, refused = plan_positives(TEXT, planner, count=9, rng=random.Random(0))
    assert [(e.caption, e.meaning) for e in fine] == [("a dog lying on a red couch", "positive")]
    assert [r.reason for r in refused] == ["changed meaning"]


def test_the_toy_world_has_the_last_word_on_its_captions(endpoint):
    planner = planner_at(endpoint, world="toyworld")
    text = "a bear wearing a red hat at night"
    endpoint.replies = [
        answer(
            {"category": "attribute", "before": "red", "after": "blue"},
            {"category": "attribute", "before": "red", "after": "striped"},
        )
    ]
    chosen, rejected = plan(text, planner, categories=["attribute"], per_item=9, rng=random.Random(0))
    assert [edit.caption for edit in chosen] == ["a bear wearing a blue hat at night"]
    assert [r.reason for r in rejected] == ["not of this world"]


@pytest.fixture(scope="module")
def tiny_chat():
    """A random Llama that speaks in words of the toy world."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from negguide.toyworld.language import vocabulary

    words = ["<pad>", "<unk>", "<end>", *vocabulary()]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}assistant "
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config), fast


def test_a_model_that_babbles_is_counted_and_never_crashes(tiny_chat):
    planner = make_planner("llm", model=tiny_chat, world="toyworld", attempts=2, max_tokens=8)
    for _ in range(2):
        assert planner.propose("a bear at night", CATEGORIES, random.Random(0)) == []
    assert planner.failures == {"not JSON": 4, "gave up": 2}


def test_a_local_model_is_loaded_from_a_folder_and_seeded(tiny_chat, tmp_path):
    model, tokenizer = tiny_chat
    model.save_pretrained(tmp_path, safe_serialization=True)
    tokenizer.save_pretrained(tmp_path)
    planner = make_planner("llm", model=tmp_path, world="toyworld", max_tokens=6, temperature=1.0)
    messages = [{"role": "user", "content": "a bear"}]
    said = [planner._chat.answer(messages, seed, {}) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    assert planner.description["model"] == str(tmp_path)


def test_models_that_cannot_chat_are_refused(tiny_chat, tmp_path):
    from negguide.toyworld.words import new_tokenizer

    with pytest.raises(ValueError, match="its tokenizer has no chat template"):
        make_planner("llm", model=(tiny_chat[0], new_tokenizer()), world="toyworld")
    with pytest.raises(ValueError, match="cannot be loaded as a chat model"):
        make_planner("llm", model=tmp_path, world="toyworld")
    with pytest.raises(TypeError, match="model must be the name that the endpoint knows"):
        make_planner("llm", model=tiny_chat, base_url="http://localhost:1", world="toyworld")
    with pytest.raises(TypeError, match=r"backend='llm' with world='toyworld': .*'color'"):
        make_planner("llm", model=tiny_chat, world="toyworld", color=1)
    with pytest.raises(ValueError, match="concurrency=2 is for an endpoint"):
        make_planner("llm", model=tiny_chat, world="toyworld", concurrency=2)
    with pytest.raises(ValueError, match="attempts=0 must be a whole number of 1 or more"):
        make_planner("llm", model=tiny_chat, world="toyworld", attempts=0)
