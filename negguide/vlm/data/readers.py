"""Read triplet sets in every format that they come in: those of negguide, and those people have."""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from negguide.image_files import SUFFIXES
from negguide.mining.shards import SET, is_half_made, is_set, read_set
from negguide.mining.sources.hub import row_places
from negguide.storage import location
from negguide.text_files import full_table_rows, json_lines, read_json
from negguide.vlm.data.rows import FileImage, ImageSource, TableImage, TarImage, Triplet

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
SPLITS: Mapping[str, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"validation", "valid", "val", "dev"}),
    "test": frozenset({"test", "testing", "eval", "evaluation"}),
}
"""The words in a file's or a folder's name that say which split it is of, as the hub reads them."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image_file_name", "image", "file_name", "filepath", "filename", "anchor"),
    "caption": ("caption", "text", "title", "positive"),
    "negative_image": (
        "negative_image_file_name",
        "negative_image",
        "negative_file_name",
        "negative_filepath",
    ),
    "negative_caption": ("negative_caption", "negative_text", "negative_title", "negative"),
}
"""What a column may be called; the first that a row has is taken."""
_RIGHT = (
    "a set of negguide mine, a folder with metadata.jsonl, parquet or tar files, a .parquet or .tar file, a SugarCrepe "
    "or COCO .json, a .jsonl, or an open_clip .tsv or .csv"
)


def read_triplets(name: str, images: Path | None = None) -> list[Triplet]:
    """The rows of the training set `name`, in order; images are not opened.

    Args:
        name: a set of negguide mine, or what negguide export made of it; a folder that holds `metadata.jsonl` (in
            it or in its folders), `*.parquet`, `*.tar` or `*.tsv` files; one such file; a SugarCrepe JSON
            (`{"0": {"filename", "caption", "negative_caption"}}`); COCO captions (`images` and `annotations`);
            or a TSV or CSV with a header (`filepath`, `title`). Columns may be called as in `NAMES`, with
            `source_id`, `positive_captions` and `category` beside them; a `source_id` counts within its folder. Of a
            folder whose files are named by splits (`SPLITS`), those of the others than "train" are left out, and a
            warning says so.
        images: where the files that a JSON, JSON Lines, TSV or CSV file names are; by default beside it, or for a
            JSON in `images` beside it where there is such a folder.

    Raises:
        ValueError: there is no such set, `images` is given for one that holds its images, a folder has several splits
            and none to train on, or a row lacks its image or caption, with the row.
    """
    path = location(name, "--train-data")
    if path.is_dir():
        return _folder(path, images)
    if not path.is_file():
        raise ValueError(f"train_data={name!r} does not exist; give {_RIGHT}")
    match path.suffix.lower():
        case ".parquet":
            _refuse(images, path)
            return _parquet([path])
        case ".tar":
            _refuse(images, path)
            return _tars([path])
        case ".json":
            return _json(path, images)
        case ".tsv" | ".csv":
            return _separated(path, images or path.parent)
        case ".jsonl":
            return _lines(path, images or path.parent)
    raise ValueError(f"train_data={name!r} is of no known kind; give {_RIGHT}")


def _refuse(images: Path | None, path: Path) -> None:
    if images is not None:
        raise ValueError(
            f"images={str(images)!r} has no meaning for {path}, which holds its images or says where they are; leave "
            "it out"
        )


def _folder(folder: Path, images: Path | None) -> list[Triplet]:
    if is_set(folder):
        _refuse(images, folder)
        return _mined(folder)
    mined = sorted(path.parent for path in folder.rglob(SET) if is_set(path.parent))
    for pattern in (METADATA, "*.parquet", "*.tar", "*.tsv"):
        files = sorted(
            path
            for path in folder.rglob(pattern)
            if not _hidden(path, folder) and not any(path.is_relative_to(one) for one in mined)
        )
        if files:
            break
    else:
        files = sorted(folder.glob("*.json")) if (folder / "images").is_dir() else []
    if mined:
        return _several(folder, mined, files, images)
    if not files:
        raise ValueError(f"train_data={str(folder)!r} holds no set; give {_RIGHT}")
    files = _to_train_on(files, folder)
    if pattern in ("*.parquet", "*.tar"):
        _refuse(images, folder)
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)
    rows = []
    for place, own in by_folder.items():
        # two sets may number their sources alike
        prefix = place.relative_to(folder).as_posix() if len(by_folder) > 1 else ""
        rows += [
            replace(triplet, source=f"{prefix}/{triplet.source}") if prefix else triplet
            for triplet in _read_files(own, images)
        ]
    return rows


def _several(
    folder: Path, mined: Sequence[Path], others: Sequence[Path], images: Path | None
) -> list[Triplet]:
    """The rows of all sets of `negguide mine` in a folder, which may number their sources alike."""
    if others:
        raise ValueError(
            f"train_data={str(folder)!r} holds sets of `negguide mine` ({mined[0].relative_to(folder)}) and other "
            f"files ({others[0].relative_to(folder)}); give one of them, or a folder of sets of one kind"
        )
    _refuse(images, folder)
    return [
        replace(triplet, source=f"{one.relative_to(folder).as_posix()}/{triplet.source}")
        for one in mined
        for triplet in _mined(one)
    ]


def _read_files(paths: Sequence[Path], images: Path | None) -> list[Triplet]:
    """The rows of files of one kind in one folder."""
    match paths[0].suffix:
        case ".parquet":
            return _parquet(paths)
        case ".tar":
            return _tars(paths)
        case ".tsv":
            return [triplet for path in paths for triplet in _separated(path, images or path.parent)]
        case ".json":
            return [triplet for path in paths for triplet in _json(path, images or path.parent / "images")]
    return [triplet for path in paths for triplet in _lines(path, images or path.parent)]


def _to_train_on(files: list[Path], folder: Path) -> list[Path]:
    """The files of the train split, and those whose names tell no split; a folder of one split is that split."""
    of_split: dict[str, list[Path]] = {}
    for path in files:
        of_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    others = of_split.keys() - {"train", ""}
    if not others or len(of_split) == 1:
        return files
    kept = [path for path in files if _split_of(path.relative_to(folder)) not in others]
    if not kept:
        raise ValueError(
            f"train_data={str(folder)!r} holds the splits {', '.join(sorted(others))} and none to train on; give the "
            "folder or file of one of them"
        )
    logger.warning(
        "%s: %d of %d files are trained on; those of %s are left out",
        folder,
        len(kept),
        len(files),
        " and ".join(sorted(others)),
    )
    return kept


def _split_of(path: Path) -> str:
    """ "" where no name tells it; the nearest name counts."""
    for name in (path.stem, *map(str, reversed(path.parent.parts))):
        words = set(re.split(r"[^a-z]+", name.lower()))
        for split, said in SPLITS.items():
            if words & said:
                return split
    return ""


def _hidden(path: Path, folder: Path) -> bool:
    """Half-written parts have names that begin with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _mined(folder: Path) -> list[Triplet]:
    if is_half_made(folder):
        logger.warning("%s is not complete: what `negguide mine` has made of it so far is trained on", folder)
    rows = []
    for item, shard in read_set(folder):
        files = item.files(shard)
        if "image" not in files:
            raise ValueError(
                f"{folder} holds captions alone (item {item.id}), and training needs images; mine it from an input "
                "with images"
            )
        negative = files.get("negative_image")
        rows.append(
            Triplet(
                id=item.id,
                source=item.source_id,
                image=FileImage(files["image"]),
                caption=item.caption,
                negative_caption=item.negative_caption,
                negative_image=None if negative is None else FileImage(negative),
                positive_captions=tuple(item.positive_captions),
                category=item.category,
                prompt=item.prompt or "",
            )
        )
    return rows


def _lines(path: Path, images: Path) -> list[Triplet]:
    return [_from_files(row, images, f"{path}, line {number}") for number, row in json_lines(path)]


def _json(path: Path, images: Path | None) -> list[Triplet]:
    content = read_json(path)
    if isinstance(content, Mapping) and {"images", "annotations"} <= set(content):
        return _coco(path, images)
    if not isinstance(content, Mapping | list):
        raise ValueError(
            f"{path} holds {type(content).__name__}; SugarCrepe's JSON is {{number: {{filename, ...}}}}"
        )
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    beside = path.parent / "images"
    folder = images or (beside if beside.is_dir() else path.parent)
    return [_from_files(row, folder, f"{path}, row {key}", str(key)) for key, row in pairs]


def _coco(path: Path, images: Path | None) -> list[Triplet]:
    """COCO captions: plain pairs, without negatives."""
    from negguide.mining.sources.files import CocoCaptions

    rows = []
    for note in CocoCaptions(path, images=images).notes():
        where = f"{path}, annotation {note.id}"
        if note.image is None:
            raise ValueError(f"{where}: no image has the id {note.image_id}")
        row = {"id": note.id, "caption": note.caption}
        rows.append(_triplet(row, FileImage(note.image), None, where))
    return rows


def _separated(path: Path, images: Path) -> list[Triplet]:
    return [_from_files(row, images, f"{path}, line {number}") for number, row in full_table_rows(path)]


def _from_files(row: Any, folder: Path, where: str, key: str | None = None) -> Triplet:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: a row is a JSON object, got {type(row).__name__}")
    if key is not None and row.get("id") is None:
        row = {**row, "id": key}
    image = _value(row, "image")
    negative = _value(row, "negative_image")
    for value in (image, negative):
        if not isinstance(value, str | None):
            raise ValueError(f"{where}: an image is given by its file name, got {value!r}")
    return _triplet(
        row,
        FileImage(folder / image) if image else None,
        FileImage(folder / negative) if negative else None,
        where,
    )


def _parquet(paths: Sequence[Path]) -> list[Triplet]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "parquet files are read by the package datasets; install it with pip install datasets"
        ) from error
    from pyarrow.parquet import read_metadata

    files = [str(path) for path in paths]
    table = datasets.load_dataset("parquet", data_files=files, split="train")
    present = {kind: next((c for c in NAMES[kind] if c in table.column_names), None) for kind in NAMES}
    columns = [c for c in (present["image"], present["negative_image"]) if c is not None]
    for column in columns:
        if not isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image())
        table = table.cast_column(column, datasets.Image(decode=False))
    texts = table.remove_columns(columns)
    filled = {column: table.data.column(column).is_valid().to_pylist() for column in columns}
    rows = []
    folders = (path.parent for path in paths for _ in range(read_metadata(path).num_rows))
    for i, (row, where, folder) in enumerate(zip(texts, row_places(paths), folders, strict=True)):
        image, negative = (
            TableImage(table, i, column, where, folder) if column is not None and filled[column][i] else None
            for column in (present["image"], present["negative_image"])
        )
        rows.append(_triplet(row, image, negative, where))
    return rows


def _tars(paths: Sequence[Path]) -> list[Triplet]:
    return [triplet for path in paths for triplet in _tar(path)]


def _tar(path: Path) -> Iterator[Triplet]:
    """A WebDataset shard: the members up to the first dot of their names are one row."""
    rows: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                key, _, suffix = file.partition(".")
                if not member.isfile() or not key:
                    continue
                row = rows.setdefault(f"{folder}/{key}" if folder else key, {"id": key})
                content = tar.extractfile(member)
                assert content is not None  # it is a file
                kind, ending = suffix.lower().rpartition(".")[::2]
                # "0.mask.png" and the like are neither image nor negative
                role = kind if kind in ("", "negative") else None
                if ending in SUFFIXES and role is not None:
                    place = "negative_image" if role else "image"
                    row[place] = TarImage(path, member.name, member.offset_data, member.size)
                elif ending == "txt" and role is not None:
                    row["negative_caption" if role else "caption"] = _text(content.read(), path, member.name)
                elif ending == "json":
                    notes = _notes(content.read(), path, member.name)
                    row |= {k: v for k, v in notes.items() if k not in ("image", "negative_image")}
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is no uncompressed tar file of WebDataset: {error}") from error
    for key, row in rows.items():
        yield _triplet(row, row.get("image"), row.get("negative_image"), f"{path}, key {key}")


def _text(content: bytes, path: Path, member: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {member} is not UTF-8 ({error.reason} at byte {error.start})") from error


def _notes(content: bytes, path: Path, member: str) -> Mapping[str, Any]:
    try:
        notes = json.loads(_text(content, path, member))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {member} is no JSON: {error}") from error
    if not isinstance(notes, Mapping):
        raise ValueError(f"{path}: {member} must hold an object, got {type(notes).__name__}")
    return notes


def _triplet(
    row: Mapping[str, Any], image: ImageSource | None, negative: ImageSource | None, where: str
) -> Triplet:
    caption = _value(row, "caption")
    for what, value in (("image", image), ("caption", caption)):
        if not value:
            raise ValueError(
                f"{where}: no {what}; its column is one of {', '.join(NAMES[what])}, and the row has "
                f"{', '.join(map(str, row))}"
            )
    assert image is not None
    negative_caption = _value(row, "negative_caption")
    if isinstance(negative_caption, str) and not negative_caption.strip():
        negative_caption = None
    positives = row.get("positive_captions") or ()
    if isinstance(positives, str):
        # in a cell of a text table, as `negguide mine --columns` writes it
        positives = _list(positives, where) if positives.startswith("[") else (positives,)
    if not isinstance(positives, list | tuple):
        raise ValueError(f"{where}: positive_captions={positives!r} is no list of sentences")
    for positive in positives:
        if not isinstance(positive, str) or not positive.strip():
            raise ValueError(
                f"{where}: {positive!r} in positive_captions is no sentence; mend it or leave it out"
            )
    return Triplet(
        id=where if row.get("id") is None else str(row["id"]),
        source=str(row.get("source_id") or image.name),
        image=image,
        caption=caption,
        negative_caption=negative_caption,
        negative_image=negative,
        positive_captions=tuple(positives),
        category=str(row.get("category") or row.get("negative_category") or ""),
        prompt=str(row.get("prompt") or ""),
    )


def _list(text: str, where: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: positive_captions is no JSON list: {error}") from error
    return list(found)


def _value(row: Mapping[str, Any], kind: str) -> Any:
    return next((row[name] for name in NAMES[kind] if row.get(name) is not None), None)
