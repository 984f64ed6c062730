"""`negguide audit`: what tells the negatives of a set from its positives, and what is left without these."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negguide.cli.output import check_folder, remark, show, waiting


def audit(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="SET",
            help="A mined set, an imagefolder with metadata.jsonl, SugarCrepe JSON (a file or a folder of "
            "them), or a .jsonl, .csv or .tsv with the columns caption and negative_caption.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; default: SET/audit, or beside a file.")
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
    ] = 2000,
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
    from negguide.mining.shards import FUNNEL

    place = out or (folder / AUDIT if folder.is_dir() else folder.with_name(f"{folder.stem}-audit"))
    check_folder(place)
    with waiting("auditing"):
        found = auditing.audit(
            folder,
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
        kept = (folder if folder.is_dir() and out is None else place) / auditing.REBALANCED
        auditing.write_rebalanced(found.balance, kept, found.settings)
        paths.append(kept)
    if out is None and auditing.is_mined(folder) and (folder / FUNNEL).is_file():
        # a complete set: its card says what was found
        write_card(folder)
    for line in auditing.verdict_lines(found):
        remark(line)
    show(*paths)
