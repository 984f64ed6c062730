"""Parquet with the images inside, as ``datasets`` and sentence-transformers read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from negguide.mining.formats.folders import Target
from negguide.mining.item import Item
from negguide.mining.item_table import datasets_package, item_cells, item_features
from negguide.storage import ImageFile, Place

if TYPE_CHECKING:
    from datasets import Features

_ROWS = 100
"""Rows of a row group: what a reader holds in memory at once."""


def write_parquet(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """All columns of the items, their images first; ``methods`` and ``extra`` differ from item to item: as JSON."""
    features = item_features()

    def row(item: Item, place: Place) -> dict[str, Any]:
        files = item.files(place)
        return item_cells(item, {role: image_cell(file) for role, file in files.items()}, features)

    write_rows((row(item, place) for item, place in items), features, target)


def write_tuples(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """Columns anchor, positive, negative: sentence-transformers goes by their order, not by their names.

    Raises:
        ValueError: the set holds captions alone.
    """
    datasets = datasets_package()
    text = datasets.Value("string")
    features = datasets.Features({"anchor": datasets.Image(), "positive": text, "negative": text})

    def rows() -> Iterator[dict[str, Any]]:
        for item, place in items:
            files = item.files(place)
            if "image" not in files:
                raise ValueError(
                    f"format='sentence-transformers' needs images, and item {item.id} is a caption alone"
                )
            for role, right, wrong in (
                ("image", item.caption, item.negative_caption),
                ("negative_image", item.negative_caption, item.caption),
            ):
                if role in files:
                    yield {"anchor": image_cell(files[role]), "positive": right, "negative": wrong}

    write_rows(rows(), features, target)


def image_cell(path: ImageFile | None) -> dict[str, Any] | None:
    """As the feature ``Image`` stores it."""
    return None if path is None else {"bytes": path.read_bytes(), "path": path.name}


def write_rows(rows: Iterable[Mapping[str, Any]], features: Features, target: Target) -> None:
    """``data/train-00000.parquet``, ...; the schema tells ``datasets`` which columns are images."""
    import pyarrow
    import pyarrow.parquet

    (target.folder / "data").mkdir()
    schema = features.arrow_schema
    rest = iter(rows)
    number = 0
    while (first := next(rest, None)) is not None:
        path = target.folder / "data" / f"train-{number:05d}.parquet"
        file = chain((first,), islice(rest, target.shard_size - 1))
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while some := list(islice(file, _ROWS)):
                writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
        number += 1
