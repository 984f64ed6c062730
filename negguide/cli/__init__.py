"""The command `negguide`: one file a verb. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import typer

from negguide.cli import (
    audit,
    compare,
    demo,
    evaluate,
    export,
    finetune,
    generate,
    methods,
    mine,
    models,
    quickstart,
    toyworld,
)
from negguide.cli.errors import TRACEBACK, CleanErrors
from negguide.cli.options import NegToMeCommand

app = typer.Typer(
    name="negguide",
    cls=CleanErrors,
    help="Tell a text-to-image model what to leave out.",
    epilog=f"With {TRACEBACK}=1 in the environment, an error shows where it comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(quickstart.quickstart)
app.command(cls=NegToMeCommand)(generate.generate)
app.command(cls=NegToMeCommand)(compare.compare)
app.command()(demo.demo)
app.command()(mine.mine)
app.command()(audit.audit)
app.command()(export.export)
app.command()(finetune.finetune)
app.command()(evaluate.evaluate)
app.command()(models.models)
app.command()(methods.methods)
app.add_typer(toyworld.app, name="toyworld")


def main() -> None:
    """The entry point of the console script."""
    app()
