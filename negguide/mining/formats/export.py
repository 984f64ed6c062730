"""Write a set in the form that another program reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from negguide._utils.files import whole_folder
from negguide.mining.audit.roles import read_rebalanced
from negguide.mining.formats import editing, folders, lists, parquet, tar
from negguide.mining.formats.card import Summary, card
from negguide.mining.item import Item
from negguide.mining.shards import OWN, is_half_made, read_set
from negguide.storage import Place, absolute, location, on_this_machine

Writer = Callable[[Iterable[tuple[Item, Place]], folders.Target], None]

FORMATS: Mapping[str, Writer] = {
    "imagefolder": folders.write_imagefolder,
    "webdataset": tar.write_webdataset,
    "parquet": parquet.write_parquet,
    "sentence-transformers": parquet.write_tuples,
    "open-clip": lists.write_open_clip,
    "sugarcrepe": lists.write_sugarcrepe,
    "instructpix2pix": editing.write_editing_parquet,
    "instructpix2pix-folder": editing.write_editing_folder,
}
"""What writes items, with the folders of their images."""
SHARDED = ("imagefolder", "webdataset", "parquet", "sentence-transformers", "instructpix2pix")
"""The formats that have several files, of ``shard_size`` items each."""


def write_export(
    folder: Path | str,
    out: Path | str,
    format: str,
    *,
    rebalanced: bool = False,
    report: Path | str | None = None,
    overwrite: bool = False,
    shard_size: int | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> int:
    """Write the set in ``folder`` into the new folder ``out``; gives the number of items in it.

    ``out`` is there as a whole or not at all; an export that was killed is simply run again.

    - ``imagefolder``: shards with ``metadata.jsonl``; ``image``, ``negative_image`` and ``control_image`` are images.
    - ``webdataset``: tar shards; of one key: ``png``, ``negative.png``, ``txt``, ``negative.txt``, ``json``;
      no controls.
    - ``parquet``: all columns, images inside; ``methods`` and ``extra`` as JSON.
    - ``sentence-transformers``: columns anchor (an image), positive and negative (captions), in this order. Each item
      gives two rows: its image with its caption against the negative one, and its negative image the other way round;
      so each caption is a positive as often as a negative.
    - ``open-clip``: ``pairs.tsv`` with ``filepath`` (absolute) and ``title``; two rows an item: image and caption,
      negative image and negative caption.
    - ``sugarcrepe``: its seven files ``{"0": {filename, caption, negative_caption}}``, see `write_sugarcrepe`; file
      names are relative to ``images``.
    - ``instructpix2pix``, ``instructpix2pix-folder``: editing triplets, as parquet files or as a folder with
      ``metadata.jsonl``; see `negguide.mining.formats.editing`.

    Of a set of text alone there are no negative images, and one row an item. Images keep their bytes and suffix in all
    of them. An image of several items is stored once in a folder of images (once a shard in an imagefolder); a row of a
    tar or parquet file holds its own, as these formats have it.

    Args:
        folder: a set that negguide mined.
        out: made, with its parents.
        format: one of ``FORMATS``.
        rebalanced: only the items that `negguide audit --rebalance` kept, in their roles.
        report: with ``rebalanced``, the folder into which the audit wrote its choice; None = into the set.
        overwrite: put the export in place of the folder ``out``, once it is complete.
        shard_size: items a shard or file (rows, of the tables), of the formats in ``SHARDED``; None = 1000.
        say: is told what a reader of the export must know.

    Raises:
        ValueError: an argument is wrong, or there is no set, or no item in it that the format can hold.
        ImportError: a format needs a package that is not installed.
        OSError: an image is missing, or the disk is full.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not known; use one of {', '.join(FORMATS)}")
    if shard_size is not None and format not in SHARDED:
        raise ValueError(
            f"shard_size={shard_size} has no meaning for format={format!r}; it is for {', '.join(SHARDED)}"
        )
    if shard_size is not None and shard_size < 1:
        raise ValueError(f"shard_size={shard_size} must be a whole number >= 1")
    if report is not None and not rebalanced:
        raise ValueError(f"report={str(report)!r} has no meaning without rebalanced=True")
    folder, out = absolute(location(folder)), location(out, "--out")
    if not on_this_machine(out):
        raise ValueError(f"out={str(out)!r} is no folder of this machine; export there, and copy it")
    out = out.absolute()
    if on_this_machine(folder):
        # wherever links and ".." lead
        own, there = folder.resolve(), out.resolve()
        if there == own or there in own.parents:
            raise ValueError(f"out={str(out)!r} holds the set itself; give another folder")
        if own in there.parents and there.relative_to(own).parts[0] in OWN:
            raise ValueError(f"out={str(out)!r} is a part of the set itself; give another folder")
    if is_half_made(folder):
        say(f"{folder} is not complete: what `negguide mine` has made of it so far is exported")
    summary = Summary()
    items = read_rebalanced(folder, report) if rebalanced else read_set(folder)
    folders.check_out(out, overwrite)
    with whole_folder(out) as partial:
        target = folders.Target(partial, out, shard_size or folders.SHARD, say, summary.leave_out)
        FORMATS[format](summary.counting(items), target)
        if not summary.items:
            wanted = [" that rebalancing kept"] if rebalanced else []
            wanted += [f" that format={format!r} has a place for"] if summary.seen else []
            raise ValueError(f"{folder} holds no item" + " and".join(wanted))
        text = card(summary, folder.name, format, rebalanced)
        (partial / "README.md").write_text(text, encoding="utf-8")
    return summary.items
