"""The command `negguide`: one file a verb. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from negguide.cli import (
    audit,
    benchmark,
    compare,
    demo,
    evaluate,
    evaluate_editing,
    export,
    finetune,
    generate,
    methods,
    mine,
    models,
    quickstart,
    toyworld,
    views,
)
from negguide.cli.errors import TRACEBACK, CleanErrors
from negguide.cli.options import NegToMeCommand
from negguide.cli.output import show
from negguide.version import __version__

app = typer.Typer(
    name="negguide",
    cls=CleanErrors,
    help="Tell a text-to-image model what to leave out.",
    epilog=f"With {TRACEBACK}=1 in the environment, an error shows where it comes from.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        show(f"negguide {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and stop."),
    ] = False,
) -> None:
    # what all commands share; the text of the help is the app's own
    pass


app.command()(quickstart.quickstart)
app.command(cls=NegToMeCommand)(generate.generate)
app.command(cls=NegToMeCommand)(compare.compare)
app.command()(views.views)
app.command()(demo.demo)
app.command()(mine.mine)
app.command()(audit.audit)
app.command()(export.export)
app.command()(finetune.finetune)
app.command()(evaluate.evaluate)
app.command(name="evaluate-editing")(evaluate_editing.evaluate_editing)
app.command()(benchmark.benchmark)
app.command()(models.models)
app.command()(methods.methods)
app.add_typer(toyworld.app, name="toyworld")


def main() -> None:
    """The entry point of the console script."""
    app()
