"""`negguide audit`: what tells the negatives of a set from its positives, and what is left without these."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negguide.cli.output import check_folder, remark, show, waiting
from negguide.mining.settings import IMAGE_SAMPLE
from negguide.storage import location


def audit(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="A mined set, an imagefolder with metadata.jsonl, SugarCrepe JSON (a file or a folder of "
            "them), or a .jsonl, .csv or .tsv with the columns caption and negative_caption; a path, or an address "
            "such as s3://bucket/set.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the report; default: SET/audit, or beside a file. For a set that cannot be "
            "written.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the images of a JSON, CSV or TSV are.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET",
            help="Look for near-duplicates in this evaluation set too: a folder of images, a set, "
            "FILE.json=IMAGES, or a .txt of captions. May be given several times.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help='Count the tokens of this one: "toyworld", a folder, or a hub id.')
    ] = None,
    language_model: Annotated[
        str | None, typer.Option(help="Try the plausibility by this causal language model: folder or hub id.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help='Try the features of this vision model: "toyworld", a folder, or a hub id.'),
    ] = None,
    image_sample: Annotated[
        int, typer.Option(help="At most so many pairs are used for the image-only probes.")
    ] = IMAGE_SAMPLE,
    rebalance: Annotated[
        bool,
        typer.Option(
            "--rebalance", help="Choose the items of which no probe tells the negatives: rebalanced.json."
        ),
    ] = False,
    rendered: Annotated[
        bool,
        typer.Option(
            "--rendered",
            help="With --rebalance: rendered originals stand in for the originals; items without one are dropped.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="A torch device, for the models.")] = "cpu",
) -> None:
    """Say how well captions alone, and images alone, tell the negatives of SET; chance is 50%.

    Also finds near-duplicates. Writes report.md, audit.png and audit.json, and a summary into the card of a mined
    set. No item is ever deleted.
    """
    try:
        from negguide.mining import audit as auditing
    except ImportError as error:
        raise ValueError(str(error)) from error
    from negguide.mining.card import AUDIT, write_card
    from negguide.mining.shards import FUNNEL, is_set

    read = location(folder)
    if out is not None:
        place = location(out, "--out")
        check_folder(place)
    else:
        place = read / AUDIT if read.is_dir() else read.with_name(f"{read.stem}-audit")
        _check_beside(place, folder)
    with waiting("auditing"):
        found = auditing.audit(
            read,
            images=images,
            against=against or (),
            tokenizer=tokenizer,
            language_model=language_model,
            features=features,
            image_sample=image_sample,
            balance=rebalance,
            rendered=rendered,
            device=device,
        )
    paths = auditing.write_report(found, place)
    if found.balance is not None:
        # beside the set, where the readers of the set look for it
        kept = (read if read.is_dir() and out is None else place) / auditing.REBALANCED
        auditing.write_rebalanced(found.balance, kept, found.settings)
        paths.append(kept)
    if out is None and is_set(read) and (read / FUNNEL).is_file():
        # a complete set: its card says what was found
        write_card(read)
    for line in auditing.verdict_lines(found):
        remark(line)
    show(*paths)


def _check_beside(place: Path, folder: str) -> None:
    """Where no --out is given, the report lies in the set, which may be on a disk that takes no files."""
    try:
        check_folder(place)
    except ValueError as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(
            f"the report goes into {place}, and no file can be written there ({reason}); name a folder for it with "
            f"--out: negguide audit {folder} --out REPORT"
        ) from error
