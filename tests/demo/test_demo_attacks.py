"""What others may try against a demo on the open web; each try is refused, in at most one line of the log."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from negguide.demo.server import Server

SCRIPT = "<script>fetch('/steal')</script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8">{SCRIPT}</svg>'
TIMEOUT = 60


@pytest.fixture
def inner() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that no visitor can reach, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()


def _answer(server: Server, action: str, **values: Any) -> str:
    """What a visitor without our client gets for an action."""
    info = httpx.get(f"{server.url}gradio_api/info", timeout=TIMEOUT).json()["named_endpoints"]
    parameters = info[f"/{action}"]["parameters"]
    data = [values.get(one["parameter_name"], one.get("parameter_default")) for one in parameters]
    base = f"{server.url}gradio_api/call/{action}"
    joined = httpx.post(base, json={"data": data}, timeout=TIMEOUT)
    if joined.status_code != 200:
        return joined.text
    return httpx.get(f"{base}/{joined.json()['event_id']}", timeout=TIMEOUT).text


def _file(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def _upload(server: Server, name: str, content: str, mime: str) -> str:
    files = {"files": (name, content.encode(), mime)}
    answer = httpx.post(f"{server.url}gradio_api/upload", files=files, timeout=TIMEOUT)
    assert answer.status_code == 200
    (path,) = answer.json()
    return str(path)


def _lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in "".join(capfd.readouterr()).splitlines() if line.strip()]


@pytest.mark.parametrize("path", ["/etc/hostname", "../../../../etc/hostname", "file:///etc/hostname"])
def test_a_file_of_this_machine_cannot_be_named_as_a_picture(
    server: Server, capfd: pytest.CaptureFixture[str], path: str
) -> None:
    capfd.readouterr()
    for action, values in (
        ("hard_negatives", {"image": _file(path)}),
        ("keep_away", {"character": "upload", "picture": {"background": _file(path), "layers": []}}),
    ):
        answer = _answer(server, action, steps=1, **values)
        assert "event: error" in answer and "complete" not in answer
        assert len(_lines(capfd)) <= 1


def test_an_inner_address_is_not_asked(
    server: Server, inner: tuple[str, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    address, asked = inner
    capfd.readouterr()
    for file in (
        _file(f"{address}/picture.png"),
        _file("x.png", url=f"{address}/picture.png"),
        _file(f"{address.replace('127.0.0.1', 'localhost')}/picture.png"),
        _file("http://169.254.169.254/latest/meta-data"),
    ):
        answer = _answer(server, "hard_negatives", image=file, steps=1)
        assert "event: error" in answer and "secret" not in answer
        assert len(_lines(capfd)) <= 1
    assert asked == []


@pytest.mark.parametrize(
    ("name", "content", "mime"),
    [
        ("page.html", SCRIPT, "text/html"),
        ("picture.svg", SVG, "image/svg+xml"),
        ("picture.png", SCRIPT, "image/png"),
        ("picture.xhtml", SVG, "application/xhtml+xml"),
    ],
)
def test_what_was_uploaded_is_never_shown_as_a_page(
    server: Server, capfd: pytest.CaptureFixture[str], name: str, content: str, mime: str
) -> None:
    path = _upload(server, name, content, mime)
    served = httpx.get(f"{server.url}gradio_api/file={path}", timeout=TIMEOUT)
    kind = served.headers.get("content-type", "")
    download = served.headers.get("content-disposition", "").startswith("attachment")
    assert download or kind == "image/png", (kind, served.headers)
    capfd.readouterr()
    answer = _answer(server, "hard_negatives", image=_file(path), steps=1)
    assert "no picture that can be read" in answer
    assert len(_lines(capfd)) <= 1


@pytest.mark.parametrize(
    ("action", "values", "said"),
    [
        ("leave_out", {"images": "two"}, "Images: 'two' cannot be read here."),
        ("leave_out", {"images": None}, "Images: None cannot be read here."),
        ("leave_out", {"weight_2": 1e9}, "Weight (2): Value 1000000000.0 is greater than maximum value 5."),
        ("leave_out", {"seed": -1}, "Seed: Value -1 is less than minimum value 0."),
        (
            "leave_out",
            {"method": ["nag"]},
            "How it is left out: Value: ['nag'] (type: ‹class 'list'›) is not in",
        ),
        ("hard_negatives", {"categories": [["swap"]]}, "What may be edited: Value: ['swap']"),
        ("turn_around", {"rounds": 0}, "Rounds: Value 0 is less than minimum value 1."),
        # what is repeated is cut
        (
            "compare",
            {"columns": "models", "models": ["toyworld"] * 100_000},
            "models must be 1 to 3 different",
        ),
        ("compare", {"columns": "weights", "weights": "1," * 100_000}, "weights is 200000 characters long"),
        ("hard_negatives", {"categories": ["swap"] * 100_000}, "says one twice"),
    ],
)
def test_what_cannot_be_taken_is_named_in_a_short_answer_and_one_line_of_the_log(
    server: Server, capfd: pytest.CaptureFixture[str], action: str, values: dict[str, Any], said: str
) -> None:
    capfd.readouterr()
    answer = _answer(server, action, **values)
    told = json.loads(answer.partition("data: ")[2].splitlines()[0])
    assert "event: error" in answer and told["title"] == "Please change this"
    assert said in told["error"] or said in answer
    assert len(told["error"]) < 600
    assert len(_lines(capfd)) <= 1


def test_nobody_can_list_what_others_made(server: Server) -> None:
    before = set(server.outputs.folder.glob("call-*"))
    _answer(server, "draw_scene", seed=5)
    (made,) = set(server.outputs.folder.glob("call-*")) - before
    for path in (server.outputs.folder, made):
        for address in (f"{path}", f"{path}/", f"{path}/*", f"{path}/."):
            answer = httpx.get(f"{server.url}gradio_api/file={address}", timeout=TIMEOUT)
            assert answer.status_code in (403, 404), address
    # nothing of it in what is public
    public = json.dumps(httpx.get(f"{server.url}config", timeout=TIMEOUT).json())
    assert made.name not in public


def test_a_set_of_somebody_else_cannot_be_guessed_and_its_id_is_no_path(server: Server) -> None:
    inside = Path(server.outputs.folder)
    for name in (
        "..",
        ".",
        "call-../call-x",
        f"{inside}",
        "call-" + "x" * 5000,
        "call-a/../../etc",
        "call-%2e%2e",
    ):
        answer = _answer(server, "download_set", set_id=name, keep=["1"])
        assert "not there any more" in answer, name
