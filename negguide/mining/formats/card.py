"""The README.md of an export: how it was made, and how it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from negguide.mining.item import Item
from negguide.storage import Place
from negguide.version import __version__

_DATA_FILES = {
    "imagefolder": "data/**",
    "webdataset": "*.tar",
    "parquet": "data/*.parquet",
    "sentence-transformers": "data/*.parquet",
    "instructpix2pix": "data/*.parquet",
}
_READ = {
    "imagefolder": 'datasets.load_dataset("imagefolder", data_dir="THIS FOLDER/data", split="train")',
    "webdataset": 'webdataset.WebDataset("THIS FOLDER/00000.tar").decode("pil")',
    "parquet": 'datasets.load_dataset("THIS FOLDER", split="train")',
    "sentence-transformers": 'datasets.load_dataset("THIS FOLDER", split="train")  # anchor, positive, negative',
    "open-clip": "python -m open_clip_train.main --dataset-type csv --train-data THIS_FOLDER/pairs.tsv ...",
    "sugarcrepe": "python main_eval.py --data_root THIS_FOLDER --coco_image_root THIS_FOLDER/images ...\n"
    "negguide evaluate --suite sugarcrepe:THIS_FOLDER ...",
    "instructpix2pix": 'datasets.load_dataset("THIS FOLDER", split="train")',
    "instructpix2pix-folder": 'datasets.load_dataset("imagefolder", data_dir="THIS FOLDER", split="train")',
}


@dataclass
class Summary:
    """What a card says about items; counted while they pass."""

    items: int = 0
    what: str = "pairs of an image and a caption with a hard negative of each"
    seen: dict[str, Counter[str]] = field(default_factory=dict)

    def counting(self, items: Iterable[tuple[Item, Place]]) -> Iterator[tuple[Item, Place]]:
        """The items as they are, each counted as it goes by."""
        for item, place in items:
            if item.negative_image_file_name is None:
                self.what = "captions with a hard negative caption of each"
            self._count(item, 1)
            yield item, place

    def leave_out(self, item: Item) -> None:
        """Take an item out of the counts: it went by, and the format has no place for it."""
        self._count(item, -1)

    def _count(self, item: Item, times: int) -> None:
        self.items += times
        for name, value in (
            ("category", item.category),
            ("model", item.model and f"{item.model} (revision {item.revision or 'unknown'})"),
            ("judge", item.judge),
            ("licence of the inputs", item.licence or "unknown"),
            ("roles", "exchanged" if item.extra.get("exchanged") else "as mined"),
        ):
            if value is not None:
                self.seen.setdefault(name, Counter())[value] += times


def card(summary: Summary, name: str, format: str, rebalanced: bool) -> str:
    """Markdown with a YAML head that tells ``datasets`` and the hub which files hold the data."""
    head = []
    if format in _DATA_FILES:
        files = ["configs:", "- config_name: default", "  data_files:", "  - split: train"]
        head = ["---", *files, f'    path: "{_DATA_FILES[format]}"', "---", ""]
    lines = [
        f"# {name}, as {format}",
        "",
        f"{summary.items} {summary.what}"
        + (", rebalanced" if rebalanced else "")
        + f". Exported by negguide {__version__}.",
        "",
        "```",
        _READ[format],
        "```",
        "",
        "| | | items |",
        "| --- | --- | ---: |",
    ]
    for what, counts in summary.seen.items():
        lines += [f"| {what} | {value} | {count} |" for value, count in sorted(counts.items()) if count]
    return "\n".join([*head, *lines, ""])
