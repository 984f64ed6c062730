"""`negguide export`: a set in the form that another program reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negguide.cli.output import check_folder, remark, show, waiting


def export(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A set that `negguide mine` made.")],
    format: Annotated[
        str,
        typer.Option(
            help="imagefolder, webdataset, parquet, sentence-transformers, open-clip, or sugarcrepe."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    rebalanced: Annotated[
        bool,
        typer.Option(
            "--rebalanced", help="Only what `negguide audit --rebalance` kept, in the roles it chose."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Put it in place of a folder that is there already.")
    ] = False,
) -> None:
    """Write SET for datasets, webdataset, sentence-transformers, open_clip or SugarCrepe's evaluation.

    The folder appears when it is complete; an export that was stopped is simply run again.
    """
    check_folder(out)
    try:
        from negguide.mining.formats import write_export

        with waiting("exporting"):
            count = write_export(folder, out, format, rebalanced=rebalanced, overwrite=overwrite)
    except ImportError as error:
        raise ValueError(str(error)) from error
    remark(f"{count} items")
    show(out)
