"""The ways in which something can be left out in words, by the names that the page and the API have for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from negguide import NAG, ONG, VSF, Negative, PerpNeg
from negguide.demo.backend import Run
from negguide.methods import NegativesMethod

METHODS = {
    "plain": "Plain",
    "negative-prompt": "Negative prompt",
    "perp-neg": "Perp-Neg",
    "nag": "NAG",
    "ong": "ONG",
    "vsf": "VSF",
}
"""Each way and its label."""
_CLASSES: dict[str, Any] = {"perp-neg": PerpNeg, "nag": NAG, "ong": ONG, "vsf": VSF}


def with_method(
    plain: Run, method: str, negatives: Sequence[Negative], scale: float | None, toy: bool
) -> Run:
    """The plain run with the negatives taken by `method`, a key of `METHODS`.

    Args:
        scale: strength of NAG, ONG or VSF; None = the method's own.
        toy: whether the embedded model reads the words.

    Raises:
        ValueError: for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "plain" or not negatives:
        return plain
    if method == "negative-prompt":
        # the embedded model's grammar has "and" between fragments
        return replace(plain, negative_prompt=(" and " if toy else ", ").join(n.prompt for n in negatives))
    # Perp-Neg has the weights alone
    options = {} if scale is None or method == "perp-neg" else {"scale": scale}
    return replace(plain, methods=(_CLASSES[method](*negatives, **options),))


def left_out(run: Run) -> tuple[str, ...]:
    """What the run leaves out, in words."""
    if run.negative_prompt:
        return (run.negative_prompt,)
    return tuple(n.prompt for m in run.methods if isinstance(m, NegativesMethod) for n in m.negatives)
