"""A default of the command line stands once: what a dataclass, a function or `options` has is taken from there."""

import ast
import importlib
import inspect
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

import negguide.cli

FOLDER = Path(negguide.cli.__file__).parent

MADE_OF = {
    "benchmark": ["negguide.benchmark.generation.Sampling", "negguide.benchmark.runner.Run"],
    "compare": ["negguide.cli.job.Job"],
    "demo": ["negguide.demo.limits.Limits"],
    "evaluate": ["negguide.vlm.evaluation.evaluate.evaluate"],
    "evaluate_editing": [
        "negguide.benchmark.editing.evaluate_editing",
        "negguide.benchmark.generation.Sampling",
    ],
    "finetune": ["negguide.vlm.training.config.Settings"],
    "generate": ["negguide.cli.job.Job"],
    "mine": ["negguide.mining.settings.Settings", "negguide.mining.on_ray.RayOptions"],
    "toyworld_train.evaluate": ["negguide.toyworld.drawing.drawing_bars", "negguide.toyworld.measure.draw"],
    "toyworld_train.train": ["negguide.toyworld.train.settings.Settings"],
    "views": ["negguide.cli.job.Job"],
}
"""The dataclasses and functions that a command hands its options to; a command has a file of its own, or is named in
one."""


def written(command: str) -> dict[str, object]:
    """The options of a command whose default is written where the command is; nothing (None, "") is none."""
    file, _, name = command.rpartition(".")
    (function,) = (
        node
        for node in ast.parse((FOLDER / f"{file or name}.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == name
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
    taker = getattr(importlib.import_module(module), name)
    if is_dataclass(taker):
        return {entry.name: entry.default for entry in fields(taker) if entry.default is not MISSING}
    parameters = inspect.signature(taker).parameters.items()
    return {name: entry.default for name, entry in parameters if entry.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("command", MADE_OF)
def test_what_its_taker_says_is_not_said_again(command: str) -> None:
    of_takers = [(name, value) for place in MADE_OF[command] for name, value in defaults(place).items()]
    assert of_takers
    twice = [(name, value) for name, value in written(command).items() if (name, value) in of_takers]
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
