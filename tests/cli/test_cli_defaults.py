"""A default of the command line stands once: what a dataclass or `negguide.cli.options` has is taken from there."""

import ast
import importlib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import negguide.cli

FOLDER = Path(negguide.cli.__file__).parent

MADE_OF = {
    "benchmark": ["negguide.benchmark.generation.Sampling", "negguide.benchmark.runner.Run"],
    "compare": ["negguide.cli.job.Job"],
    "demo": ["negguide.demo.limits.Limits"],
    "finetune": ["negguide.vlm.training.config.Settings"],
    "generate": ["negguide.cli.job.Job"],
    "mine": ["negguide.mining.settings.Settings", "negguide.mining.on_ray.RayOptions"],
    "views": ["negguide.cli.job.Job"],
}
"""The dataclasses that a command hands its options to."""


def written(command: str) -> dict[str, object]:
    """The options of a command whose default is written where the command is; nothing (None, "") is none."""
    (function,) = (
        node
        for node in ast.parse((FOLDER / f"{command}.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == command
    )
    arguments = function.args.args
    return {
        argument.arg: default.value
        for argument, default in zip(
            arguments[len(arguments) - len(function.args.defaults) :], function.args.defaults, strict=True
        )
        if isinstance(default, ast.Constant) and default.value not in (None, "")
    }


def defaults(place: str) -> dict[str, object]:
    module, _, name = place.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return {entry.name: entry.default for entry in fields(kind) if entry.default is not MISSING}


@pytest.mark.parametrize("command", MADE_OF)
def test_what_a_dataclass_says_is_not_said_again(command: str) -> None:
    of_dataclasses = [(name, value) for place in MADE_OF[command] for name, value in defaults(place).items()]
    assert of_dataclasses
    twice = [(name, value) for name, value in written(command).items() if (name, value) in of_dataclasses]
    assert twice == []


def test_options_that_commands_share_have_one_default() -> None:
    for file in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.args[len(node.args.args) - len(node.args.defaults) :]
                for argument, default in zip(arguments, node.args.defaults, strict=True):
                    shared = argument.annotation and ast.unparse(argument.annotation).startswith("options.")
                    own = (
                        isinstance(default, ast.Constant)
                        and default.value is not None
                        and default.value is not False
                    )
                    assert not (shared and own), f"{file.name}: {argument.arg}"
