"""One demo for all tests, around a tiny random model that reads the words of the toy world."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the demo needs Gradio: pip install ".[demo]"')

from negguide.cli.errors import quiet_libraries
from negguide.demo import Limits, serve
from negguide.demo.backend import Backend, Drawn, Run
from negguide.demo.server import Server
from negguide.models import load_pipeline
from negguide.toyworld import parse, render


class Gated(Backend):
    """A backend whose steps can be held up, and which notes whose step each was."""

    def __init__(self, pipe: Any) -> None:
        super().__init__("toyworld", pipe=pipe)
        self.gate = threading.Event()
        self.gate.set()
        self.prompts: list[str] = []

    def draw(self, run: Run, on_step: Callable[[], None], stop: threading.Event) -> Drawn:
        def step() -> None:
            on_step()
            self.prompts.append(run.prompt)
            while not self.gate.wait(0.02) and not stop.is_set():
                pass

        return super().draw(run, step, stop)


@pytest.fixture(scope="session")
def backend(tiny_model: Path) -> Gated:
    quiet_libraries()
    return Gated(load_pipeline(str(tiny_model)))


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits(max_steps=4, max_images=4, max_queue=3, max_waiting=5, max_upload_mb=1)


@pytest.fixture(scope="session")
def server(backend: Gated, limits: Limits) -> Iterator[Server]:
    pytest.importorskip("mcp", reason='MCP needs its package: pip install ".[demo-mcp]"')
    served = serve(backend, limits, mcp=True, warm_up=False, quiet=True)
    yield served
    served.close()


@pytest.fixture
def gate(backend: Gated) -> Iterator[threading.Event]:
    """Cleared, every step waits; open again after the test."""
    yield backend.gate
    backend.gate.set()


@pytest.fixture(scope="session")
def client(server: Server) -> Any:
    """A visitor."""
    from gradio_client import Client

    return Client(server.url, verbose=False)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where a Chromium is."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium is installed (apt-get install chromium)")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    render(parse("a white cat in front view wearing a red hat in the snow")).save(path)
    return path


@pytest.fixture
def editor(picture: Path, tmp_path: Path) -> dict[str, Any]:
    """The picture with its upper part painted over, as the image editor sends it."""
    from gradio_client import handle_file

    layer = Image.new("RGBA", (64, 64))
    layer.paste((255, 0, 0, 255), (8, 0, 56, 24))
    layer.save(tmp_path / "layer.png")
    return {
        "background": handle_file(str(picture)),
        "layers": [handle_file(str(tmp_path / "layer.png"))],
        "composite": None,
    }
