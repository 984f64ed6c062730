"""Parquet with the images inside, as ``datasets`` and sentence-transformers read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negguide.mining.formats.folders import SHARD, images_of
from negguide.mining.item import Item

if TYPE_CHECKING:
    from datasets import Features

_ROWS = 100
"""Rows of a row group: what a reader holds in memory at once."""


def write_parquet(items: Iterable[tuple[Item, Path]], folder: Path, out: Path) -> None:
    """All columns of the items, their images first; ``methods`` and ``extra`` differ from item to item: as JSON."""
    datasets = _datasets()
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
        files = images_of(item, place)
        return {
            name: _image(files.get(name)) if name.endswith("image") else values[name] for name in features
        }

    _write((row(item, place) for item, place in items), features, folder)


def write_tuples(items: Iterable[tuple[Item, Path]], folder: Path, out: Path) -> None:
    """Columns anchor, positive, negative: sentence-transformers goes by their order, not by their names."""
    datasets = _datasets()
    text = datasets.Value("string")
    features = datasets.Features({"anchor": datasets.Image(), "positive": text, "negative": text})

    def rows() -> Iterator[dict[str, Any]]:
        for item, place in items:
            files = images_of(item, place)
            for role, right, wrong in (
                ("image", item.caption, item.negative_caption),
                ("negative_image", item.negative_caption, item.caption),
            ):
                yield {"anchor": _image(files[role]), "positive": right, "negative": wrong}

    _write(rows(), features, folder)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("parquet needs datasets: pip install datasets") from error
    return datasets


def _image(path: Path | None) -> dict[str, Any] | None:
    """As the feature ``Image`` stores it."""
    return None if path is None else {"bytes": path.read_bytes(), "path": path.name}


def _write(rows: Iterable[Mapping[str, Any]], features: Features, folder: Path) -> None:
    """``data/train-00000.parquet``, ...; the schema tells ``datasets`` which columns are images."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir()
    schema = features.arrow_schema
    rest = iter(rows)
    writer = None
    try:
        for group in range(2**63):
            some = list(islice(rest, _ROWS))
            if not some:
                break
            if group * _ROWS % SHARD == 0:
                if writer is not None:
                    writer.close()
                path = folder / "data" / f"train-{group * _ROWS // SHARD:05d}.parquet"
                writer = pyarrow.parquet.ParquetWriter(path, schema)
            assert writer is not None
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
    finally:
        if writer is not None:
            writer.close()
