"""Write a set in the form that another program reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from negguide.mining.audit.roles import read_rebalanced
from negguide.mining.formats import folders, lists, parquet, tar
from negguide.mining.formats.card import Summary, card
from negguide.mining.item import Item
from negguide.mining.shards import read_set

Writer = Callable[[Iterable[tuple[Item, Path]], Path, Path], None]

FORMATS: Mapping[str, Writer] = {
    "imagefolder": folders.write_imagefolder,
    "webdataset": tar.write_webdataset,
    "parquet": parquet.write_parquet,
    "sentence-transformers": parquet.write_tuples,
    "open-clip": lists.write_open_clip,
    "sugarcrepe": lists.write_sugarcrepe,
}
"""What writes items (with the folders of their images) into a folder, which will be at the second path when whole."""


def write_export(
    folder: Path | str, out: Path | str, format: str, *, rebalanced: bool = False, overwrite: bool = False
) -> int:
    """Write the set in ``folder`` into the new folder ``out``; gives the number of items.

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
    - ``sugarcrepe``: for each category a JSON ``{"0": {filename, caption, negative_caption}}``; file names are
      relative to ``images``.

    Images keep their bytes and suffix in all of them.

    Args:
        folder: a set that negguide mined.
        out: made, with its parents.
        format: one of ``FORMATS``.
        rebalanced: only the items that `negguide audit --rebalance` kept, in their roles.
        overwrite: put the export in place of the folder ``out``, once it is complete.

    Raises:
        ValueError: an argument is wrong, or there is no set, or no item in it.
        ImportError: a format needs a package that is not installed.
        OSError: an image is missing, or the disk is full.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not known; use one of {', '.join(FORMATS)}")
    folder, out = Path(folder), Path(out).absolute()
    if out == folder.absolute() or out in folder.absolute().parents:
        raise ValueError(f"out={str(out)!r} holds the set itself; give another folder")
    summary = Summary()
    items = read_rebalanced(folder) if rebalanced else read_set(folder)
    with folders.whole_folder(out, overwrite) as partial:
        FORMATS[format](summary.counting(items), partial, out)
        if not summary.items:
            raise ValueError(f"{folder} holds no item" + (" that rebalancing kept" if rebalanced else ""))
        text = card(summary, folder.absolute().name, format, rebalanced)
        (partial / "README.md").write_text(text, encoding="utf-8")
    return summary.items
