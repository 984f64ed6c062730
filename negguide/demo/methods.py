"""The ways in which something can be left out in words, by the names that the page and the API have for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from negguide import Negative
from negguide.demo.backend import Run
from negguide.domain import Defaults, negative_prompt_of
from negguide.methods import Method
from negguide.methods.choices import methods_in_words, options_of
from negguide.models import defaults

PLAIN, CLASSIC = "plain", "negative-prompt"
"""The ways without a method."""


def paper(kind: type[Method], name: str | None = None) -> str:
    """Where a method was published, as a link of Markdown that says `name`, where that is on arXiv."""
    number = kind.source.removeprefix("arXiv ")
    if number == kind.source:
        return kind.source if name is None else f"{name} ({kind.source})"
    return f"[{name or kind.source}](https://arxiv.org/abs/{number})"


def method_labels() -> dict[str, str]:
    """{way: label} of all ways: without a method, and by each that is registered."""
    in_words = {key: method.label for key, method in methods_in_words().items()}
    return {PLAIN: "Plain", CLASSIC: "Negative prompt", **in_words}


def scales(suited: Defaults) -> dict[str, float]:
    """{label: strength unless told} of the methods that have a `scale`, for a model with these defaults."""
    found = {
        kind.label: {**options_of(kind), **suited.arguments(key)}.get("scale")
        for key, kind in methods_in_words().items()
    }
    return {label: scale for label, scale in found.items() if scale is not None}


def with_method(
    plain: Run, method: str, negatives: Sequence[Negative], scale: float | None, model: str
) -> Run:
    """The plain run with the negatives taken by `method`, a key of `method_labels`.

    Args:
        scale: strength, of the methods that have one; None = what suits the model.
        model: which reads the words.

    Raises:
        ValueError: for an unknown method, and for negatives that make no negative prompt of a closed world together.
    """
    labels = method_labels()
    if method not in labels:
        raise ValueError(f"method must be one of {', '.join(labels)}, got {method!r}")
    if method == PLAIN or not negatives:
        return plain
    if method == CLASSIC:
        return replace(plain, negative_prompt=negative_prompt_of(model, [n.prompt for n in negatives]))
    kind = methods_in_words()[method]
    options = dict(defaults(model).arguments(method))
    if scale is not None and "scale" in options_of(kind):
        options["scale"] = scale
    return replace(plain, methods=(kind(*negatives, **options),))
