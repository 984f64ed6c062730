"""The pairs of a set, ours or one made elsewhere, as the audit sees them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from negguide.mining.shard_files import METADATA
from negguide.mining.shards import is_set, read_set
from negguide.storage import ImageFile, location
from negguide.text_files import full_table_rows, json_lines, read_json

POSITIVE_COLUMNS = ("caption", "true_caption")
NEGATIVE_COLUMNS = ("negative_caption", "false_caption")
IMAGE_COLUMNS = ("image_file_name", "file_name", "filename", "image_path")
NEGATIVE_IMAGE_COLUMNS = ("negative_image_file_name", "negative_file_name")
_READABLE = (
    "a set that negguide mined, an imagefolder whose metadata.jsonl has the columns caption and negative_caption, "
    "SugarCrepe JSON (a file, or a folder of them), or a .jsonl, .csv or .tsv file with these columns"
)


@dataclass(frozen=True)
class Pair:
    """A caption, its hard negative, and their images where there are any.

    Attributes:
        id: unique in the set.
        source: what the pair was made from; pairs of one source are never on both sides of a cross-validation.
        category: what was edited; "no category" where a row of an imagefolder does not say.
        control: a render of ``caption`` by the model that made the negative image.
    """

    id: str
    source: str
    caption: str
    negative_caption: str
    category: str
    image: ImageFile | None = None
    negative_image: ImageFile | None = None
    control: ImageFile | None = None

    @property
    def family(self) -> str:
        """The category, with add and remove as one: each is told by its length alone, both together are not."""
        if self.category == "all":
            # so are the figures over all pairs called
            return "category all"
        return "add/remove" if self.category in ("add", "remove") else self.category

    @property
    def images(self) -> list[ImageFile]:
        """All that there are, the control too: who trains on the set may be shown any of them."""
        return [file for file in (self.image, self.negative_image, self.control) if file is not None]

    @property
    def exchangeable(self) -> bool:
        """True where the roles can be exchanged: both of its images are renders then."""
        return self.control is not None and self.negative_image is not None

    def exchanged(self) -> Pair:
        """The pair with the roles exchanged: the negative image and caption are the right ones.

        The render of the old caption becomes the negative image, so that both images come from one model.

        Raises:
            ValueError: there is no such render.
        """
        if not self.exchangeable:
            raise ValueError(f"item {self.id} has no rendered original, so its roles cannot be exchanged")
        return replace(
            self,
            caption=self.negative_caption,
            negative_caption=self.caption,
            category={"add": "remove", "remove": "add"}.get(self.category, self.category),
            image=self.negative_image,
            negative_image=self.control,
            control=self.negative_image,
        )

    def rendered(self) -> Pair:
        """The pair with the render of its caption in place of the original image."""
        return replace(self, image=self.control)


def read_pairs(path: Path | str, images: Path | str | None = None) -> list[Pair]:
    """The pairs of the set in ``path``; images are named, not opened.

    Args:
        path: a set that negguide mined, an imagefolder with ``metadata.jsonl``, SugarCrepe JSON
            ``{"0": {filename, caption, negative_caption}}`` (a file, or a folder with one file a category), a JSON
            list of rows (as ARO's, with ``true_caption`` and ``false_caption``), or a ``.jsonl``, ``.csv`` or ``.tsv``
            file.
        images: the folder that file names of a JSON, CSV or TSV are relative to; ``None`` for a text-only audit. A
            mined set and an imagefolder hold their images.

    Raises:
        ValueError: nothing of this kind is there, a caption is missing or empty, an id occurs twice, or ``images`` is
            given for a set that holds its images.
    """
    path = location(path)
    images = None if images is None else location(images)
    if images is not None and not images.is_dir():
        raise ValueError(f"images={str(images)!r} is not a folder")
    if not path.exists():
        raise ValueError(f"{path} does not exist; use {_READABLE}")
    if images is not None and path.is_dir() and (is_set(path) or any(path.rglob(METADATA))):
        raise ValueError(
            f"images={str(images)!r} has no meaning for {path}, which holds its images; leave it out"
        )
    pairs = list(_read(path, images))
    if not pairs:
        raise ValueError(f"{path} holds no pair")
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise ValueError(f"{path}: the id {pair.id!r} occurs twice")
        seen.add(pair.id)
    return pairs


def _read(path: Path, images: Path | None) -> Iterator[Pair]:
    if path.is_file():
        yield from _read_file(path, images)
    elif is_set(path):
        for item, folder in read_set(path):
            files = item.files(folder)
            yield Pair(
                id=item.id,
                source=item.source_id,
                caption=item.caption,
                negative_caption=item.negative_caption,
                category=item.category,
                image=files.get("image"),
                negative_image=files.get("negative_image"),
                control=files.get("control_image"),
            )
    elif found := sorted(path.rglob(METADATA)):
        for file in found:
            prefix = file.parent.relative_to(path).as_posix()
            for number, row in json_lines(file):
                name = f"{prefix}/{number}" if prefix != "." else str(number)
                yield _pair(row, name, "no category", file.parent, f"{file}, line {number}", prefix)
    elif found := sorted(path.glob("*.json")):
        for file in found:
            yield from _read_file(file, images)
    else:
        raise ValueError(f"{path} is no set that can be read; use {_READABLE}")


def _read_file(path: Path, images: Path | None) -> Iterator[Pair]:
    rows: Any
    named: Iterable[tuple[Any, Any]]
    if path.suffix == ".json":
        rows = read_json(path)
        if not isinstance(rows, dict | list):
            raise ValueError(f"{path} must hold an object or a list of rows, got {type(rows).__name__}")
        named = rows.items() if isinstance(rows, dict) else enumerate(rows)
    elif path.suffix == ".jsonl":
        named = json_lines(path)
    elif path.suffix in (".csv", ".tsv"):
        named = ((number, row) for number, (_, row) in enumerate(full_table_rows(path), 1))
    else:
        raise ValueError(f"{path} is no set that can be read; use {_READABLE}")
    for name, row in named:
        yield _pair(row, f"{path.stem}/{name}", path.stem, images, f"{path}, row {name}")


def _pair(row: Any, name: str, category: str, images: Path | None, where: str, under: str = ".") -> Pair:
    """The pair of a row; ``under`` is where its files lie as seen from the set, for folders may name theirs alike."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: a row must be an object with captions, got {type(row).__name__}")
    caption = _text(row, POSITIVE_COLUMNS, where)
    negative = _text(row, NEGATIVE_COLUMNS, where)
    file = _first(row, IMAGE_COLUMNS)
    identity = row.get("id")

    def place(value: Any) -> Path | None:
        return None if images is None or not value else images / str(value)

    return Pair(
        id=name if identity is None else str(identity),
        source=str(row.get("source_id") or (posixpath.normpath(f"{under}/{file}") if file else name)),
        caption=caption,
        negative_caption=negative,
        category=str(row.get("category") or category),
        image=place(file),
        negative_image=place(_first(row, NEGATIVE_IMAGE_COLUMNS)),
        control=place(row.get("control_image_file_name")),
    )


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name)), None)


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    value = _first(row, names)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {' or '.join(names)} must hold a caption, got {value!r}")
    return value
