"""`negguide export`: a set in the form that another program reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negguide.cli.output import check_folder, remark, show, waiting


def export(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="A set that `negguide mine` made; a path, or an address such as s3://bucket/set.",
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="imagefolder, webdataset, parquet, sentence-transformers, open-clip, sugarcrepe; or editing triplets, "
            "as instructpix2pix (parquet) or instructpix2pix-folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new folder, on this machine.")],
    rebalanced: Annotated[
        bool,
        typer.Option(
            "--rebalanced", help="Only what `negguide audit --rebalance` kept, in the roles it chose."
        ),
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="With --rebalanced: the report of `negguide audit --rebalance --out FOLDER`; by default in the set.",
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Items a tar, parquet file or folder, where there are several (1000).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Put it in place of a folder that is there already.")
    ] = False,
) -> None:
    """Write SET for datasets, webdataset, sentence-transformers, open_clip, SugarCrepe or InstructPix2Pix.

    The folder appears when it is complete; an export that was stopped is simply run again.
    """
    check_folder(out)
    try:
        from negguide.mining.formats import write_export

        with waiting("exporting"):
            remarks: list[str] = []
            count = write_export(
                folder,
                out,
                format,
                rebalanced=rebalanced,
                report=report,
                overwrite=overwrite,
                shard_size=shard_size,
                say=remarks.append,
            )
    except ImportError as error:
        raise ValueError(str(error)) from error
    remark(f"{count} items")
    for text in remarks:
        remark(text)
    show(out)
