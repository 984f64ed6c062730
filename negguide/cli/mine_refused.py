"""Options of `negguide mine` that have no meaning beside others."""

from __future__ import annotations

import typer

from negguide.mining.settings import OF_IMAGES


def refuse_images(context: typer.Context) -> None:
    """Options about images and judges have no meaning for a set of text alone.

    Raises:
        ValueError: one was given.
    """
    for name in OF_IMAGES:
        if _given(context, name):
            value = context.params[name]
            said = "" if isinstance(value, bool) else f" {value}"
            raise ValueError(
                f"--{name.replace('_', '-')}{said} has no meaning with --text-only, which makes and judges no image; "
                "leave it out"
            )


def refuse_unused(context: typer.Context, mode: str, method: str) -> None:
    """Options of another mode or method have no meaning.

    Raises:
        ValueError: one was given.
    """
    for name, option, value, right in (
        ("strength", "mode", mode, ("edit", "inpaint")),
        ("region", "mode", mode, ("inpaint",)),
        ("max_outside_change", "mode", mode, ("inpaint",)),
        ("weight", "method", method, ("perp-neg",)),
    ):
        if value not in right and _given(context, name):
            raise ValueError(
                f"--{name.replace('_', '-')} {context.params[name]} has no meaning with --{option} {value}; it is for "
                f"--{option} {' and '.join(right)}"
            )


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option was given, and is not at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
