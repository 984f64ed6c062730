"""The options of `negguide finetune` are the settings: a default, a help and a range stand once."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from negguide.cli import finetune as command
from negguide.cli.settings_options import takes_settings
from negguide.toyworld import domain
from negguide.toyworld.domain import TOYWORLD
from negguide.vlm.training import config
from negguide.vlm.training.config import Settings, default_lr

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def app_of(function: Any) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(function)
    return app


def test_every_setting_is_an_option_with_the_settings_own_default_and_help() -> None:
    (made,) = typer.main.get_group(_grouped()).commands.values()
    options = {option.name: option for option in made.params}
    for entry in fields(Settings):
        option = options[entry.name]
        assert option.opts == [f"--{entry.name.replace('_', '-')}"]
        assert option.help == entry.metadata["help"]
        if entry.default is MISSING:
            assert option.required
        else:
            assert option.default == entry.default or (entry.default is None and option.default is None)
    assert {"out", "suite", "resume", "push_to_hub"} <= options.keys()


def _grouped() -> typer.Typer:
    app = app_of(command.finetune)
    app.callback()(lambda: None)
    return app


def test_no_default_of_a_setting_stands_twice() -> None:
    """The command has no parameter of a setting's name, and no other place says the same number or word."""
    names = {entry.name for entry in fields(Settings)}
    source = ast.parse(inspect.getsource(sys.modules[command.finetune.__module__]))
    (function,) = [
        node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "finetune"
    ]
    own = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    assert not own & names and own >= {"settings", "out", "suite"}
    # in the settings themselves: each field is assigned once, and the learning rates are those of default_lr
    text, of_world = inspect.getsource(config), inspect.getsource(domain)
    assert of_world.count("1e-4") == text.count("1e-5") == 1
    assert text.count("1e-4") == of_world.count("1e-5") == 0
    lr = next(entry for entry in fields(Settings) if entry.name == "lr")
    assert (
        f"{default_lr(TOYWORLD):g}" in lr.metadata["help"] and f"{default_lr('x'):g}" in lr.metadata["help"]
    )
    for option in ("lr", "warmup", "train_num_samples"):
        assert next(entry for entry in fields(Settings) if entry.name == option).default is None


def test_the_command_hands_over_the_settings_that_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Small:
        data: str = field(metadata={"help": "What."})
        size: int = field(default=3, metadata={"help": "How many.", "panel": "More", "metavar": "N"})
        rate: float | None = field(default=None, metadata={"help": "How fast."})
        lock: bool = field(default=False, metadata={"help": "Hold."})

    @takes_settings(Small)
    def small(settings: Small, out: Annotated[str, typer.Option(help="Where.")] = "x") -> None:
        """Do."""
        seen.append((settings, out))

    app = app_of(small)
    result = CliRunner().invoke(app, ["--data", "d", "--size", "4", "--lock", "--rate", "0.5", "--out", "y"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["--data", "d"]).exit_code == 0
    assert seen == [(Small("d", 4, 0.5, True), "y"), (Small("d"), "x")]
    assert CliRunner().invoke(app, []).exit_code == 2
    monkeypatch.setenv("COLUMNS", "200")
    told = ANSI.sub("", CliRunner().invoke(app, ["--help"]).output)
    assert re.search(r"More ─.*--size\s+N\s+How many\. \[default: 3\]", told, re.DOTALL)
    assert "--no-lock" not in told and told.index("--data") < told.index("--rate") < told.index("--out")

    with pytest.raises(TypeError, match=r"twice has parameters that Small has as well: \['size'\]"):

        @takes_settings(Small)
        def twice(settings: Small, size: int = 1) -> None:
            """Do."""


def test_the_learning_rate_suits_the_model_unless_it_is_given() -> None:
    assert Settings("set").peak_lr == default_lr(TOYWORLD) == Settings("set").to_dict()["lr"]
    assert Settings("set", "openai/clip-vit-base-patch32").peak_lr == default_lr("x") < default_lr(TOYWORLD)
    assert Settings("set", lr=0.5).peak_lr == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group_fraction": 0.0}, "group_fraction=0.0 must be above 0 and at most 1"),
        ({"val_fraction": 1.0}, "val_fraction=1.0 must be at least 0 and below 1"),
        ({"rank_margin": 2.5}, "rank_margin=2.5 must be at least 0 and at most 2"),
        ({"lr": float("nan")}, "lr=nan must be above 0"),
        ({"group_size": 1}, "group_size=1 must be at least 2"),
    ],
)
def test_the_range_of_a_setting_stands_beside_it(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings("set", **given)


def test_help_is_shown_without_the_heavy_packages() -> None:
    code = "import sys, negguide.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_weight": 5.0}, "rank_weight=5.0 has no meaning without rank_margin"),
        ({"false_negative_weight": 0.5}, "has no meaning without false_negative_fraction"),
        ({"mix_hardest": 8}, "mix_hardest=8 has no meaning without mix_pairs or mix_queries"),
        ({"group_size": 6}, "group_size=6 has no meaning without a loss of siblings, such as loss='grouped'"),
        ({"group_fraction": 1.0}, "group_fraction=1.0 has no meaning without a loss of siblings"),
        ({"val_every": 3, "val_fraction": 0.0}, "val_every=3 has no meaning without val_fraction"),
        ({"batch_size": 8.5}, "batch_size=8.5 must be a whole number"),
        ({"epochs": "5"}, "epochs='5' must be a whole number"),
        ({"epochs": True}, "epochs=True must be a whole number"),
        ({"lr": "fast"}, "lr='fast' must be a number or None"),
        ({"dice": 1}, "dice=1 must be True or False"),
        ({"images": 3}, "images=3 must be a text or None"),
    ],
)
def test_a_setting_without_effect_or_of_another_kind_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings("set", **changes)


def test_a_setting_has_its_meaning_with_what_it_says_more_of() -> None:
    Settings("set", rank_margin=1, rank_weight=5)
    Settings("set", false_negative_fraction=0.9, false_negative_weight=0.5)
    Settings("set", mix_queries=4, mix_hardest=8)
    Settings("set", loss="grouped", group_size=6, group_fraction=1)
