"""A scene as a row of class numbers, the form that classifiers of scenes learn and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negguide.toyworld.scene import (
    ACCESSORIES,
    ANY_COLOR,
    BACKGROUNDS,
    COLORS,
    FURS,
    KINDS,
    MAX_COUNT,
    VIEWS,
    Character,
    Scene,
)


@dataclass(frozen=True)
class Field:
    """One thing to be read: the options are class numbers 0, 1, ...; ``slot`` is the place from the left."""

    name: str
    options: tuple[str | None, ...]
    slot: int | None = None


def _character_fields(slot: int, *, words: bool) -> list[Field]:
    colors = (None, *COLORS, ANY_COLOR) if words else (None, *COLORS)
    return [
        Field("kind", (None, *KINDS), slot),
        Field("fur", (None, *FURS), slot),
        Field("view", (None, *VIEWS), slot),
        *(Field(name, colors, slot) for name in ACCESSORIES),
    ]


def fields(*, words: bool = False) -> tuple[Field, ...]:
    """What is read from a picture; with ``words=True``, from a caption (colours may be left open, "an explorer")."""
    rows = [
        Field("count", tuple(str(n) for n in range(MAX_COUNT + 1))),
        Field("background", (None, *BACKGROUNDS)),
    ]
    if words:
        rows.append(Field("explorer", (None, "yes")))
    for slot in range(MAX_COUNT):
        rows += _character_fields(slot, words=words)
    return tuple(rows)


def encode(scenes: Sequence[Scene], rows: Sequence[Field]) -> Tensor:
    """Class numbers, int64 [len(scenes), len(rows)]; slots without a character are ``None`` throughout."""
    return torch.tensor([[row.options.index(_value(scene, row)) for row in rows] for scene in scenes])


def _value(scene: Scene, row: Field) -> str | None:
    if row.name == "count":
        return str(scene.count)
    if row.name == "background":
        return scene.background
    if row.name == "explorer":
        return "yes" if scene.explorer else None
    if row.slot is None or row.slot >= scene.count:
        return None
    value: str | None = getattr(scene.left_to_right[row.slot], row.name)
    return value


def decode(classes: Tensor, rows: Sequence[Field]) -> list[Scene]:
    """Scenes from class numbers [B, len(rows)]; of two characters, the first is the left one."""
    return [
        _scene({(r.name, r.slot): r.options[c] for r, c in zip(rows, row, strict=True)})
        for row in classes.tolist()
    ]


def _scene(values: Mapping[tuple[str, int | None], str | None]) -> Scene:
    names = ("kind", "fur", "view", *ACCESSORIES)
    count = int(values["count", None] or 0)
    characters = tuple(Character(**{name: values[name, slot] for name in names}) for slot in range(count))
    relation = "left" if count == 2 and characters[0] != characters[1] else None
    return Scene(characters, values["background", None], relation)
