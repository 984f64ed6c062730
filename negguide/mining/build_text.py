"""What a set of text alone is made by: the input, its settings and what plans.

No library of models is imported here: rules plan a caption in less time than such an import takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negguide.mining.categories import TEXT_CATEGORIES
from negguide.mining.edits import make_planner
from negguide.mining.edits.planner import Planner
from negguide.mining.run import ShardMiner
from negguide.mining.settings import Settings
from negguide.mining.shards import DATA
from negguide.mining.sources import Input, open_source
from negguide.mining.text_only import TextMiner
from negguide.storage import absolute, location
from negguide.version import __version__


@dataclass(frozen=True)
class Built:
    """The input, the settings and the parts of a set that is to be made."""

    source: Input
    settings: Settings
    miner: ShardMiner
    made_by: dict[str, Any]


def build_text(
    *,
    data: str,
    data_options: Mapping[str, Any],
    backend: str,
    planner_options: Mapping[str, Any],
    out: Path | str,
    device: str,
    categories: tuple[str, ...] | None,
    say: Callable[[str], None] = warnings.warn,
    **options: Any,
) -> Built:
    """Open the input and make what plans, for a set of text alone in ``out``; no image model and no judge is loaded.

    Args:
        categories: None = all of `TEXT_CATEGORIES`.
        options: fields of ``Settings``.

    Raises:
        TypeError, ValueError: an option is wrong, or something cannot be loaded.
        ImportError: a package is missing that an option needs.
    """
    wrong = [name for name in categories or () if name not in TEXT_CATEGORIES]
    if wrong:
        raise ValueError(
            f"--categories {','.join(wrong)} has no meaning with --text-only: what a caption leaves out may still be "
            f"in the image, and nothing looks at it; use some of {', '.join(TEXT_CATEGORIES)}"
        )
    source = open_source(data, **data_options)
    planner = planner_of(source, backend, planner_options, device, say)
    settings = Settings(
        data={"name": source.name, "licence": source.licence, **source.description},
        planner=planner.description,
        model=None,
        judge=None,
        categories=TEXT_CATEGORIES if categories is None else categories,
        **options,
    )
    miner = TextMiner(settings, planner, absolute(location(out, "--out")) / DATA, source.licence)
    return Built(source, settings, miner, {"negguide": __version__})


def planner_of(
    source: Input,
    backend: str,
    options: Mapping[str, Any],
    device: str,
    say: Callable[[str], None],
) -> Planner:
    """What plans edits of the input's captions."""
    if "views" in options and source.world is None:
        raise ValueError(
            f"--views is for captions of the embedded world; those of --data {source.name} are not"
        )
    if "english_model" in options and source.world is not None:
        raise ValueError(
            f"--english-model is for captions of everyday English; those of --data {source.name} have a grammar"
        )
    return make_planner(backend, world=source.world, **_for_planner(backend, options, device, say))


_PLANNER_FLAGS = {
    "model": "--backend-model",
    "base_url": "--endpoint",
    "english_model": "--english-model",
    "views": "--views",
    "max_tokens": "--llm-max-tokens",
    "temperature": "--llm-temperature",
    "timeout": "--llm-timeout",
    "concurrency": "--llm-concurrency",
    "max_failures": "--llm-max-failures",
}
_PLANNERS_WITH = dict.fromkeys(_PLANNER_FLAGS, ("llm",)) | {
    "model": ("fill-mask", "llm"),
    "views": ("rules",),
    "english_model": ("rules", "fill-mask", "llm"),
}
_OF_ENDPOINTS = ("timeout", "concurrency", "max_failures")


def _for_planner(
    backend: str, options: Mapping[str, Any], device: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """The planner's options, checked in the words of the command, and where its model runs or whom it tells."""
    for name, value in options.items():
        if backend not in _PLANNERS_WITH[name]:
            given = _PLANNER_FLAGS[name] if value is True else f"{_PLANNER_FLAGS[name]} {value!r}"
            raise ValueError(
                f"{given} has no meaning for --backend {backend}; it is for "
                f"{' and '.join(_PLANNERS_WITH[name])}"
            )
        if name in _OF_ENDPOINTS and "base_url" not in options:
            raise ValueError(f"{_PLANNER_FLAGS[name]} {value!r} has no meaning without --endpoint")
    if backend not in _PLANNERS_WITH["model"]:
        return dict(options)
    if "model" not in options:
        raise ValueError(
            f"--backend {backend} needs a model: name one with --backend-model (a folder or a hub id; with --endpoint, "
            "what the server calls it)"
        )
    return {**options, "say": say} if "base_url" in options else {**options, "device": device}
