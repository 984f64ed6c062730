"""What a user chooses from, by name: the methods that take negatives in words, and the options of each."""

from __future__ import annotations

import inspect
from typing import Any

from negguide._utils.text import listed
from negguide.methods.base import Method, NegativesMethod, Space
from negguide.methods.registry import registered_methods


def methods_in_words() -> dict[str, type[NegativesMethod]]:
    """{key: method} of all methods that take negatives in words, in the order of the registry."""
    return {method.key: method for method in registered_methods() if issubclass(method, NegativesMethod)}


def names_in(space: Space) -> str:
    """The methods of one space for a message, e.g. "NAG, NASA, ONG and VSF"."""
    return listed(method.__name__ for method in registered_methods(space))


def options_of(method: type[Method]) -> dict[str, Any]:
    """{name: default} of the arguments that a method may be given beside its negatives.

    They are read from its constructor, so a method that another package brings has the options that it says.
    """
    return {
        name: parameter.default
        for name, parameter in inspect.signature(method).parameters.items()
        if name not in ("negatives", "default_values") and parameter.default is not parameter.empty
    }
