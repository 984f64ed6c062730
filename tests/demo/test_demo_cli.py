"""`negguide demo`, and the folder that is a Hugging Face Space."""

import os
import re
import signal
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio
import httpx
import pytest
import typer
from packaging.requirements import Requirement
from typer.testing import CliRunner

from negguide.cli import demo
from negguide.cli.errors import CleanErrors

SPACE = Path(__file__).parents[2] / "demo"


@pytest.fixture
def app() -> typer.Typer:
    """The command in a group, as the console script has it."""
    group = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
    group.command()(demo.demo)
    group.command("other")(lambda: None)
    return group


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-steps", "0"], "max_steps must be at least 1, got 0"),
        (["--max-images", "1"], "max_images must be at least 2, got 1"),
        (["--port", "70000"], "--port must be from 1 to 65535, got 70000"),
        (
            ["--auth-env", "NOT_THERE"],
            "--auth-env NOT_THERE: that environment variable must hold user:password",
        ),
        (["--auth-env", "LOGIN", "--mcp"], "--mcp and --auth-env exclude each other"),
        (["--model", "no such model"], "no such folder, and no hub id"),
        (["--device", "abacus"], "--device must be auto or one of"),
    ],
)
def test_wrong_options_are_answered_in_one_message(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("LOGIN", "me:secret")
    monkeypatch.setenv("COLUMNS", "1000")
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in re.sub(r"[│╭╮╰╯─\s]+", " ", result.output)
    assert "secret" not in result.output


def test_passwords_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN", "me:se:cret, you:other")
    assert demo.parse_auth("LOGIN") == [("me", "se:cret"), ("you", "other")]
    monkeypatch.setenv("LOGIN", "me")
    with pytest.raises(ValueError, match="must hold user:password") as caught:
        demo.parse_auth("LOGIN")
    assert "me," not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mcp" else object())
    demo._check_packages(mcp=False)
    with pytest.raises(
        ValueError, match=r"needs the package mcp, which is not installed; .* the extra demo-mcp"
    ):
        demo._check_packages(mcp=True)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_the_embedded_model_until_it_is_ended(
    tmp_path: Path, sent: signal.Signals
) -> None:
    # apart from what the other extras bring
    blocked = (
        "import sys\nfor name in ('datasets', 'webdataset', 'sklearn', 'inflect', 'lemminflect', 'mcp'):\n"
    )
    script = (
        f"{blocked}    sys.modules[name] = None\n"
        "import typer\nfrom negguide.cli import demo\nfrom negguide.cli.errors import CleanErrors\n"
        "app = typer.Typer(cls=CleanErrors)\napp.command()(demo.demo)\napp.command('other')(lambda: None)\n"
        "app(['demo', '--max-steps', '2', '--max-images', '2'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        # a shell starts what runs in its background with Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        page = httpx.get(url)
        assert page.status_code == 200 and "negguide" in page.text
        config = httpx.get(f"{url}config").json()
        # the style sheet came with the package
        assert ".seeds" in config["css"]
        assert len(list(tmp_path.glob("negguide-demo-*"))) == 1
    finally:
        process.send_signal(sent)
        assert process.wait(timeout=60) in (0, 130)
    assert not list(tmp_path.glob("negguide-demo-*"))


def test_the_folder_is_a_space() -> None:
    _, head, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert fields["sdk"] == "gradio" and fields["app_file"] == "app.py"
    assert fields["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    assert len(fields["short_description"]) <= 60
    # the package is on no index: its bare name would install whatever somebody publishes under it
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert ".[demo]" in lines and not [line for line in lines if line.startswith("negguide")]
    assert {path.name for path in SPACE.iterdir()} - {"__pycache__"} == {
        "README.md",
        "app.py",
        "requirements.txt",
    }


def test_a_space_is_made_with_an_address_that_is_given(tmp_path: Path) -> None:
    script = SPACE.parent / "scripts" / "make_space.py"
    address = "git+https://example.org/owner/negguide@v1"

    def made(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), str(tmp_path / "space"), *arguments], capture_output=True, text=True
        )

    assert "got 'negguide'" in made("--package", "negguide").stderr
    assert not (tmp_path / "space").exists()
    assert made("--package", address).returncode == 0
    lines = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    (own,) = (Requirement(line) for line in lines if not line.startswith("--"))
    assert (own.name, own.extras, own.url) == ("negguide", {"demo"}, address)
    assert "is there already" in made("--package", address).stderr


@pytest.mark.parametrize("on_spaces", [True, False])
def test_only_a_space_listens_to_everybody(monkeypatch: pytest.MonkeyPatch, on_spaces: bool) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    if on_spaces:
        monkeypatch.setenv("SPACE_ID", "owner/name")
    app = _app()
    asked: dict[str, Any] = {}
    monkeypatch.setattr(app, "Backend", lambda model: model)

    def serve(backend: str, limits: Any, **arguments: Any) -> Any:
        asked.update(arguments, backend=backend)
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(app, "serve", serve)
    app.main()  # type: ignore[attr-defined]
    assert asked["backend"] == "toyworld"
    assert asked["host"] == ("0.0.0.0" if on_spaces else "127.0.0.1")


def _app() -> ModuleType:
    spec = spec_from_file_location("space_app", SPACE / "app.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
