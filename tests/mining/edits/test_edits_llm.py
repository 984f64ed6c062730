import json
import random
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from negguide.mining.edits import make_planner, plan, plan_positives
from negguide.mining.item import CATEGORIES

TEXT = "a dog on a red sofa"


def answer(*edits):
    return json.dumps({"edits": list(edits)})


GOOD = {"category": "object", "before": "a dog on", "after": "an owl on", "avoid": "dog"}


class Endpoint:
    """An OpenAI-compatible server on this machine that gives the answers it was told to, one after the other."""

    def __init__(self):
        self.replies = []
        self.requests = []
        self.key = None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200 if self.allowed() else 401, {"data": [{"id": "talker"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, body))
                said = endpoint.replies.pop(0)
                if not self.allowed():
                    self.reply(401, {})
                elif isinstance(said, float):
                    time.sleep(said)
                    self.reply(200, {})
                elif isinstance(said, int):
                    self.reply(said, {"error": "as told"})
                elif isinstance(said, dict):
                    self.reply(200, said)
                else:
                    self.reply(200, {"choices": [{"message": {"role": "assistant", "content": said}}]})

            def allowed(self):
                return endpoint.key in (None, (self.headers["Authorization"] or "").removeprefix("Bearer "))

            def reply(self, status, body):
                content = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except BrokenPipeError:  # the other side did not wait
                    pass

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Endpoint()
    yield server
    server.stop()


def planner_at(endpoint, **options):
    options = {"tagger": "lexicon", "pause": 0.01, "timeout": 5.0} | options
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
    }
    endpoint.replies = [answer({"category": "negation", "before": "on", "after": "without"})]
    assert planner.propose(TEXT, ["negation"], random.Random(0)) == []
    assert planner.failures["no picture"] == 1


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        ("Sure! Here you are.", "not JSON"),
        (answer(GOOD) + " That is all.", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", 'wrong schema: not {"edits": [...]}'),
        ('{"edits": [], "note": 1}', 'wrong schema: not {"edits": [...]}'),
        ('{"edits": ["a cat"]}', "wrong schema: an edit is no object"),
        (answer({"category": "object", "before": "dog"}), "wrong schema: an edit has other fields"),
        (answer(GOOD | {"why": "so"}), "wrong schema: an edit has other fields"),
        (answer(GOOD | {"after": 3}), "wrong schema: a field is no string"),
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


def test_a_server_in_trouble_is_asked_again_with_pauses(endpoint):
    planner = planner_at(endpoint, pause=0.05)
    endpoint.replies = [503, 429, answer(GOOD)]
    begin = time.monotonic()
    assert len(planner.propose(TEXT, ["object"], random.Random(0))) == 1
    assert time.monotonic() - begin >= 0.05 + 0.1
    assert planner.failures == {"HTTP 503": 1, "HTTP 429": 1}


@pytest.mark.parametrize(
    ("replies", "failures"),
    [
        ([500, 500, 500], {"HTTP 500": 3, "gave up": 1}),
        ([400], {"HTTP 400": 1, "gave up": 1}),
        ([{"choices": []}], {"no chat completion": 1, "gave up": 1}),
        ([0.6, 0.6, 0.6], {"timeout": 3, "gave up": 1}),
    ],
)
def test_a_caption_without_an_answer_is_counted_and_the_next_one_goes_on(endpoint, replies, failures):
    planner = planner_at(endpoint, retries=2, timeout=0.3)
    endpoint.replies = [*replies, answer(GOOD)]
    assert planner.propose(TEXT, ["object"], random.Random(0)) == []
    assert planner.failures == failures
    planner._chat.timeout = 5.0
    assert len(planner.propose(TEXT, ["object"], random.Random(0))) == 1


def test_an_endpoint_that_is_not_there_is_refused_at_the_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"base_url='http://127.0.0.1:{port}/v1' does not answer"):
        make_planner("llm", base_url=f"http://127.0.0.1:{port}/v1", model="talker", tagger="lexicon")
    with pytest.raises(ValueError, match=r"base_url='127\.0\.0\.1' is no address"):
        make_planner("llm", base_url="127.0.0.1", model="talker", tagger="lexicon")


def test_an_endpoint_that_goes_away_stops_the_run(endpoint):
    planner = planner_at(endpoint, retries=1)
    endpoint.stop()
    with pytest.raises(ConnectionError, match="does not answer any more"):
        planner.propose(TEXT, ["object"], random.Random(0))
    assert planner.failures == {"no connection": 2}


def test_the_key_comes_from_the_environment_and_is_not_stored(endpoint, monkeypatch):
    endpoint.key = "sesame"
    with pytest.raises(
        ValueError, match="wants a key, and the one in the environment variable MY_KEY is missing"
    ):
        planner_at(endpoint, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "wrong")
    with pytest.raises(ValueError, match="MY_KEY is refused"):
        planner_at(endpoint, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sesame")
    planner = planner_at(endpoint, key_variable="MY_KEY")
    endpoint.replies = [answer(GOOD)]
    assert len(planner.propose(TEXT, ["object"], random.Random(0))) == 1
    assert "sesame" not in json.dumps(planner.description)


def test_a_missing_package_is_named(endpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ImportError, match="needs the package requests: pip install requests"):
        planner_at(endpoint)


def test_a_model_that_the_endpoint_does_not_know_is_an_error(endpoint):
    planner = planner_at(endpoint)
    endpoint.replies = [404]
    with pytest.raises(ValueError, match="does not know model='talker'"):
        planner.propose(TEXT, ["object"], random.Random(0))


def test_what_the_model_proposes_is_checked_like_everything_else(endpoint):
    planner = planner_at(endpoint)
    endpoint.replies = [
        answer(
            GOOD,
            {"category": "object", "before": "sofa", "after": "couch"},
            {"category": "object", "before": "dog", "after": "animal"},
        )
    ]
    chosen, rejected = plan(TEXT, planner, categories=["object"], per_item=9, rng=random.Random(0))
    assert [edit.caption for edit in chosen] == ["an owl on a red sofa"]
    assert {r.reason for r in rejected} == {"paraphrase", "hypernym"}
    reworded = [
        {"category": "paraphrase", "before": "on a red sofa", "after": "lying on a red couch"},
        {"category": "paraphrase", "before": "red", "after": "blue"},
    ]
    endpoint.replies = [answer(*reworded)]
    fine, refused = plan_positives(TEXT, planner, count=9, rng=random.Random(0))
    assert [(e.caption, e.meaning) for e in fine] == [("a dog lying on a red couch", "positive")]
    assert [r.reason for r in refused] == ["changed meaning"]


def test_the_toy_world_has_the_last_word_on_its_captions(endpoint):
    planner = planner_at(endpoint, world=True)
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
    planner = make_planner("llm", model=tiny_chat, world=True, attempts=2, max_tokens=8)
    for _ in range(2):
        assert planner.propose("a bear at night", CATEGORIES, random.Random(0)) == []
    assert planner.failures == {"not JSON": 4, "gave up": 2}


def test_a_local_model_is_loaded_from_a_folder_and_seeded(tiny_chat, tmp_path):
    model, tokenizer = tiny_chat
    model.save_pretrained(tmp_path, safe_serialization=True)
    tokenizer.save_pretrained(tmp_path)
    planner = make_planner("llm", model=tmp_path, world=True, max_tokens=6, temperature=1.0)
    messages = [{"role": "user", "content": "a bear"}]
    said = [planner._chat.answer(messages, seed) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    assert planner.description["model"] == str(tmp_path)


def test_models_that_cannot_chat_are_refused(tiny_chat, tmp_path):
    from negguide.toyworld.words import new_tokenizer

    with pytest.raises(ValueError, match="its tokenizer has no chat template"):
        make_planner("llm", model=(tiny_chat[0], new_tokenizer()), world=True)
    with pytest.raises(ValueError, match="cannot be loaded as a chat model"):
        make_planner("llm", model=tmp_path, world=True)
    with pytest.raises(TypeError, match="model must be the name that the endpoint knows"):
        make_planner("llm", model=tiny_chat, base_url="http://localhost:1", world=True)
    with pytest.raises(TypeError, match=r"backend='llm' with world=True: .*'color'"):
        make_planner("llm", model=tiny_chat, world=True, color=1)
    with pytest.raises(ValueError, match="attempts=0 must be a whole number of 1 or more"):
        make_planner("llm", model=tiny_chat, world=True, attempts=0)
