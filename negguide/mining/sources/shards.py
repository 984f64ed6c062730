"""WebDataset shards as an input."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from negguide.image_files import SUFFIXES, read_image
from negguide.mining.item import Source, StoredImage
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
from negguide.storage import location

TEXTS = ("txt", "caption", "text")


class Shards(Input):
    """WebDataset shards: files with a shared key, an image, and a caption in ``.txt`` or in a ``.json``.

    A ``.json`` may hold ``caption`` or ``text``, and ``licence`` or ``license``; a ``.mask.png`` (or another image) is
    the mask. The id is the shard's name and the key, "00000/000000012". A shard that breaks off is a ``BadSource`` of
    its own; the others are read.

    Args:
        pattern: a folder, a glob ("data/*.tar") or a brace pattern ("data/{00000..00012}.tar").
        caption: the key of the caption in the ``.json``; None finds it.
    """

    def __init__(self, pattern: str, caption: str | None = None, licence: str | None = None) -> None:
        try:
            import webdataset
        except ImportError as error:
            raise ImportError(f"{pattern}: pip install webdataset to read WebDataset shards") from error
        from braceexpand import braceexpand

        self._read = webdataset.tariterators
        self.caption = caption
        self.licence = licence
        self.name = pattern.rstrip("/").rpartition("/")[2]
        place = location(pattern, "--data")
        if place.is_dir():
            self.paths = sorted(place.glob("*.tar"))
        elif place.is_file():
            self.paths = [place]
        else:
            self.paths = [path for part in braceexpand(pattern) for path in _matching(part)]
        if not self.paths:
            raise ValueError(f"{pattern} names no .tar file")
        twice = [stem for stem, count in Counter(path.stem for path in self.paths).items() if count > 1]
        if twice:
            raise ValueError(
                f"{pattern} names several shards {twice[0]}.tar, and ids begin with a shard's name; rename them"
            )

    @property
    def description(self) -> dict[str, Any]:
        """What it is, as JSON, with the names of its files, and the key of the caption where it was chosen."""
        chosen = {} if self.caption is None else {"caption": self.caption}
        return {**super().description, "shards": [path.name for path in self.paths], **chosen}

    @property
    def shards(self) -> int:
        """How many files."""
        return len(self.paths)

    def shard_print(self, shard: int) -> str | None:
        """Of the file."""
        return file_print(self.paths[shard])

    def rows(self) -> Iterator[Source | BadSource]:
        """The pairs in their order."""
        for shard in range(self.shards):
            yield from self.shard_rows(shard)

    def shard_rows(self, shard: int) -> Iterator[Source | BadSource]:
        """The pairs of one file."""
        path = self.paths[shard]
        ids = Ids()
        try:
            with path.open("rb") as stream:
                for sample in self._read.group_by_keys(self._files(stream)):
                    yield from self._sources(f"{path.stem}/{sample['__key__']}", sample, ids)
        except (tarfile.TarError, OSError, EOFError) as error:
            reason = str(error.args[0] if error.args else error).partition("\n")[0]
            yield BadSource(f"{path.stem}", f"broken shard: {reason}")

    def _files(self, stream: Any) -> Iterator[dict[str, Any]]:
        """The members of a tar, as webdataset groups them."""
        for member in self._read.tar_file_iterator(stream):
            yield {**member, "__url__": ""}

    def _sources(self, name: str, sample: Mapping[str, Any], ids: Ids) -> Iterator[Source | BadSource]:
        try:
            notes = json.loads(sample.get("json", b"{}"))
            # a byte-order mark is no part of a caption
            said = next((sample[text].decode("utf-8-sig") for text in TEXTS if text in sample), None)
        except ValueError as error:
            yield BadSource(name, f"broken caption: {error}")
            return
        if not isinstance(notes, dict):
            yield BadSource(name, "broken caption: its .json is no object")
            return
        names = (self.caption,) if self.caption else CAPTION_COLUMNS
        if self.caption or said is None:
            said = next((notes[key] for key in names if notes.get(key) is not None), None)
        kind = next((kind for kind in SUFFIXES if kind in sample), None)
        if kind is None:
            others = ", ".join(key for key in sample if not key.startswith("__"))
            yield BadSource(name, f"missing image: none among {others or 'nothing'}")
            return
        captions = captions_of(said)
        mask = next((f"mask.{ending}" for ending in SUFFIXES if f"mask.{ending}" in sample), None)

        def member(ending: str) -> str:
            return f"{name.partition('/')[0]}.tar: {sample['__key__']}.{ending}"

        source = Source(
            id=name,
            caption=captions[0],
            load=partial(read_image, sample[kind], name=member(kind)),
            mask=None if mask is None else partial(read_image, sample[mask], "L", name=member(mask)),
            licence=next((text_of(notes[k]) for k in LICENCE_COLUMNS if notes.get(k)), self.licence),
            stored=StoredImage(partial(bytes, sample[kind])),
        )
        if len(captions) == 1:
            yield source
        else:
            yield from with_captions(source, captions, ids)


def _matching(part: str) -> list[Path]:
    if any(sign in part for sign in "*?["):
        folder, _, names = part.rpartition("/")
        if any(sign in folder for sign in "*?["):
            raise ValueError(
                f"{part}: only the names of files may have the signs *, ? and [, not those of folders"
            )
        return sorted(location(folder or ".", "--data").glob(names))
    path = location(part, "--data")
    if not path.is_file():
        raise ValueError(f"there is no shard {part}")
    return [path]
