"""ComfyUI's own server on this machine, and graphs sent to it."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
VERSIONS = ("0.30.0", "0.3.75")
STARTS_WITHIN = 300
RUNS_WITHIN = 300
Link = list[Any]


class Graph:
    """Nodes as ComfyUI's API takes them."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def __call__(self, kind: str, /, **inputs: Any) -> Link:
        """Add a node; its first output."""
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": kind, "inputs": inputs}
        return [key, 0]


class GraphError(Exception):
    """What ComfyUI shows of a graph that failed."""


class Server:
    """One process of one version, with our nodes and those of the tests.

    Args:
        folder: what scripts/comfyui_environment.py made.
        version: of ComfyUI.
        base: a new folder for its files.
    """

    def __init__(self, folder: Path, version: str, base: Path, packs: dict[str, Path]) -> None:
        self.version = version
        self.base = base
        for name, source in packs.items():
            shutil.copytree(
                source, base / "custom_nodes" / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = base / "log.txt"
        self._names = itertools.count()
        # nothing of this process's environment may help: the nodes come without negguide
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        python = folder / "venv" / "bin" / "python"
        options = (
            *("--cpu", "--use-pytorch-cross-attention", "--disable-api-nodes", "--disable-auto-launch"),
            *("--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(base)),
            *("--database-url", "sqlite:///:memory:", "--preview-method", "none"),
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "main.py", *options],
                cwd=folder / f"ComfyUI-{version}",
                env={**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        until = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                self.get("/system_stats")
                return self
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > until:
                    text = self.log.read_text()[-3000:]
                    self.__exit__()
                    raise RuntimeError(f"ComfyUI {self.version} did not start:\n{text}") from None
                time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=120) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: Any) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise GraphError(error.read().decode()) from None
        return json.loads(text) if text else None

    def run(self, graph: Graph) -> None:
        """Send a graph and wait for its end.

        Raises:
            GraphError: with the message that ComfyUI shows.
        """
        key = self.post("/prompt", {"prompt": graph.nodes})["prompt_id"]
        until = time.monotonic() + RUNS_WITHIN
        while key not in (history := self.get(f"/history/{key}")):
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"a graph did not end:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)
        status = history[key]["status"]
        if status["status_str"] != "success":
            errors = [data for kind, data in status["messages"] if kind == "execution_error"]
            interrupted = any(kind == "execution_interrupted" for kind, _ in status["messages"])
            texts = [error["exception_message"] for error in errors]
            raise GraphError("; ".join(["interrupted"] * interrupted + texts))

    def latents(self, graph: Graph, *samples: Link) -> list[torch.Tensor]:
        """Run a graph; what comes out at these links."""
        files = [self.base / f"result-{next(self._names)}.safetensors" for _ in samples]
        for link, file in zip(samples, files, strict=True):
            graph("TestSaveTensor", samples=link, file=str(file), run=next(self._names))
        self.run(graph)
        return [load_file(file)["latent"] for file in files]
