"""`negguide finetune` alone, for this process and for others."""

import sys

import torch
import typer

from negguide.cli.errors import CleanErrors
from negguide.cli.finetune import finetune

app = typer.Typer(cls=CleanErrors, pretty_exceptions_enable=False)
app.command()(finetune)


@app.callback()
def group() -> None:
    """A group of one command, as `negguide` is one of many."""


if __name__ == "__main__":
    torch.set_num_threads(1)
    app(sys.argv[1:])
