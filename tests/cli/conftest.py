"""The command line in this process, with the tiny model where the embedded one is expected."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import TINY, build
from typer.testing import CliRunner

from negguide import from_pipe
from negguide.cli import app

_tiny = {tiny.name: tiny for tiny in TINY}
_SAID = {
    "guidance_scale",
    "true_cfg_scale",
    "negative_prompt",
    "output_type",
    "image",
    "mask_image",
    "control_image",
}
"""What the command line says, of the arguments of a tiny pipeline's call."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `message` is all its output on one line, without frames."""

    exit_code: int
    stdout: str
    message: str

    @property
    def files(self) -> list[Path]:
        """The files that it named."""
        return [Path(line) for line in self.stdout.splitlines()]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`run("generate", "a bear", ...)` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks inside of messages

    def invoke(*args: object) -> Outcome:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output))

    return invoke


@pytest.fixture
def tiny_toyworld(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--model toyworld` loads the tiny random model."""
    from diffusers import StableDiffusionPipeline

    import negguide.toyworld.models as models

    def load(name: str, dtype: torch.dtype = torch.float32, kind: Any = None) -> Any:
        return (kind or StableDiffusionPipeline).from_pretrained(tiny_model, dtype=dtype)

    monkeypatch.setattr(models, "load_pipeline", load)
    monkeypatch.setattr(models, "folder_of", lambda name: tiny_model)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture that is no plain colour."""
    path = tmp_path / "My Photo.png"
    Image.linear_gradient("L").convert("RGB").resize((40, 40)).save(path)
    return path


@pytest.fixture
def left_half(tmp_path: Path) -> Path:
    """A square mask, white on the left."""
    path = tmp_path / "left.png"
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    mask.save(path)
    return path


class Calls(list[dict[str, Any]]):
    """The arguments of each call of `pipe`, without those that only make it tiny."""

    pipe: Any


@pytest.fixture
def calls(request: Any, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """`--model owner/name` is a tiny pipeline."""
    tiny = _tiny[request.param]
    pipe = from_pipe(build(tiny))
    beside = {name: value for name, value in tiny.call().items() if name not in _SAID}
    found = Calls()
    found.pipe = pipe

    class Small(type(pipe)):  # type: ignore[misc]
        @functools.wraps(type(pipe).__call__)
        def __call__(self, *args: Any, **arguments: Any) -> Any:
            found.append(arguments)
            return super().__call__(*args, **{**beside, **arguments})

    Small.__name__ = type(pipe).__name__
    pipe.__class__ = Small
    monkeypatch.setattr("negguide.cli.draw.load_pipeline", lambda *_args, **_kwargs: pipe)
    return found
