"""Sets that several tests read, each written once; the two commands in this process."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from planted import soft, write_set
from typer.testing import CliRunner

from negguide.cli.audit import audit
from negguide.cli.errors import CleanErrors
from negguide.cli.export import export


@pytest.fixture(scope="session")
def rendered_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Negatives and controls are softer than the originals, as the renders of one model."""
    folder = tmp_path_factory.mktemp("sets") / "rendered"
    return write_set(folder, 60, negative=soft, control=soft, controls=True)


@dataclass(frozen=True)
class Ended:
    exit_code: int
    stdout: str
    message: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "1000")
    app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    app.command()(audit)
    app.command()(export)

    def invoke(*args: object) -> Ended:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, re.sub(r"[│╭╮╰╯─\s]+", " ", result.output))

    return invoke
