"""`negguide methods`: what negatives can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from negguide.cli.output import console, waiting

if TYPE_CHECKING:
    from negguide.methods import Method

_NOT_SHOWN = ("start", "stop", "mask", "reference_mask")


def methods() -> None:
    """Show the methods, where each acts and what it does, with what it has unless told.

    Methods that installed packages bring are there too. Methods of different spaces act together; of one space, one.
    """
    with waiting("asking for methods"):
        from negguide.methods import NegativesMethod, NegToMe, registered_methods

        found = registered_methods()
    table = Table(title="Methods of negative guidance", title_justify="left", title_style="bold")
    for heading in ("option", "method", "space", "what it does", "unless told", "source"):
        table.add_column(heading, overflow="fold")
    for method in found:
        if issubclass(method, NegativesMethod):
            option = f"--method {method.key}"
        else:
            option = f"--{NegToMe.key}" if method is NegToMe else "from Python"
        summary = method.summary + ("; needs guidance" if method.needs_guidance else "")
        table.add_row(option, method.label, method.space, summary, _unless_told(method), method.source)
    console().print(table)


def _unless_told(method: type[Method]) -> str:
    """The method's defaults, but for what the model family says and for what is off."""
    from negguide.methods import NegativesMethod
    from negguide.methods.choices import options_of

    said = [
        f"{name} {default:g}" if isinstance(default, float) else f"{name} {default}"
        for name, default in options_of(method).items()
        if name not in _NOT_SHOWN and default is not None and default is not False
    ]
    if issubclass(method, NegativesMethod):
        said.append(f"window 0-{method.default_stop:g}")
    return ", ".join(said)
