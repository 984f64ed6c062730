"""Options of the command line made from a dataclass: a setting stands once, with its default, help and range."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_type_hints

import typer


def takes_settings(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for every field of a dataclass, and hand it the dataclass in their place.

    A field's name, type and default become those of its option. Its metadata may have `help`, `panel` (the heading it
    is listed under) and `metavar`. A bool is a flag without a value. Options that must be given come first, then those
    without a panel, the dataclass's before the command's own, then all others in the order of the dataclass.

    Args:
        settings: the dataclass; it checks its values itself.

    Returns:
        A decorator for a function whose first argument is the dataclass; its other parameters are options as typer
        knows them.
    """
    hints = get_type_hints(settings)
    options = [_parameter(entry, hints[entry.name]) for entry in fields(settings)]
    names = [option.name for option in options]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        twice = sorted({parameter.name for parameter in own} & set(names))
        if twice:
            raise TypeError(
                f"{function.__name__} has parameters that {settings.__name__} has as well: {twice}"
            )

        def command(**given: Any) -> None:
            values = {name: given.pop(name) for name in names}
            function(settings(**values), **given)

        # what must be given, then what has no heading, then the rest under theirs
        general = {entry.name for entry in fields(settings) if entry.metadata.get("panel") is None}
        keyword = sorted(
            (parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*options, *own)),
            key=lambda parameter: (
                parameter.default is not inspect.Parameter.empty,
                parameter.name in names and parameter.name not in general,
                parameter.name not in names,
            ),
        )
        command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__, command.__qualname__ = function.__module__, function.__qualname__
        return command

    return decorate


def _parameter(entry: Field[Any], hint: Any) -> inspect.Parameter:
    about = entry.metadata
    flag = [f"--{entry.name.replace('_', '-')}"] if hint is bool and entry.default is False else []
    option = typer.Option(
        *flag, help=about.get("help"), metavar=about.get("metavar"), rich_help_panel=about.get("panel")
    )
    return inspect.Parameter(
        entry.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
        annotation=Annotated[hint, option],
    )
