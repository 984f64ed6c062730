"""The settings of a run as Python code that runs as it is pasted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import negguide
from negguide.demo.backend import Backend, Run
from negguide.methods import Method, Negative, NegativesMethod, TokenMethod
from negguide.methods.choices import options_of

_OURS = re.compile(r"from negguide[. ]")


def code(
    backend: Backend, runs: Sequence[tuple[str, Run]], *, imports: Sequence[str] = (), reference: str = ""
) -> str:
    """A script that draws `runs` and writes their images into the current folder.

    Args:
        backend: the model.
        runs: (name, run); the name begins the names of the files.
        imports: lines of imports that `reference` needs.
        reference: lines that define `reference`, and `reference_mask` where a method has one.
    """
    kinds: set[type] = {type(method) for _, run in runs for method in run.methods}
    kinds |= {Negative for kind in kinds if issubclass(kind, NegativesMethod)}
    names = [kind.__name__ for kind in kinds if getattr(negguide, kind.__name__, None) is kind]
    # in the order that linters want: constants (NAG), then classes
    in_order = sorted(names, key=lambda name: (not name.isupper(), name))
    ours = [f"from negguide import {', '.join(in_order)}"] if names else []
    # of another package, or not among the names of this one
    beside = [
        f"from {kind.__module__} import {kind.__name__}" for kind in kinds if kind.__name__ not in names
    ]
    imports = [*imports, *sorted(beside)]
    ours += ["from negguide.models import load_pipeline"]
    third_party = ["import torch", *(line for line in imports if not _OURS.match(line))]
    ours += [line for line in imports if _OURS.match(line)]
    blocks = ["\n".join(third_party), "\n".join(ours)]
    blocks += [reference] if reference else []
    loaded = None
    for name, run in runs:
        own = backend.of(run)
        if own is not loaded:
            blocks.append(_loading(own))
            loaded = own
        blocks.append(_call(own, name, run))
    return "\n\n".join(blocks) + "\n"


def _loading(backend: Backend) -> str:
    arguments = [repr(backend.model)]
    arguments += [f"device={backend.device!r}"] if backend.device != "cpu" else []
    arguments += [f"dtype={backend.pipe.dtype}"] if str(backend.pipe.dtype) != "torch.float32" else []
    return f"pipe = load_pipeline({', '.join(arguments)})"


def _call(backend: Backend, name: str, run: Run) -> str:
    seeds = f"range({run.seeds[0]}, {run.seeds[-1] + 1})"
    arguments = [repr(run.prompt)]
    arguments += [f"{key}={value!r}" for key, value in backend.arguments(run).items()]
    arguments.append(f'generator=[torch.Generator("cpu").manual_seed(seed) for seed in {seeds}]')
    if run.methods:
        arguments.append(f"negative_guidance=[{', '.join(_method(method) for method in run.methods)}]")
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return (
        f"images = pipe(\n{lines}).images\n"
        f"for seed, image in zip({seeds}, images):\n"
        f'    image.save(f"{name}-seed{{seed}}.png")'
    )


def _method(method: Method) -> str:
    said = {name: repr(getattr(method, name)) for name in options_of(type(method))}
    parts = []
    if isinstance(method, TokenMethod):
        # images have no form as code: the lines before the call define them
        if method.images:
            said["reference"] = "reference"
        if method.reference_masks:
            said["reference_mask"] = "reference_mask"
    if isinstance(method, NegativesMethod):
        for negative in method.negatives:
            window = {name: repr(getattr(negative, name)) for name in ("weight", "start", "stop")}
            parts.append(
                f"Negative({', '.join([repr(negative.prompt), *_differing(type(negative), window)])})"
            )
    return f"{type(method).__name__}({', '.join([*parts, *_differing(type(method), said)])})"


def _differing(cls: Any, said: dict[str, str]) -> list[str]:
    """The arguments whose code is not that of their default."""
    parameters = inspect.signature(cls.__init__).parameters
    return [f"{name}={value}" for name, value in said.items() if value != repr(parameters[name].default)]
