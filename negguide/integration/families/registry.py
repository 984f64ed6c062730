"""The model families that there are, from inside and from outside; nothing else in this package names a model."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import threading
from collections.abc import Iterator
from typing import Any

import diffusers

from negguide._utils.plugins import load_plugins
from negguide.integration.families.base import Denoiser, Family, Modular

_FAMILIES: dict[str, Family] = {}
_discovering = threading.RLock()


def register_family(family: Family) -> Family:
    """Make a model family known to `from_pipe`, the processors, modular pipelines and the command line.

    An installed package can bring families by the entry point group "negguide": a function without arguments, which
    registers them.

    Args:
        family: with at least one pipeline class, denoiser class or kind of modular pipeline.

    Returns:
        The same family.

    Raises:
        TypeError: it is no `Family`.
        ValueError: another family has its name, one of its pipelines, or its modular pipelines; or it has neither
            pipelines nor a denoiser, in modular diffusers neither.
    """
    if not isinstance(family, Family):
        raise TypeError(f"register_family needs a negguide.Family, got {family!r}")
    if not family.pipelines and family.denoiser is None and not family.modulars:
        raise ValueError(f"family {family.name!r} has neither pipelines nor a denoiser; give it one of them")
    if family.name in _FAMILIES:
        raise ValueError(f"a family {family.name!r} is registered already; give it another name")
    for other in _FAMILIES.values():
        both = set(family.pipelines) & set(other.pipelines)
        if both:
            raise ValueError(
                f"family {family.name!r} has {min(map(_name, both))}, which belongs to {other.name!r} already"
            )
        shared = {row.model_name for row in family.modulars} & {row.model_name for row in other.modulars}
        if shared:
            raise ValueError(
                f"family {family.name!r} has the modular pipelines {min(shared)!r}, which belong to "
                f"{other.name!r} already"
            )
    missing = [path for path in family.text if path not in {**family.embeds, **family.derived}]
    if missing:
        raise ValueError(
            f"family {family.name!r} says of the text input {missing[0]!r} neither embeds nor derived"
        )
    _FAMILIES[family.name] = family
    return family


def registered_families() -> tuple[Family, ...]:
    """All families, those of this package first, in the order of their files."""
    _discover()
    return tuple(_FAMILIES.values())


def supported_pipelines() -> dict[str, Family]:
    """{class name: family} of all pipelines, the classes themselves and not those derived from them."""
    return {_name(pipeline): family for family in registered_families() for pipeline in family.pipelines}


def family_of(pipeline: type) -> Family | None:
    """The family of a pipeline class, or of the class that it is derived from; None when it is not supported.

    A class of diffusers itself must be registered by its own name: it may differ in anything from the one that it is
    derived from.
    """
    families = {pipeline: family for family in registered_families() for pipeline in family.pipelines}
    for kind in pipeline.__mro__:
        own = kind.__module__.partition(".")[0] == "diffusers"
        key: str | type = kind.__name__ if own and getattr(diffusers, kind.__name__, None) is kind else kind
        if key in families:
            return families[key]
        if own:
            return None
    return None


def denoiser_family(model: Any) -> tuple[Family, Denoiser]:
    """The family of a denoiser by itself, by its class or one that it is derived from, and how its calls are read.

    Raises:
        TypeError: there is none, or it takes no attention processors.
    """
    kinds = {kind.__name__ for kind in type(model).__mro__} | set(type(model).__mro__)
    known: list[str] = []
    for family in registered_families():
        denoiser = family.denoiser
        if denoiser is None:
            continue
        if kinds & set(denoiser.classes) and denoiser.matches(model.config):
            return family, denoiser
        known += [_name(kind) for kind in denoiser.classes if _name(kind) not in known]
    raise TypeError(
        f"model must be one of {', '.join(known)} of diffusers, got {type(model).__name__}; other denoisers take "
        "methods through their pipeline, where it is supported: negguide.from_pipe(pipe)(..., negative_guidance=...)"
    )


def modular_families() -> dict[str, tuple[Family, Modular]]:
    """{model name of the blocks: (family, how its modular pipelines carry text)}."""
    return {row.model_name: (family, row) for family in registered_families() for row in family.modulars}


def _name(kind: str | type) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _discover() -> None:
    """Import the families of this package and those that installed packages bring."""
    with _discovering:
        for name in _own_modules():
            importlib.import_module(name)
        load_plugins()


@functools.cache
def _own_modules() -> tuple[str, ...]:
    import negguide.integration.families as package

    def names() -> Iterator[str]:
        for module in pkgutil.iter_modules(package.__path__):
            yield f"{package.__name__}.{module.name}"

    return tuple(names())
