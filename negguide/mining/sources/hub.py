"""Inputs that the package ``datasets`` reads: a folder of ``save_to_disk``, parquet files, or a set on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

from negguide.image_files import UnreadableImageError, read_image
from negguide.mining.item import Source, StoredImage
from negguide.mining.sources.files import card_licence, first_of
from negguide.mining.sources.source import (
    CAPTION_COLUMNS,
    LICENCE_COLUMNS,
    BadSource,
    Ids,
    Input,
    captions_of,
    file_print,
    text_of,
    with_captions,
)
from negguide.storage import absolute, location, on_this_machine


class DataSet(Input):
    """A data set of the package ``datasets``: an image column, a column of text, and optional columns.

    The text is in ``caption``, ``text`` or ``title`` (a string, or a list of several for one image), the image in
    ``image`` or the only column of images; ``image``, ``filepath`` or ``file_name`` may also be the paths of files,
    relative to the folder of the data set. Optional are ``id`` (else the split and the row's number), ``mask`` and
    ``licence`` or ``license``. A set without images gives sources with captions alone.

    Args:
        spec: a folder written by ``save_to_disk``, a parquet file or a folder with such, or a name on the hub,
            "owner/name".
        split: which part of it; of a single file, what its rows are called. None = "train"; of a folder that
            `Dataset.save_to_disk` wrote, whichever it is.
        config: which of its configurations, where it has several.
        caption: the name of the caption's column; None finds it.
    """

    def __init__(
        self,
        spec: str,
        split: str | None = None,
        config: str | None = None,
        caption: str | None = None,
        licence: str | None = None,
    ) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ImportError(f"{spec}: pip install datasets to read data sets") from error
        place = location(spec, "--data")
        self.name = place.name if place.exists() else spec
        self.split = split or "train"
        self.data, self.files = _open(datasets, spec, self.split, config)
        if split is not None and (place / "state.json").is_file():
            # one data set, which may know what it was a split of
            saved = str(self.data.split or split).partition("[")[0]
            if saved != split:
                raise ValueError(f"{spec} is the split {saved!r}, and split={split!r} is asked for")
        self.folder = None if not place.exists() else place if place.is_dir() else place.parent
        for column in _images_as_they_are(datasets, self.data.features or {}):
            self.data = self.data.cast_column(column, datasets.Image())
        features = self.data.features
        self.columns = list(features or next(iter(self.data), {}))
        images = [name for name, kind in (features or {}).items() if isinstance(kind, datasets.Image)]
        names = (caption,) if caption else CAPTION_COLUMNS
        self.caption = first_of(names, self.columns, f"{self.name}, split {self.split!r},", "caption")
        # what is found without being said is not told, so that saying it as well makes no other set
        usual = next((name for name in CAPTION_COLUMNS if name in self.columns), None)
        chosen = {"caption": None if self.caption == usual else self.caption, "config": config}
        self._chosen = {name: value for name, value in chosen.items() if value is not None}
        self.mask = "mask" if "mask" in images else None
        pictures = [name for name in images if name != self.mask]
        if len(pictures) > 1 and "image" not in pictures:
            raise ValueError(
                f"{self.name} has several columns of images ({', '.join(pictures)}); name one of them 'image'"
            )
        paths = [name for name in PATH_COLUMNS if (features or {}).get(name) in _strings(datasets)]
        self.image = "image" if "image" in pictures else next(iter((*pictures, *paths)), None)
        for (
            name
        ) in images:  # an image that cannot be decoded must not end the pass: it is opened later, by itself
            self.data = self.data.cast_column(name, datasets.Image(decode=False))
        folder_licence = card_licence(place) if place.is_dir() else None
        self.licence = licence or self.data.info.license or folder_licence or None

    @property
    def description(self) -> dict[str, Any]:
        """What it is, as JSON, with its split and columns, and which of them was chosen."""
        return {**super().description, "split": self.split, "columns": self.columns, **self._chosen}

    @property
    def shards(self) -> int:
        """How many parts it can be read in."""
        # a table in memory or on disk knows its files, a stream its shards
        found = getattr(self.data, "num_shards", None) or len(getattr(self.data, "cache_files", ()))
        return max(1, found)

    def shard_print(self, shard: int) -> str | None:
        """Of the file of a part; None = not known."""
        return file_print(self.files[shard]) if len(self.files) == self.shards else None

    def rows(self) -> Iterator[Source | BadSource]:
        """The pairs in their order."""
        for _, found in self.records():
            yield from found

    def shard_rows(self, shard: int) -> Iterator[Source | BadSource]:
        """The pairs of one part."""
        for _, found in self._shard_records(shard):
            yield from found

    def records(self) -> Iterator[tuple[Mapping[str, Any], list[Source | BadSource]]]:
        """The rows of the table as it has them, each with what `rows` makes of it."""
        for shard in range(self.shards):
            yield from self._shard_records(shard)

    def _shard_records(self, shard: int) -> Iterator[tuple[Mapping[str, Any], list[Source | BadSource]]]:
        ids = Ids()
        several = self.shards > 1
        data = self.data.shard(num_shards=self.shards, index=shard) if several else self.data
        places = self._places(shard)
        for number, (row, place) in enumerate(zip(data, places, strict=False)):
            given = text_of(row.get("id"))
            captions = captions_of(row[self.caption])
            name = given or f"{self.split}-{number:09d}"
            if several:
                name = f"{shard:05d}/{name}"
            if self.image is not None and row[self.image] is None:
                yield row, [BadSource(name, "missing image")]
                continue
            where = place or f"{self.name}, split {self.split}, row {number}"
            image, mask = (self._cell(row, column, where) for column in (self.image, self.mask))
            source = Source(
                id=name,
                caption=captions[0],
                load=None
                if image is None
                else partial(_opened, image, "RGB", f"{where}, column {self.image}"),
                mask=None if mask is None else partial(_opened, mask, "L", f"{where}, column {self.mask}"),
                licence=next((text_of(row[k]) for k in LICENCE_COLUMNS if row.get(k)), self.licence),
                stored=image,
            )
            yield row, [source] if len(captions) == 1 else list(with_captions(source, captions, ids))

    def _places(self, shard: int) -> Iterator[str]:
        """Which file and which row of it each row is; "" where that is not known."""
        if len(self.files) == self.shards:
            name = _seen_from_all(self.files)[shard]
            return (f"{name}, row {number}" for number in count())
        return chain(row_places(self.files), repeat("")) if self.shards == 1 else repeat("")

    def _cell(self, row: Any, column: str | None, where: str) -> StoredImage | None:
        """The image of a cell: ``{"bytes", "path"}`` that ``datasets`` has not decoded, or a path."""
        if column is None or row[column] is None:
            return None
        value = row[column]
        content, path = (None, value) if isinstance(value, str) else (value["bytes"], value["path"])
        name = f"{where}, column {column}"
        if content is not None:
            return StoredImage(partial(bytes, content))
        if not path:
            return StoredImage(partial(_fail, f"{name}: it has neither bytes nor a path"))
        if "://" in path:
            return StoredImage(partial(_remote, path, name))
        if self.folder is None and not Path(path).is_absolute():
            raise ValueError(
                f"{name} is the path {path!r}, and {self.name} lies on no disk; store the images in it"
            )
        return StoredImage.of_file((self.folder or Path()) / path)


PATH_COLUMNS = ("image", "filepath", "file_name")
"""Columns of strings that are taken for paths of images, where there is no column of images."""


def row_places(paths: Sequence[Path]) -> Iterator[str]:
    """The file, as seen from where all of them are, and the number of each row of parquet files, wherever they lie."""
    from pyarrow.parquet import read_metadata

    for path, name in zip(paths, _seen_from_all(paths), strict=True):
        with path.open("rb") as stream:
            rows = read_metadata(stream).num_rows
        for row in range(rows):
            yield f"{name}, row {row}"


def _seen_from_all(paths: Sequence[Path]) -> list[str]:
    """The files as seen from the folder that holds all of them."""
    if not paths:
        return []
    parents = [absolute(path).parent.as_posix() for path in paths]
    top = os.path.commonpath(parents)
    return [
        f"{parent}/{path.name}"[len(top) :].lstrip("/") for parent, path in zip(parents, paths, strict=True)
    ]


def _opened(image: StoredImage, mode: str, name: str) -> Any:
    return read_image(image.path or image.read(), mode, name=name)


def _fail(reason: str) -> bytes:
    raise UnreadableImageError(reason)


def _remote(path: str, name: str) -> bytes:
    from datasets.utils.file_utils import xopen

    try:
        with xopen(path, "rb") as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableImageError(f"{name}: {error}".partition("\n")[0][:300]) from error


def _strings(datasets: Any) -> tuple[Any, ...]:
    return datasets.Value("string"), datasets.Value("large_string")


def _images_as_they_are(datasets: Any, features: Mapping[str, Any]) -> list[str]:
    """The columns ``image`` and ``mask`` that hold files without being declared as images, as other writers do."""
    binary = (datasets.Value("binary"), datasets.Value("large_binary"))
    return [
        name
        for name in ("image", "mask")
        if features.get(name) in binary
        or (isinstance(features.get(name), dict) and set(features[name]) == {"bytes", "path"})
    ]


def _files_by_split(address: str) -> dict[str, list[str]]:
    """The parquet files at an address by the splits that their names tell, as of a folder of this machine."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    found = DataFilesDict.from_patterns(get_data_patterns(address), base_path=address)
    files = {
        str(name): sorted(file for file in held if file.endswith(".parquet")) for name, held in found.items()
    }
    return {name: held for name, held in files.items() if held}


def _open(datasets: Any, spec: str, split: str, config: str | None) -> tuple[Any, list[Path]]:
    """The rows, and the parquet files that they are read from, in their order."""
    folder = location(spec, "--data")
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        data = datasets.load_from_disk(spec)
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ValueError(f"{spec} has no split {split!r}; it has {', '.join(data)}")
            data = data[split]
        return data, []
    try:
        if folder.is_file():
            builder = datasets.load_dataset_builder("parquet", data_files={split: spec})
        elif not on_this_machine(folder):
            builder = datasets.load_dataset_builder("parquet", data_files=_files_by_split(spec))
        else:
            builder = datasets.load_dataset_builder(spec, config)
        data = builder.as_streaming_dataset(split=split)
    except Exception as error:
        # A set that is missing, unreachable or broken fails in many ways, with pages of text; the cause stays.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"the data set {spec!r} cannot be opened: {reason}") from error
    named = [str(file) for file in (builder.config.data_files or {}).get(split, ())]
    if not all(name.endswith(".parquet") for name in named):
        return data, []
    paths = [location(name) for name in named]
    return data, paths if all(path.is_file() for path in paths) else []
