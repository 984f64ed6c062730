"""Items as rows of parquet files, with their images inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from negguide.mining.item import Item

if TYPE_CHECKING:
    from datasets import Features

IMAGES = ("image", "negative_image", "control_image")
"""The columns of images: the roles of `Item.files`."""
_AS_JSON = ("methods", "extra")


def datasets_package() -> Any:
    """The package ``datasets``."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("parquet needs datasets: pip install datasets") from error
    return datasets


def item_features(file_names: bool = False) -> Features:
    """The columns, images first; ``methods`` and ``extra`` differ from item to item: as JSON.

    Args:
        file_names: also the file names of the images as the item has them, so that it can be read back.
    """
    datasets = datasets_package()
    text, whole = datasets.Value("string"), datasets.Value("int64")
    features: Features = datasets.Features(
        {name: datasets.Image() for name in IMAGES}
        | dict.fromkeys(("caption", "negative_caption", "category", "id", "source_id"), text)
        | {"positive_captions": datasets.Sequence(text)}
        | {"start": whole, "end": whole, "before": text, "after": text, "backend": text}
        | {"scores": datasets.Sequence(datasets.Value("float64")), "judge": text}
        | dict.fromkeys(("prompt", "model", "revision", "methods"), text)
        | {"seed": whole, "tries": whole, "licence": text, "extra": text}
        | ({f"{name}_file_name": text for name in IMAGES} if file_names else {})
    )
    return features


def item_cells(item: Item, images: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an item.

    Args:
        images: by role, as the feature ``Image`` stores them.
        features: of ``item_features``.
    """
    values: dict[str, Any] = item.row()
    values |= {name: json.dumps(values[name], ensure_ascii=False) for name in _AS_JSON}
    return {name: images.get(name) if name in IMAGES else values[name] for name in features}


def item_of(cells: Mapping[str, Any]) -> Item:
    """The item of a row with file names; the inverse of ``item_cells``.

    Raises:
        KeyError, TypeError, ValueError: it is no such row.
    """
    values = {name: value for name, value in cells.items() if name not in IMAGES}
    return Item.from_row(values | {name: json.loads(values[name]) for name in _AS_JSON})
