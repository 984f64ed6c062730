"""The input as it is, with the negatives of each caption as further columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from negguide._utils.files import whole_folder
from negguide.mining.formats.folders import SHARD, Target, check_out
from negguide.mining.formats.parquet import write_rows
from negguide.mining.item import Item, Source
from negguide.mining.item_table import datasets_package
from negguide.mining.shards import FUNNEL, read_set, read_settings
from negguide.mining.sources import Input
from negguide.mining.sources.files import ImageFolder, Table
from negguide.mining.sources.hub import DataSet
from negguide.mining.sources.source import CAPTION_COLUMNS
from negguide.storage import Place, location
from negguide.text_files import full_table_rows, table_columns

POSITIVES = "positive_captions"
Tabular = Table | ImageFolder | DataSet
"""The inputs that have columns."""


def write_columns(folder: Path | str, source: Input, out: Path) -> Path:
    """Write the rows of ``source`` into the folder ``out``, with the negatives that the set in ``folder`` has of them.

    Every row is there, in its order, with all its cells as they are. Added are ``negative_caption`` and
    ``negative_category``, with "_2", "_3", ... for further negatives of a caption, and ``positive_captions``; they are
    empty where a caption has none. A row with a list of captions has lists of the same length in them.

    A table stays a .tsv or .csv, an imagefolder's ``metadata.jsonl`` a .jsonl, both naming images as before; a data set
    becomes parquet files.

    Args:
        folder: a complete set.
        source: the input that it was mined from.
        out: the folder, there as a whole or not at all; what is there already is replaced.

    Returns:
        The file; of a data set, ``out``.

    Raises:
        ValueError: the set is not complete; or ``source`` is no table, is not what the set was mined from, has columns
            of these names, or a row with more cells than columns.
    """
    settings = read_settings(folder)
    source = check_columns(source, settings.per_item, settings.positives)
    if not (location(folder) / FUNNEL).is_file():
        raise ValueError(f"{folder} is not complete; run `negguide mine` again to go on with it")
    names = added_columns(settings.per_item, settings.positives)
    check_out(out, overwrite=True)
    with whole_folder(out) as partial:
        rows = _joined(source, read_set(folder), names)
        if isinstance(source, DataSet):
            _write_parquet(rows, source, names, partial)
            return out
        if isinstance(source, Table):
            _write_table(rows, [*table_columns(source.path), *names], partial / source.path.name)
            return out / source.path.name
        with (partial / source.metadata.name).open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return out / source.metadata.name


def check_columns(source: Input, negatives: int, positives: int) -> Tabular:
    """Refuse an input that the columns cannot be added to, before a set is made of it; gives the input.

    Args:
        source: the input.
        negatives, positives: as of `added_columns`.

    Raises:
        ValueError: it is no table, or has columns of these names; or a row has cells that belong to no column.
    """
    if not isinstance(source, Tabular):
        raise ValueError(
            f"{source.name} is no table that a column can be added to; it can be to a .tsv, .csv or .jsonl file, an "
            "imagefolder, parquet files and data sets on the hub"
        )
    names = added_columns(negatives, positives)
    if isinstance(source, DataSet):
        _refuse(source.columns, names, source)
    elif isinstance(source, Table):
        columns = table_columns(source.path)
        _refuse(columns, names, source)
        if columns.count("") > 1:
            raise ValueError(f"{source.path} has {columns.count('')} columns without a name; name them")
        # a cell without a column would be in no row that is written
        for _ in full_table_rows(source.path):
            pass
    else:
        # as its rows have them: the first is looked at here, the others as they are written
        _refuse(next((row for row, _ in source.records()), {}), names, source)
    return source


def added_columns(negatives: int, positives: int) -> list[str]:
    """The names of the added columns, for at most so many negatives of a caption."""
    names = []
    for number in range(1, negatives + 1):
        end = "" if number == 1 else f"_{number}"
        names += [f"negative_caption{end}", f"negative_category{end}"]
    return [*names, POSITIVES] if positives else names


def _joined(
    source: Tabular, items: Iterable[tuple[Item, Place]], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows with their added cells; the items of a set stand in the order of its input."""
    groups = groupby((item for item, _ in items), key=lambda item: item.source_id)
    ahead = _next(groups)
    for row, found in source.records():
        _refuse(row, names, source)
        cells = []
        for one in found:
            items_of_it: list[Item] = []
            if ahead is not None and isinstance(one, Source) and ahead[0] == one.id:
                items_of_it, ahead = ahead[1], _next(groups)
                if items_of_it[0].caption != one.caption:
                    raise ValueError(
                        f"{source.name} has changed since the set was mined from it: row {one.id!r}"
                    )
            cells.append(_cells(items_of_it, names))
        captions = _caption_cell(row, source)
        if isinstance(captions, list):
            # a row that could not be used is one, however many captions it has
            cells = (cells + [_cells([], names)] * len(captions))[: len(captions)]
            yield {**row, **{name: [one[name] for one in cells] for name in names}}
        else:
            yield {**row, **cells[0]}
    if ahead is not None:
        raise ValueError(f"{source.name} is not what the set was mined from: it holds no row {ahead[0]!r}")


def _next(groups: Iterator[tuple[str, Iterator[Item]]]) -> tuple[str, list[Item]] | None:
    key, group = next(groups, (None, iter(())))
    return None if key is None else (key, list(group))


def _cells(items: Sequence[Item], names: Sequence[str]) -> dict[str, Any]:
    values: list[Any] = []
    for item in items:
        values += [item.negative_caption, item.category]
    room = len(names) - (POSITIVES in names)
    values += [None] * (room - len(values))
    if POSITIVES in names:
        values.append(list(items[0].positive_captions) if items else [])
    return dict(zip(names, values, strict=True))


def _caption_cell(row: Mapping[str, Any], source: Tabular) -> Any:
    names = (source.caption,) if source.caption else CAPTION_COLUMNS
    return next((row[name] for name in names if name in row), None)


def _refuse(columns: Iterable[str], names: Sequence[str], source: Input) -> None:
    taken = [name for name in names if name in columns]
    if taken:
        raise ValueError(f"{source.name} has a column {taken[0]!r} already; rename it there")


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        lines.writerow(columns)
        for row in rows:
            lines.writerow([_text(row.get(name)) for name in columns])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return "" if value is None else str(value)


def _write_parquet(
    rows: Iterable[Mapping[str, Any]], source: DataSet, names: Sequence[str], folder: Path
) -> None:
    datasets = datasets_package()
    text = datasets.Value("string")
    features = dict(source.data.features or {})
    if not features:
        raise ValueError(
            f"{source.name} does not say of what kind its columns are; save it as parquet files first"
        )
    listed = not isinstance(features[source.caption], datasets.Value)
    for name in names:
        kind = datasets.Sequence(text) if name == POSITIVES else text
        features[name] = datasets.Sequence(kind) if listed else kind
    write_rows(
        rows, datasets.Features(features), Target(folder, folder, SHARD, lambda text: None, lambda item: None)
    )
