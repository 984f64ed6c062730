"""Inputs that the package ``datasets`` reads: a folder of ``save_to_disk``, parquet files, or a set on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.image_files import UnreadableImageError, read_image
from negguide.mining.item import Source
from negguide.mining.sources.files import card_licence, first_of
from negguide.mining.sources.source import (
    CAPTION_COLUMNS,
    LICENCE_COLUMNS,
    BadSource,
    Ids,
    Input,
    captions_of,
    text_of,
    with_captions,
)


class DataSet(Input):
    """A data set of the package ``datasets``: an image column, a column of text, and optional columns.

    The text is in ``caption``, ``text`` or ``title`` (a string, or a list of several for one image), the image in
    ``image`` or the only column of images. Optional are ``id`` (else the split and the row's number), ``mask`` and
    ``licence`` or ``license``. A set without images gives sources with captions alone.

    Args:
        spec: a folder written by ``save_to_disk``, a parquet file or a folder with such, or a name on the hub,
            "owner/name".
        split: which part of it; of a single file, what its rows are called.
        config: which of its configurations, where it has several.
        caption: the name of the caption's column; None finds it.
    """

    def __init__(
        self,
        spec: str,
        split: str = "train",
        config: str | None = None,
        caption: str | None = None,
        licence: str | None = None,
    ) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ImportError(f"{spec}: pip install datasets to read data sets") from error
        self.name = Path(spec).name if Path(spec).exists() else spec
        self.split = split
        self.data = _open(datasets, spec, split, config)
        for column in _images_as_they_are(datasets, self.data.features or {}):
            self.data = self.data.cast_column(column, datasets.Image())
        features = self.data.features
        self.columns = list(features or next(iter(self.data), {}))
        images = [name for name, kind in (features or {}).items() if isinstance(kind, datasets.Image)]
        names = (caption,) if caption else CAPTION_COLUMNS
        self.caption = first_of(names, self.columns, f"{self.name}, split {split!r},", "caption")
        self.mask = "mask" if "mask" in images else None
        pictures = [name for name in images if name != self.mask]
        if len(pictures) > 1 and "image" not in pictures:
            raise ValueError(
                f"{self.name} has several columns of images ({', '.join(pictures)}); name one of them 'image'"
            )
        self.image = "image" if "image" in pictures else pictures[0] if pictures else None
        for (
            name
        ) in images:  # an image that cannot be decoded must not end the pass: it is opened later, by itself
            self.data = self.data.cast_column(name, datasets.Image(decode=False))
        folder_licence = card_licence(Path(spec)) if Path(spec).is_dir() else None
        self.licence = licence or self.data.info.license or folder_licence or None

    @property
    def description(self) -> dict[str, Any]:
        return {**super().description, "split": self.split, "columns": self.columns}

    def rows(self) -> Iterator[Source | BadSource]:
        ids = Ids()
        for number, row in enumerate(self.data):
            given = text_of(row.get("id"))
            captions = captions_of(row[self.caption])
            name = given or f"{self.split}-{number:09d}"
            if self.image is not None and row[self.image] is None:
                yield BadSource(name, "missing image")
                continue
            source = Source(
                id=name,
                caption=captions[0],
                load=self._opener(row, self.image, "RGB", number),
                mask=self._opener(row, self.mask, "L", number),
                licence=next((text_of(row[k]) for k in LICENCE_COLUMNS if row.get(k)), self.licence),
            )
            if len(captions) == 1:
                yield source
            else:
                yield from with_captions(source, captions, ids)

    def _opener(
        self, row: Any, column: str | None, mode: str, number: int
    ) -> Callable[[], Image.Image] | None:
        if column is None or row[column] is None:
            return None
        name = f"{self.name}, split {self.split}, row {number}, column {column}"
        return partial(_read, row[column], mode, name)


def _read(value: Mapping[str, Any], mode: str, name: str) -> Image.Image:
    """The image of a cell ``{"bytes", "path"}`` that ``datasets`` has not decoded; the path may be on the hub."""
    content, path = value["bytes"], value["path"]
    if content is None and not path:
        raise UnreadableImageError(f"{name}: it has neither bytes nor a path")
    if content is None and "://" in path:
        from datasets.utils.file_utils import xopen

        try:
            with xopen(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnreadableImageError(f"{name}: {error}".partition("\n")[0][:300]) from error
    return read_image(path if content is None else content, mode, name=name)


def _images_as_they_are(datasets: Any, features: Mapping[str, Any]) -> list[str]:
    """The columns ``image`` and ``mask`` that hold files without being declared as images, as other writers do."""
    binary = (datasets.Value("binary"), datasets.Value("large_binary"))
    return [
        name
        for name in ("image", "mask")
        if features.get(name) in binary
        or (isinstance(features.get(name), dict) and set(features[name]) == {"bytes", "path"})
    ]


def _open(datasets: Any, spec: str, split: str, config: str | None) -> Any:
    folder = Path(spec)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        data = datasets.load_from_disk(spec)
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ValueError(f"{spec} has no split {split!r}; it has {', '.join(data)}")
            data = data[split]
        return data
    try:
        if folder.is_file():
            return datasets.load_dataset("parquet", data_files={split: spec}, split=split, streaming=True)
        return datasets.load_dataset(spec, config, split=split, streaming=True)
    except Exception as error:
        # A set that is missing, unreachable or broken fails in many ways, with pages of text; the cause stays.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"the data set {spec!r} cannot be opened: {reason}") from error
