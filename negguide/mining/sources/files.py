"""Inputs that are files beside their images: an imagefolder, an open_clip table, COCO captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from negguide.image_files import read_image
from negguide.mining.item import Source, StoredImage
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
from negguide.text_files import json_lines, read_json, table_columns, table_rows

METADATA = "metadata.jsonl"


def card_licence(folder: Path) -> str | None:
    """The licence in the YAML head of a folder's README.md, if there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import DatasetCard

    try:
        text = card.read_text(encoding="utf-8")
        licence = DatasetCard(text, ignore_metadata_errors=True).data.get("license")
    except Exception as error:  # the parser of the head raises errors of its own kinds
        raise ValueError(f"the YAML head of {card} cannot be read: {error}") from error
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence


def first_of(names: tuple[str, ...], columns: Any, where: str, what: str) -> str:
    """The first of ``names`` among ``columns``."""
    for name in names:
        if name in columns:
            return name
    raise ValueError(
        f"{where} has no column for the {what}: expected {' or '.join(names)}, found {', '.join(map(str, columns))}"
    )


class ImageFolder(Input):
    """A folder with images and ``metadata.jsonl``: ``file_name``, ``caption`` or ``text``, and optional columns.

    Optional are ``id`` (else the file name is the id), ``mask_file_name`` (white where pixels may change) and
    ``licence`` or ``license``. A caption may be a list of several.

    Args:
        path: the folder, or its ``metadata.jsonl``.
        caption: the name of the caption's column; None finds it.
    """

    def __init__(self, path: Path, caption: str | None = None, licence: str | None = None) -> None:
        self.metadata = path / METADATA if path.is_dir() else path
        if not self.metadata.is_file():
            raise ValueError(f"{path} holds no {METADATA}, so it is no imagefolder with captions")
        self.folder = self.metadata.parent
        self.name = self.folder.name
        self.caption = caption
        self.licence = licence or card_licence(self.folder)
        next(self.rows(), None)  # what has no captions at all is refused at the start

    def rows(self) -> Iterator[Source | BadSource]:
        """The pairs in their order."""
        for _, found in self.records():
            yield from found

    def records(self) -> Iterator[tuple[Mapping[str, Any], list[Source | BadSource]]]:
        """The rows of the table as it has them, each with what `rows` makes of it."""
        ids = Ids()
        names = (self.caption,) if self.caption else CAPTION_COLUMNS
        for number, row in json_lines(self.metadata):
            where = f"{self.metadata}, line {number},"
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise ValueError(f"{where} has no file_name")
            captions = captions_of(row[first_of(names, row, where, "caption")])
            licence = next((text_of(row[k]) for k in LICENCE_COLUMNS if row.get(k)), self.licence)
            mask = row.get("mask_file_name")
            source = Source(
                id=text_of(row.get("id")) or row["file_name"],
                caption=captions[0],
                load=partial(read_image, self.folder / row["file_name"], name=row["file_name"]),
                mask=partial(read_image, self.folder / mask, "L", name=mask) if mask else None,
                licence=licence,
                stored=StoredImage.of_file(self.folder / row["file_name"]),
            )
            if row.get("id") is not None and len(captions) == 1:
                yield row, [source]
            else:
                yield row, list(with_captions(source, captions, ids))


class Table(Input):
    """A table as open_clip reads it, tab- or comma-separated: ``filepath`` and ``title``.

    Relative file paths are looked up beside the table. The id is the file path, or the column ``id``.

    Args:
        path: the .tsv or .csv file.
        caption: the name of the caption's column; None takes ``title``, ``caption`` or ``text``.
    """

    def __init__(self, path: Path, caption: str | None = None, licence: str | None = None) -> None:
        self.path = path
        self.name = path.name
        self.caption = caption
        self.licence = licence
        next(self.rows(), None)  # a table without the columns is refused at the start

    def rows(self) -> Iterator[Source | BadSource]:
        """The pairs in their order."""
        for _, found in self.records():
            yield from found

    def records(self) -> Iterator[tuple[Mapping[str, Any], list[Source | BadSource]]]:
        """The rows of the table as it has them, each with what `rows` makes of it."""
        ids = Ids()
        columns = table_columns(self.path)
        image = first_of(("filepath", "file_name", "image"), columns, str(self.path), "image")
        names = (self.caption,) if self.caption else ("title", *CAPTION_COLUMNS)
        caption = first_of(names, columns, str(self.path), "caption")
        for line, row in table_rows(self.path):
            name = text_of(row[image])
            given = text_of(row.get("id"))
            number = given or ids(name or "no-file")
            if not name or row[caption] is None or None in row:
                cells = sum(value is not None for column, value in row.items() if column is not None)
                cells += len(row.get(None, ()))
                reason = f"broken row: line {line} has {cells} cells for {len(columns)} columns"
                yield _named(row), [BadSource(number, reason)]
                continue
            source = Source(
                id=number,
                caption=text_of(row[caption]),
                load=partial(read_image, self.path.parent / name, name=name),
                licence=next((text_of(row[k]) for k in LICENCE_COLUMNS if row.get(k)), self.licence),
                stored=StoredImage.of_file(self.path.parent / name),
            )
            yield _named(row), [source]


def _named(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """The cells that have a column."""
    return {name: value for name, value in row.items() if name is not None}


@dataclass(frozen=True)
class CocoNote:
    """A caption of COCO.

    Attributes:
        id: "coco-" and the annotation's.
        image_id: of its image.
        image: the file; None where no image has this id.
        caption, licence: as the JSON has them.
    """

    id: str
    image_id: Any
    image: Path | None
    caption: str
    licence: str | None


class CocoCaptions(Input):
    """COCO captions: a JSON with ``images`` and ``annotations``, and the folder of the images.

    The id is "coco-" and the annotation's. The JSON is held in memory while it is gone through, images never.

    Args:
        path: the JSON.
        images: the folder with the images; None looks for the first image beside the JSON, in ``images`` there, and
            in the folder that the JSON is named after ("captions_val2017.json": "val2017", also one level up).
    """

    def __init__(self, path: Path, images: Path | None = None, licence: str | None = None) -> None:
        self.path = path
        self.name = path.name
        self.licence = licence
        data = self._read()
        self.images = self._find_images(data) if images is None else images
        if not self.images.is_dir():
            raise ValueError(f"images={str(images)!r} is no folder; give the one with the images of {path}")

    def _read(self) -> dict[str, Any]:
        data = read_json(self.path)
        if not isinstance(data, dict) or not {"images", "annotations"} <= set(data):
            raise ValueError(f"{self.path} holds no COCO captions: it needs 'images' and 'annotations'")
        for name, needed in (("images", {"id", "file_name"}), ("annotations", {"id", "image_id"})):
            for number, row in enumerate(data[name]):
                if not isinstance(row, dict) or not needed <= set(row):
                    raise ValueError(f"{self.path}: {name}[{number}] needs {' and '.join(sorted(needed))}")
        files: dict[Any, Any] = {}
        for number, row in enumerate(data["images"]):
            # as in two files that were put together
            if files.setdefault(row["id"], row["file_name"]) != row["file_name"]:
                raise ValueError(
                    f"{self.path}: images[{number}] ({row['file_name']}) has the id {row['id']} of another image "
                    f"({files[row['id']]}); give each image an id of its own"
                )
        return data

    def _find_images(self, data: dict[str, Any]) -> Path:
        beside = self.path.parent
        named = self.path.stem.rpartition("_")[2]
        tried = (beside, beside / "images", beside / named, beside.parent / named, beside.parent / "images")
        for folder in tried:
            if any((folder / str(image.get("file_name"))).is_file() for image in data["images"][:10]):
                return folder
        raise ValueError(
            f"{self.path}: its images are in none of {', '.join(map(str, tried))}; name their folder with images="
        )

    def rows(self) -> Iterator[Source | BadSource]:
        """The pairs in their order."""
        for note in self.notes():
            if note.image is None:
                yield BadSource(note.id, f"missing image: no image has the id {note.image_id}")
                continue
            load = partial(read_image, note.image, name=note.image.name)
            stored = StoredImage.of_file(note.image)
            yield Source(note.id, note.caption, load, licence=note.licence, stored=stored)

    def notes(self) -> Iterator[CocoNote]:
        """The annotations in their order, images unopened."""
        data = self._read()
        images = {image["id"]: image for image in data["images"]}
        licences = {one["id"]: one.get("name") for one in data.get("licenses", ())}
        for note in data["annotations"]:
            image = images.get(note["image_id"])
            yield CocoNote(
                id=f"coco-{note['id']}",
                image_id=note["image_id"],
                image=None if image is None else self.images / image["file_name"],
                caption=text_of(note.get("caption")),
                licence=self.licence if image is None else licences.get(image.get("license"), self.licence),
            )
