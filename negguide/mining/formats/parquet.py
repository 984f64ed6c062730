"""Parquet with the images inside, as ``datasets`` and sentence-transformers read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negguide.mining.formats.folders import Target
from negguide.mining.item import Item

if TYPE_CHECKING:
    from datasets import Features

_ROWS = 100
"""Rows of a row group: what a reader holds in memory at once."""


def write_parquet(items: Iterable[tuple[Item, Path]], target: Target) -> None:
    """All columns of the items, their images first; ``methods`` and ``extra`` differ from item to item: as JSON."""
    datasets = datasets_package()
    text, whole = datasets.Value("string"), datasets.Value("int64")
    features = datasets.Features(
        {name: datasets.Image() for name in ("image", "negative_image", "control_image")}
        | {name: text for name in ("caption", "negative_caption", "category", "id", "source_id")}
        | {"positive_captions": datasets.Sequence(text)}
        | {"start": whole, "end": whole, "before": text, "after": text, "backend": text}
        | {"scores": datasets.Sequence(datasets.Value("float64")), "judge": text}
        | {name: text for name in ("prompt", "model", "revision", "methods")}
        | {"seed": whole, "tries": whole, "licence": text, "extra": text}
    )

    def row(item: Item, place: Path) -> dict[str, Any]:
        values: dict[str, Any] = item.row()
        values |= {name: json.dumps(values[name], ensure_ascii=False) for name in ("methods", "extra")}
        files = item.files(place)
        return {
            name: image_cell(files.get(name)) if name.endswith("image") else values[name] for name in features
        }

    write_rows((row(item, place) for item, place in items), features, target)


def write_tuples(items: Iterable[tuple[Item, Path]], target: Target) -> None:
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


def datasets_package() -> Any:
    """The package ``datasets``."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("parquet needs datasets: pip install datasets") from error
    return datasets


def image_cell(path: Path | None) -> dict[str, Any] | None:
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
