"""Plan edits: which words of a caption are changed, and into what, so that it becomes wrong in exactly one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from negguide.domain import find_domain
from negguide.mining.edits.planner import Planner, Rejected, plan, plan_positives

__all__ = ["BACKENDS", "Planner", "Rejected", "make_planner", "plan", "plan_positives"]


def _rules(world: str | None, **options: Any) -> Planner:
    if world is not None:
        return find_domain(world).planner(**options)
    from negguide.mining.edits.english import EnglishRules

    return EnglishRules(**options)


def _fill_mask(world: str | None, **options: Any) -> Planner:
    from negguide.mining.edits.fill_mask import FillMask

    return FillMask(world=world, **options)


def _llm(world: str | None, **options: Any) -> Planner:
    from negguide.mining.edits.llm import LanguageModel

    return LanguageModel(world=world, **options)


BACKENDS: dict[str, Callable[..., Planner]] = {"rules": _rules, "fill-mask": _fill_mask, "llm": _llm}


def make_planner(backend: str, *, world: str | None = None, **options: Any) -> Planner:
    """The planner that ``backend`` names, ready to propose.

    Args:
        backend: "rules" (a grammar; no model), "fill-mask" (a masked language model) or "llm" (a chat model, here or
            behind an endpoint).
        world: the name of the closed world that the captions are of, e.g. "toyworld": edits are made, or checked, by
            its own planner. None = everyday English.
        options: of that backend, see ``EnglishRules``, ``FillMask`` and ``LanguageModel``; the rules of a closed world
            are its planner, and take its arguments.

    Raises:
        TypeError, ValueError: no such backend, or an option that it does not know or cannot use.
        ImportError: a package of the extra "mining" is missing; the message says how to install it.
        ConnectionError: the endpoint of "llm" does not answer.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    try:
        return BACKENDS[backend](world, **options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        wrong = str(error).rpartition("() ")[2]
        raise TypeError(f"backend={backend!r} with world={world!r}: {wrong}") from error
