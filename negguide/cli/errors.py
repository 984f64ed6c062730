"""What the user sees when something is wrong: one message, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

TRACEBACK = "NEGGUIDE_TRACEBACK"
"""Set this environment variable to see where an error came from."""


class WrongInput(typer.BadParameter):
    """One message in a frame, and exit code 2."""

    def format_message(self) -> str:
        """The message as it is, where click would put words around it."""
        return self.message


class CleanErrors(TyperGroup):
    """Turns wrong input (ValueError, TypeError, OSError) into one message and exit code 2, and Ctrl-C into 130.

    The package raises ValueError and TypeError for wrong input, with the argument, its value and what would be right.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Take `--out=~/x` as `--out ~/x`: shells know a home folder only at the beginning of a word."""
        return super().parse_args(ctx, [_at_home(arg) for arg in args])

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; what is wrong with its input ends it with one message in place of a traceback."""
        # Threads that wait give their core away: on a busy machine, waiting in a loop is slower by an order.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # what these packages print while they are imported
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except (ValueError, TypeError, OSError) as error:
            if TRACEBACK in os.environ or isinstance(error, BrokenPipeError):
                raise
            raise WrongInput(str(error)) from error


def _at_home(arg: str) -> str:
    option, equals, value = arg.partition("=")
    if not (option.startswith("--") and (value == "~" or value.startswith("~/"))):
        return arg
    return f"{option}{equals}{Path(value).expanduser()}"


def quiet_libraries() -> None:
    """Keep the notes of other packages off the terminal; their errors still arrive as exceptions."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
