"""A set whose edits a server plans: when the server fails, no answer is lost, and no failure is taken for one."""

import json
import random
import re
from dataclasses import replace

import mining_fakes as fakes
import pytest
import typer
from llm_server import Reply
from typer.testing import CliRunner

from negguide.cli.errors import CleanErrors
from negguide.cli.mine import mine
from negguide.mining.categories import CATEGORIES
from negguide.mining.edits import make_planner
from negguide.mining.run import run
from negguide.mining.shards import SetFolder, read_settings
from negguide.mining.sources import open_source
from negguide.toyworld.edits import ToyworldRules

SHARD = 5
app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
app.command()(mine)
app.callback()(lambda: None)


def by_the_rules(body):
    """What a model answers that knows the rules of the toy world; its first answer to some captions is none."""
    caption = body["messages"][1]["content"].partition("\n")[0].removeprefix("Caption: ")
    if len(caption) % 5 == 0 and len(body["messages"]) == 2:
        return "I would rather not."
    edits = ToyworldRules().propose(caption, CATEGORIES, random.Random(0))
    said = [
        {"category": e.category, "before": caption, "after": e.caption, "draw": e.draw, "avoid": e.avoid}
        for e in edits
    ]
    return Reply(json.dumps({"edits": said[:4]}))


def planner_at(endpoint, **options):
    options = {"pause": 0.01, "timeout": 5.0, "max_failures": 2, "say": lambda text: None} | options
    return make_planner("llm", base_url=endpoint.url, model="talker", world="toyworld", **options)


def mine_at(endpoint, out, **options):
    planner = planner_at(endpoint, **options)
    chosen = fakes.settings(planner=planner.description, shard_size=SHARD)
    miner = replace(fakes.miner(chosen, fakes.Artist()), planner=planner)
    return run(out, chosen, open_source("toyworld:20"), miner, made_by={"negguide": "test"})


@pytest.fixture
def whole(endpoint, tmp_path):
    """A set made in one go by a server that never fails, and how often that was asked."""
    endpoint.answer = by_the_rules
    folder = tmp_path / "whole"
    outcome = mine_at(endpoint, folder)
    assert outcome.missing == 0 and outcome.funnel.total("written") > 10
    assert outcome.funnel.failures["not JSON"] > 0
    asked = [body for _, body in endpoint.requests]
    endpoint.requests.clear()
    return folder, asked


@pytest.mark.parametrize(
    ("trouble", "error", "concurrency"),
    [
        (400, ValueError, 3),
        (402, ValueError, 1),
        (429, ConnectionError, 1),
        (500, ConnectionError, 3),
        (Reply("{}", after=0.6), ConnectionError, 1),
        (Reply("{}" * 99, cut=True), ConnectionError, 3),
        (Reply(body={"error": "overloaded"}), ConnectionError, 1),
    ],
)
def test_a_run_that_a_failing_server_broke_off_goes_on_where_it_was(
    endpoint, whole, tmp_path, trouble, error, concurrency
):
    folder, asked = whole
    out = tmp_path / "broken"
    good = len(asked) // 2 + 1
    endpoint.answer = lambda body: by_the_rules(body) if len(endpoint.requests) <= good else trouble
    with pytest.raises(error):
        mine_at(endpoint, out, timeout=0.4, concurrency=concurrency)
    complete = sorted((out / "markers").iterdir())
    assert 0 < len(complete) < 4
    answered = endpoint.requests[:good]
    endpoint.requests.clear()
    endpoint.answer = by_the_rules
    outcome = mine_at(endpoint, out, concurrency=concurrency)
    assert outcome.made == 4 - len(complete)
    assert fakes.files_of(out) == fakes.files_of(folder)
    # each question is answered once, in the one run or in the other
    questions = [json.dumps(body["messages"]) for _, body in [*answered, *endpoint.requests]]
    assert sorted(questions) == sorted(json.dumps(body["messages"]) for body in asked)
    endpoint.requests.clear()
    assert mine_at(endpoint, out).made == 0 and not endpoint.requests


def test_troubles_that_pass_leave_no_trace_in_a_set_and_several_requests_at_once_no_other(
    endpoint, whole, tmp_path
):
    folder, asked = whole
    count = iter(range(10**6))
    endpoint.answer = lambda body: by_the_rules(body) if next(count) % 3 else 503
    mine_at(endpoint, tmp_path / "stormy", concurrency=4, max_failures=9)
    assert fakes.files_of(tmp_path / "stormy") == fakes.files_of(folder)
    assert len(endpoint.requests) > len(asked)


def test_a_set_goes_on_at_another_address_but_not_with_another_model(endpoint, whole, tmp_path):
    folder, _ = whole
    moved = planner_at(endpoint)
    moved._chat.base_url = "http://elsewhere/v1"
    began = read_settings(folder)
    SetFolder(folder, replace(began, planner=moved.description), {})
    moved._chat.model = "mute"
    with pytest.raises(ValueError, match=r"made with other settings \(planner"):
        SetFolder(folder, replace(began, planner=moved.description), {})


@pytest.fixture
def command(tmp_path, tiny_model, monkeypatch, endpoint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    common = ("mine", "--out", "set", "--model", tiny_model, "--steps", 2, "--device", "cpu", "--retries", 0)
    common += ("--data", "toyworld:4", "--shard-size", 2, "--positives", 0, "--controls", 0)
    common += ("--backend", "llm", "--backend-model", "talker", "--endpoint", endpoint.url)

    def invoke(*args):
        result = CliRunner().invoke(app, [str(arg) for arg in (*common, *args)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output)

    return invoke


def test_the_command_ends_with_the_servers_words_and_goes_on_later(command, endpoint, tmp_path):
    def until_the_credits_are_gone(body):
        if "response_format" in body:
            return 400
        return by_the_rules(body) if len(endpoint.requests) < 4 else 402

    endpoint.answer = until_the_credits_are_gone
    options = ("--llm-max-tokens", 900, "--llm-temperature", 0.5, "--llm-timeout", 9, "--llm-max-failures", 1)
    code, output = command(*options)
    assert code == 2 and "HTTP 402: 402 as told" in output and "the same command goes on" in output
    assert "does not take a JSON schema (response_format): 400 as told" in output
    assert not (tmp_path / "set" / "funnel.json").exists()
    body = endpoint.requests[1][1]
    assert (body["max_tokens"], body["temperature"]) == (900, 0.5)
    planner = read_settings(tmp_path / "set").planner
    assert planner["max_tokens"] == 900 and endpoint.url not in json.dumps(planner)
    endpoint.answer = lambda body: 500
    code, output = command(*options)
    assert code == 2 and "HTTP 500: 500 as told (1 failures in a row)" in output
    endpoint.answer = by_the_rules
    code, output = command(*options, "--llm-concurrency", 2)
    # of a random model nothing may be kept, which the exit status tells
    assert code == (1 if "set holds no pair" in output else 0), output
    funnel = json.loads((tmp_path / "set" / "funnel.json").read_text())
    assert funnel["sources"] == {"planned": 4, "read": 4}
