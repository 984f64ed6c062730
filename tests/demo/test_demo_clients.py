"""Clients that go, clients that ask for much, and what is refused before anything is drawn."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from PIL import Image

from negguide import Negative, NegToMe, PerpNeg
from negguide.demo import Limits, clients
from negguide.demo.backend import Run
from negguide.demo.clients import Clients
from negguide.demo.outputs import Outputs
from negguide.demo.server import Server
from negguide.demo.state import AppState

LONG: dict[str, Any] = {"images": 2, "steps": 4, "method": "plain"}


@pytest.fixture
def held(server: Server, backend: Any, gate: threading.Event) -> Iterator[threading.Event]:
    """Steps wait until it is set; what other tests have begun is over before."""
    _until(lambda: _idle(server))
    gate.clear()
    backend.prompts.clear()
    yield gate
    gate.set()


def _until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.02)


def _idle(server: Server) -> bool:
    return not any(server.page._queue.active_jobs) and not len(server.page._queue)


def _join(server: Server, session: str, prompt: str) -> httpx.Response:
    """Ask for a long run as a page does, and listen to nothing yet."""
    (fn,) = (fn for fn in server.page.fns.values() if fn.api_name == "leave_out")
    asked = {"prompt": prompt, **LONG}
    data = [asked.get(one["parameter_name"], one.get("parameter_default")) for one in _parameters(server.url)]
    body = {"data": data, "fn_index": fn._id, "session_hash": session}
    return httpx.post(f"{server.url}gradio_api/queue/join", json=body, timeout=60)


@cache
def _parameters(url: str) -> list[dict[str, Any]]:
    info = httpx.get(f"{url}gradio_api/info", timeout=60).json()["named_endpoints"]
    found: list[dict[str, Any]] = info["/leave_out"]["parameters"]
    return found


def test_what_a_client_that_has_gone_was_waiting_for_ends_at_the_next_step(
    server: Server, backend: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a slow machine the stream is opened late
    monkeypatch.setattr(clients, "GRACE", 300.0)
    with httpx.Client() as gone:
        assert _join(server, "gone", "a bear wearing a hat").status_code == 200
        assert _join(server, "gone", "a cat wearing a hat").status_code == 200
        address = f"{server.url}gradio_api/queue/data?session_hash=gone"
        with gone.stream("GET", address, timeout=60) as stream:
            # kept, for the stream is closed together with it
            lines = stream.iter_lines()
            next(lines)
            _until(lambda: len(backend.prompts) == 1)
            assert len(server.page._queue) == 1
    # what was waiting leaves the queue, and what was running is not gone on with
    _until(lambda: len(server.page._queue) == 0)
    held.set()
    _until(lambda: _idle(server))
    assert backend.prompts == ["a bear wearing a hat"]


def test_what_nobody_has_listened_to_is_not_drawn(
    server: Server, backend: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "GRACE", 300.0)
    assert _join(server, "never", "a bear wearing a hat").status_code == 200
    assert _join(server, "never", "a cat wearing a hat").status_code == 200
    _until(lambda: len(backend.prompts) == 1)
    monkeypatch.setattr(clients, "GRACE", 0.0)
    held.set()
    _until(lambda: _idle(server))
    assert backend.prompts == ["a bear wearing a hat"]


def test_a_client_that_listens_late_but_in_time_gets_its_results(server: Server) -> None:
    asked = httpx.post(f"{server.url}gradio_api/call/draw_scene", json={"data": [3]}, timeout=60).json()[
        "event_id"
    ]
    told = httpx.get(f"{server.url}gradio_api/call/draw_scene/{asked}", timeout=60).text
    assert "event: complete" in told and "scene.png" in told


def test_whoever_starts_over_leaves_the_queue_and_gets_what_was_asked_for_last(
    server: Server, backend: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "GRACE", 300.0)
    monkeypatch.setattr(server.clients, "most", 2)

    def clicked(name: str) -> Any:
        (button,) = (one for one in server.page.blocks.values() if one.elem_id == name)
        return next(fn for fn in server.page.fns.values() if (button._id, "click") in fn.targets)

    start, stop = clicked("negatives-draw"), clicked("negatives-stop")

    def ask(fn: Any, session: str) -> list[Any]:
        body = {"data": [], "fn_index": fn._id, "session_hash": session}
        found: list[Any] = httpx.post(f"{server.url}gradio_api/run/predict", json=body, timeout=60).json()[
            "data"
        ]
        return found

    assert _join(server, "other", "a bear").status_code == 200
    _until(lambda: len(backend.prompts) == 1)
    # of one visitor no more than one waits, however often the button is pressed
    for prompt in ("a cat", "a dog", "a rabbit", "a robot"):
        ask(start, "hasty")
        assert _join(server, "hasty", prompt).status_code == 200
        assert len(server.page._queue) == 1
    held.set()
    _until(lambda: _idle(server))
    assert set(backend.prompts) == {"a bear", "a robot"}
    held.clear()
    assert _join(server, "other", "a bear").status_code == 200
    _until(lambda: backend.prompts[-1] == "a bear")
    ask(start, "hasty")
    assert _join(server, "hasty", "a cat").status_code == 200
    ask(stop, "hasty")
    assert len(server.page._queue) == 0
    held.set()
    _until(lambda: _idle(server))
    assert "a cat" not in backend.prompts


def test_who_waits_for_much_is_asked_to_wait(
    server: Server, backend: Any, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "GRACE", 300.0)
    monkeypatch.setattr(server.clients, "most", 2)
    assert _join(server, "session-0", "a bear").status_code == 200
    _until(lambda: len(backend.prompts) == 1)
    # of one address, whatever session it says
    assert [_join(server, f"session-{number}", "a bear").status_code for number in (1, 2, 3)] == [
        200,
        200,
        429,
    ]
    answer = _join(server, "session-4", "a bear")
    assert answer.json()["detail"].startswith("You are waiting for 2 results already")
    # nobody has ever listened
    monkeypatch.setattr(clients, "GRACE", 0.0)
    held.set()
    _until(lambda: _idle(server))
    assert backend.prompts == ["a bear"]


def test_places_in_the_queue_are_counted_by_address_also_on_their_way_into_it() -> None:
    who = Clients(most=2)

    def event(host: str) -> SimpleNamespace:
        return SimpleNamespace(request=SimpleNamespace(client=SimpleNamespace(host=host)))

    queue = SimpleNamespace(queue=[event("one"), event("two")])
    who.page = SimpleNamespace(_queue=SimpleNamespace(event_queue_per_concurrency_id={"device": queue}))
    with who.asking("one") as first:
        assert first
        with who.asking("one") as second, who.asking("two") as other:
            assert not second and other
    with who.asking("one") as again:
        assert again


def test_whoever_has_no_session_stops_nobody(backend: Any) -> None:
    # the first examples are drawn for nobody
    state = AppState(backend, Limits(), Outputs(60), Clients(1))
    with state.stops.running(None) as stopped:
        state.stop(None)
        assert not stopped.is_set()
    state.outputs.close()


def test_what_is_drawn_for_nobody_waits_for_those_who_asked() -> None:
    class Queue(list[Any]):
        active_jobs: list[Any] = [None]  # noqa: RUF012 (of this test alone)

    who, queue, stop = Clients(1), Queue(), threading.Event()
    # nobody can have asked before there is a page
    who.let_go_first(stop)
    who.page = SimpleNamespace(_queue=queue)
    who.let_go_first(stop)
    queue.active_jobs, ended = [None, ["a job"]], threading.Event()
    waiting = threading.Thread(target=lambda: (who.let_go_first(stop), ended.set()), daemon=True)
    waiting.start()
    assert not ended.wait(0.3)
    queue.append("waits")
    queue.active_jobs = [None]
    assert not ended.wait(0.3)
    queue.clear()
    assert ended.wait(60)
    queue.append("waits")
    stop.set()
    who.let_go_first(stop)


def test_a_run_says_how_often_it_evaluates_the_model() -> None:
    assert Run("a bear", 10, 5.0, (0, 1, 2)).evaluations == 3 * 10 * 2
    assert Run("a bear", 10, 1.0, (0, 1, 2)).evaluations == 3 * 10
    both = PerpNeg(Negative("a hat"), Negative("brown fur"))
    assert Run("a bear", 10, 5.0, (0,), methods=(both,)).evaluations == 10 * 4
    reference = NegToMe(Image.new("RGB", (8, 8)))
    assert Run("a bear", 10, 5.0, (0,), methods=(reference,)).evaluations == 10 * 3


def test_a_budget_of_evaluations_is_held(backend: Any) -> None:
    state = AppState(backend, Limits(max_evaluations=100), Outputs(60), Clients(1))
    run = Run("a bear", 4, 5.0, (0, 1, 2, 3))
    said = r"would take 128 evaluations of the model .*; 100 are made in one go"
    backend.prompts.clear()
    with (
        pytest.raises(gr.Error, match=said),
        state.drawing(SimpleNamespace(session_hash=None), print, [run] * 4),
    ):
        pass
    with state.drawing(SimpleNamespace(session_hash=None), lambda *_, **__: None, [run] * 3) as draw:
        assert len(draw(run, "").images) == 4
    state.outputs.close()
