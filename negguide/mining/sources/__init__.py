"""Read image-caption pairs, whatever they are stored in, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from negguide._utils.hub import is_hub_id
from negguide.domain import registered_domains
from negguide.mining.sources.source import BadSource, Input, caption_problem
from negguide.storage import location

__all__ = ["BadSource", "Input", "caption_problem", "open_source"]

_RIGHT = (
    "a folder (with metadata.jsonl, of save_to_disk, with .tar or .parquet files), a .parquet, .tsv, .csv "
    "or COCO .json file, a glob or brace pattern of .tar files, or a data set on the hub (owner/name)"
)


def open_source(spec: str, **options: Any) -> Input:
    """The input that ``spec`` names.

    Args:
        spec: one of

            - ``toyworld:N``: N scenes of the toy world (options ``seed``, ``size``); so of any domain by its name;
            - an imagefolder, or its ``metadata.jsonl`` (``caption``, ``licence``);
            - a folder written by ``save_to_disk``, a parquet file or a folder with such, or a name on the hub like
              "owner/name" (``split``, ``config``, ``caption``, ``licence``);
            - WebDataset shards: a folder, a glob or a brace pattern (``caption``, ``licence``);
            - an open_clip table, .tsv or .csv (``caption``, ``licence``);
            - COCO captions, .json (``images``: their folder; ``licence``).

            Each may be an address that fsspec knows instead of a path: s3://, gs://, hf://, memory://.
        options: those of that kind, named above; None counts as not given.

    Raises:
        TypeError: an option that this kind does not have.
        ValueError: ``spec`` names nothing, or something that is no input.
        ImportError: a package of the extra "mining" is missing; the message says how to install it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    kind, build = _kind(spec)
    try:
        return build(**given)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        raise TypeError(f"{unknown[1]}={given[unknown[1]]!r} has no meaning for {spec}, {kind}") from error


def _kind(spec: str) -> tuple[str, Callable[..., Input]]:
    """What ``spec`` is, in words, and what opens it."""
    name, _, number = spec.partition(":")
    if domain := registered_domains().get(name):
        if not number.isdecimal():
            raise ValueError(
                f"{spec!r} is no input; {domain.title} needs a number of pairs, as in {name}:200"
            )
        return domain.title, partial(domain.source, int(number))
    path = location(spec, "--data")
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".tar" or spec.endswith(".tar"):
        from negguide.mining.sources.shards import Shards

        return "WebDataset shards", partial(Shards, str(path))
    if path.is_file():
        from negguide.mining.sources.files import CocoCaptions, ImageFolder, Table

        suffix = path.suffix.lower()
        if suffix == ".parquet":
            from negguide.mining.sources.hub import DataSet

            return "a data set on disk", partial(DataSet, str(path))
        if suffix in (".tsv", ".csv"):
            return "a table", partial(Table, path)
        if suffix == ".json":
            return "COCO captions", partial(_coco, CocoCaptions, path)
        if suffix == ".jsonl":
            return "an imagefolder", partial(ImageFolder, path)
        raise ValueError(f"{spec!r} is no input that is known; use {_right()}")
    if is_hub_id(spec, owner=False) and not path.suffix:
        from negguide.mining.sources.hub import DataSet

        return "a data set on the hub", partial(DataSet, spec)
    raise ValueError(f"there is no {spec!r}; use {_right()}")


def _right() -> str:
    """What an input can be, for messages."""
    return ", ".join([*(f"{name}:N" for name in registered_domains()), _RIGHT])


def _folder(path: Path) -> tuple[str, Callable[..., Input]]:
    if (path / "metadata.jsonl").is_file():
        from negguide.mining.sources.files import ImageFolder

        return "an imagefolder", partial(ImageFolder, path)
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")) or any(
        path.rglob("*.parquet")
    ):
        from negguide.mining.sources.hub import DataSet

        return "a data set on disk", partial(DataSet, str(path))
    if any(path.glob("*.tar")):
        from negguide.mining.sources.shards import Shards

        return "WebDataset shards", partial(Shards, str(path))
    raise ValueError(
        f"the folder {str(path)!r} is no input: it holds no metadata.jsonl, no data set of save_to_disk, no .parquet "
        "and no .tar files"
    )


def _coco(build: Callable[..., Input], path: Path, images: str | Path | None = None, **options: Any) -> Input:
    return build(path, images=None if images is None else location(str(images), "--images"), **options)
