"""What a server that plans edits can do wrong, and what becomes of the captions."""

import json
import random
import socket
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from llm_server import Reply

from negguide.mining.edits import make_planner
from negguide.mining.edits.endpoint import LONGEST_PAUSE, retry_after, server_words

TEXT = "a dog on a red sofa"
GOOD = json.dumps({"edits": [{"category": "object", "before": "a dog on", "after": "an owl on"}]})


def planner_at(endpoint, **options):
    options = {"english_model": "lexicon", "pause": 0.01, "timeout": 5.0, "say": lambda text: None} | options
    return make_planner("llm", base_url=endpoint.url, model="talker", **options)


def proposed(planner):
    return [edit.caption for edit in planner.propose(TEXT, ["object"], random.Random(0))]


class Clock:
    """Waits for nothing, and keeps for how long it should have."""

    def __init__(self):
        self.waits = []

    def wait(self, seconds):
        self.waits.append(seconds)
        return False

    def set(self):
        pass


TROUBLES = {
    "HTTP 408": 408,
    "HTTP 409": 409,
    "HTTP 429": 429,
    "HTTP 500": 500,
    "HTTP 503": Reply(status=503, body="<html>no"),
    "no answer in 0.5 s": Reply(GOOD, after=0.8),
    "no connection": Reply(GOOD, cut=True),
    "no chat completion": Reply(body={"choices": []}),
    "no chat completion: out of memory": Reply(body={"error": {"message": "out of memory"}}),
    "no chat completion: {": Reply(body='{"choices": [{"mess'),
}


@pytest.mark.parametrize("said", TROUBLES)
def test_a_server_in_trouble_is_asked_again(endpoint, said):
    heard = []
    planner = planner_at(endpoint, timeout=0.5, say=heard.append)
    endpoint.replies = [TROUBLES[said], TROUBLES[said], GOOD]
    assert proposed(planner) == ["an owl on a red sofa"]
    assert len(endpoint.requests) == 3 and len(heard) == 2
    assert said in heard[0] and "(1 failures in a row); asking again in 0.01 s" in heard[0]
    # it is the server's failure, not the model's
    assert not planner.failures


@pytest.mark.parametrize("said", TROUBLES)
def test_a_server_that_goes_on_failing_ends_the_run_in_its_own_words(endpoint, said):
    planner = planner_at(endpoint, timeout=0.5, max_failures=2)
    endpoint.replies = [TROUBLES[said]] * 2 + [GOOD]
    with pytest.raises(
        ConnectionError, match=r"2 failures in a row\). Nothing that was answered is lost"
    ) as error:
        proposed(planner)
    assert said in str(error.value) and endpoint.url in str(error.value)
    if isinstance(TROUBLES[said], int):
        assert f"{said}: {TROUBLES[said]} as told" in str(error.value)
    assert len(endpoint.replies) == 1
    assert proposed(planner) == ["an owl on a red sofa"]


@pytest.mark.parametrize("status", [400, 402, 403, 404, 413, 422])
def test_a_refusal_ends_the_run_at_once_in_the_servers_words(endpoint, status):
    planner = planner_at(endpoint)
    endpoint.replies = [GOOD, status, status]
    assert proposed(planner)
    with pytest.raises(ValueError, match=f"HTTP {status}: {status} as told"):
        proposed(planner)
    assert len(endpoint.requests) == 2


def test_pauses_double_and_follow_retry_after_up_to_a_limit(endpoint):
    planner = planner_at(endpoint, pause=1.0)
    clock = planner._chat._ended = Clock()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    headers = [
        {},
        {},
        {"Retry-After": "17"},
        {"Retry-After": soon},
        {"Retry-After": "3600"},
        {"Retry-After": "0"},
    ]
    endpoint.replies = [*(Reply(status=429, body="slow down", headers=one) for one in headers), GOOD]
    assert proposed(planner)
    assert clock.waits[:3] == [1, 2, 17] and clock.waits[4:] == [LONGEST_PAUSE, 32]
    assert 30 < clock.waits[3] <= 40


def test_a_retry_after_is_seconds_or_a_date():
    date = datetime(2024, 5, 1, tzinfo=UTC)
    assert retry_after("1.5", 0) == 1.5
    assert retry_after(format_datetime(date, usegmt=True), date.timestamp() - 90) == 90
    assert retry_after(format_datetime(date, usegmt=True), date.timestamp() + 90) == 0
    for nothing in (None, "", "soon", "-3", "nan", "inf"):
        assert retry_after(nothing, 0) == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "Out of\\n credits", "code": 402}}', "Out of credits"),
        ('{"error": "no"}', "no"),
        ('{"detail": [{"loc": "body"}]}', '[{"loc": "body"}]'),
        ('{"message": "no"}', "no"),
        ("<html>\n502</html>", "<html> 502</html>"),
        ("", "no words"),
        ("x" * 999, "x" * 300),
    ],
)
def test_the_words_of_a_server_are_found_in_what_it_sends(body, words):
    assert server_words(body) == words


def test_a_schema_is_sent_and_left_out_where_the_server_refuses_it(endpoint):
    heard = []
    planner = planner_at(endpoint, say=heard.append)
    endpoint.answer = lambda body: (
        Reply(status=400, body={"error": {"message": "response_format is not supported"}})
        if "response_format" in body
        else GOOD
    )
    assert proposed(planner) == proposed(planner) == ["an owl on a red sofa"]
    sent = [body.get("response_format") for _, body in endpoint.requests]
    assert len(sent) == 3 and sent[1:] == [None, None]
    assert sent[0]["type"] == "json_schema" and sent[0]["json_schema"]["strict"] is True
    assert "edits" in sent[0]["json_schema"]["schema"]["properties"]
    (said,) = heard
    assert "does not take a JSON schema (response_format): response_format is not supported" in said
    assert not planner.failures


def test_a_request_that_is_wrong_with_and_without_the_schema_is_not_taken_for_one(endpoint):
    heard = []
    planner = planner_at(endpoint, say=heard.append)
    endpoint.replies = [400, 400, GOOD]
    with pytest.raises(ValueError, match="refuses a request: HTTP 400: 400 as told"):
        proposed(planner)
    assert proposed(planner) and not heard
    assert [("response_format" in body) for _, body in endpoint.requests] == [True, False, True]


def test_servers_that_count_tokens_by_another_name_get_it(endpoint):
    planner = planner_at(endpoint, max_tokens=77)
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    endpoint.answer = lambda body: (
        Reply(status=400, body={"error": {"message": words}}) if "max_tokens" in body else GOOD
    )
    assert proposed(planner) and proposed(planner)
    assert [body.get("max_completion_tokens") for _, body in endpoint.requests] == [None, 77, 77]
    assert all("response_format" in body for _, body in endpoint.requests)


def test_an_answer_with_nothing_in_it_is_the_models_failure(endpoint):
    planner = planner_at(endpoint, attempts=3)
    endpoint.replies = [Reply(None), Reply('{"edits": [', finish="length"), GOOD]
    assert proposed(planner) == ["an owl on a red sofa"]
    assert planner.failures == {"empty answer": 1, "cut off at max_tokens": 1}
    # nothing to talk about: the same is asked, with another seed
    bodies = [body for _, body in endpoint.requests]
    assert [len(body["messages"]) for body in bodies] == [2, 2, 2]
    assert len({body["seed"] for body in bodies}) == 3


def test_an_answer_in_parts_is_put_together_without_what_was_thought(endpoint):
    planner = planner_at(endpoint)
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    endpoint.replies = [Reply([*parts, *({"type": "text", "text": half} for half in (GOOD[:9], GOOD[9:]))])]
    assert proposed(planner) == ["an owl on a red sofa"]


def test_an_endpoint_that_is_not_there_is_refused_at_the_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"base_url='http://127.0.0.1:{port}/v1' does not answer"):
        make_planner("llm", base_url=f"http://127.0.0.1:{port}/v1", model="talker", english_model="lexicon")
    with pytest.raises(ValueError, match=r"base_url='127\.0\.0\.1' is no address"):
        make_planner("llm", base_url="127.0.0.1", model="talker", english_model="lexicon")


@pytest.mark.parametrize(
    ("option", "value"), [("max_failures", 0), ("max_tokens", 0), ("timeout", 0.0), ("temperature", -1.0)]
)
def test_wrong_options_are_named(endpoint, option, value):
    with pytest.raises(ValueError, match=f"{option}={value} must be"):
        planner_at(endpoint, **{option: value})


def test_an_endpoint_that_goes_away_stops_the_run(endpoint):
    planner = planner_at(endpoint, max_failures=2)
    endpoint.stop()
    with pytest.raises(ConnectionError, match=r"no connection: .*\(2 failures in a row\)"):
        proposed(planner)


def test_no_thread_waits_when_another_has_given_up(endpoint):
    planner = planner_at(endpoint, pause=60.0, max_failures=2)
    endpoint.replies = [500, 402]
    ends = []

    def ask():
        try:
            proposed(planner)
        except (ConnectionError, ValueError) as error:
            ends.append(str(error))

    waiting = threading.Thread(target=ask)
    waiting.start()
    while not endpoint.requests:
        time.sleep(0.01)
    ask()
    waiting.join(timeout=20)
    assert len(ends) == 2 and any("HTTP 402" in said for said in ends)


def test_the_key_comes_from_the_environment_and_is_not_stored(endpoint, monkeypatch):
    endpoint.key = "sesame"
    with pytest.raises(
        ValueError, match="wants a key, and the one in the environment variable MY_KEY is missing"
    ):
        planner_at(endpoint, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "wrong")
    with pytest.raises(ValueError, match=r"MY_KEY is refused \(HTTP 401: no such key\)"):
        planner_at(endpoint, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sesame")
    planner = planner_at(endpoint, key_variable="MY_KEY")
    endpoint.replies = [GOOD]
    assert len(proposed(planner)) == 1
    assert "sesame" not in json.dumps(planner.description)


def test_without_a_key_none_is_sent_whatever_else_is_stored_on_the_machine(endpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    planner = planner_at(endpoint)
    endpoint.replies = [GOOD]
    assert proposed(planner)
    assert not [name for name in endpoint.headers if name.lower() == "authorization"]
    assert "hf_secret" not in str(endpoint.headers)


def test_the_address_is_no_part_of_what_a_set_is_made_with(endpoint):
    description = planner_at(endpoint, timeout=3.0, max_failures=2, concurrency=4).description
    assert description == planner_at(endpoint).description
    assert description["model"] == "talker" and "127.0.0.1" not in json.dumps(description)
    assert description != planner_at(endpoint, temperature=0.5).description


def test_answers_are_remembered_also_those_with_nothing_in_them(endpoint, tmp_path):
    file = tmp_path / "shard" / "answers.jsonl"
    endpoint.replies = [Reply(None), "not JSON", GOOD]
    asked = planner_at(endpoint)
    assert proposed(asked.remembering(file)) == ["an owl on a red sofa"]
    # a kill tears the last line
    file.write_text(file.read_text() + '{"key": "12')
    again = planner_at(endpoint)
    assert proposed(again.remembering(file)) == ["an owl on a red sofa"]
    assert len(endpoint.requests) == 3 and again.failures == asked.failures == {
        "empty answer": 1,
        "not JSON": 1,
    }
    endpoint.replies = [GOOD]
    again.remembering(file).propose("a dog on a red chair", ["object"], random.Random(0))
    assert len(endpoint.requests) == 4
    again.remembering(file).propose("a dog on a red chair", ["object"], random.Random(0))
    assert len(endpoint.requests) == 4


def test_a_missing_package_is_named(endpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match="needs the package openai: pip install openai"):
        planner_at(endpoint)


def test_a_model_that_the_endpoint_does_not_know_is_an_error(endpoint):
    planner = planner_at(endpoint)
    endpoint.replies = [404]
    with pytest.raises(ValueError, match=r"does not know model='talker'.*404 as told"):
        proposed(planner)
