"""A shard as one object: a tar that holds an imagefolder, or a parquet file with the images inside.

Either is written from a `Mined` and read back item by item; images stay packed until they are asked for.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from negguide.image_files import png_of
from negguide.mining.item import Item
from negguide.mining.item_table import IMAGES, item_cells, item_features, item_of
from negguide.mining.mined import Mined
from negguide.mining.packed import RowPlace, TarPlace, pack
from negguide.storage import Place, read_range

METADATA = "metadata.jsonl"
_GROUP = 32
"""Rows of a row group of a parquet shard: what is read for one image."""

Members = dict[str, tuple[int, int]]


def encode(mined: Mined, format: str) -> tuple[bytes, Members]:
    """The content of a shard's object, and where the members of a tar are in it; the same for the same items."""
    images = {name: png_of(image) for name, image in mined.images.items()} | mined.files
    if format == "parquet":
        return _parquet(mined.items, images), {}
    rows = "".join(json.dumps(item.row(), ensure_ascii=False) + "\n" for item in mined.items)
    return pack([(METADATA, rows.encode()), *sorted(images.items())])


def read_shard(file: Path, members: Mapping[str, Sequence[int]]) -> Iterator[tuple[Item, Place]]:
    """The items of a shard's object, with the place of their files.

    Args:
        file: a .tar or .parquet file that ``encode`` made.
        members: of a tar, as ``encode`` gave them.

    Raises:
        ValueError: a row is not that of an item.
        OSError: it cannot be read.
    """
    if file.suffix == ".parquet":
        yield from _parquet_rows(file)
        return
    place = TarPlace(file, {name: (offset, size) for name, (offset, size) in members.items()})
    offset, size = place.members[METADATA]
    # only a line break ends a row: captions may hold U+2028
    for number, line in enumerate(read_range(file, offset, size).decode().split("\n")[:-1], 1):
        yield item_in(line, f"{file}: {METADATA}, line {number}"), place


def item_in(line: str, where: str) -> Item:
    """The item of a line of JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        return Item.from_row(json.loads(line))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}, is not a row of a set: {error}") from error


def _parquet(items: Sequence[Item], images: Mapping[str, bytes]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    features = item_features(file_names=True)
    schema = features.arrow_schema
    rows = []
    for item in items:
        names = _image_names(item)
        cells = {role: {"bytes": images[n], "path": n} for role, n in names.items() if n in images}
        rows.append(item_cells(item, cells, features))
    stream = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    pyarrow.parquet.write_table(table, stream, row_group_size=_GROUP)
    return stream.getvalue()


def _parquet_rows(file: Path) -> Iterator[tuple[Item, Place]]:
    import pyarrow.parquet

    reading = uuid.uuid4().hex
    with file.open("rb") as stream:
        table = pyarrow.parquet.ParquetFile(stream)
        columns = [name for name in table.schema_arrow.names if name not in IMAGES]
        # which cells hold an image is known without their bytes
        columns += [f"{name}.path" for name in IMAGES]
        for group in range(table.num_row_groups):
            for row, cells in enumerate(table.read_row_group(group, columns=columns).to_pylist()):
                try:
                    item = item_of(cells)
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{file}, row {row} of group {group}, is not a row of a set: {error}"
                    ) from error
                held = {cells[role]["path"]: role for role in IMAGES if cells[role] is not None}
                yield item, RowPlace(file, group, row, held, reading)


def _image_names(item: Item) -> dict[str, str]:
    names = {role: getattr(item, f"{role}_file_name") for role in IMAGES}
    return {role: name for role, name in names.items() if name is not None}
