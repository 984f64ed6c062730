"""Small sets on disk whose tells are known, because they were planted."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from negguide.mining.item import Item
from negguide.toyworld import BACKGROUNDS, FURS, KINDS, Character, Scene, caption, render

Change = Callable[[int, Item], Item]
Blur = Callable[[Image.Image], Image.Image]


def unchanged(number: int, item: Item) -> Item:
    return item


def soft(image: Image.Image) -> Image.Image:
    """What a model that draws through an autoencoder might do."""
    return image.filter(ImageFilter.GaussianBlur(0.8))


def other(rng: random.Random, values: tuple[str, ...], value: str) -> str:
    return rng.choice([v for v in values if v != value])


def edited(rng: random.Random, category: str) -> tuple[Scene, Scene]:
    """A scene and what it becomes, so that neither of them is told by its words."""
    bear = Character(rng.choice(KINDS), rng.choice(FURS), "front")
    place = rng.choice(BACKGROUNDS)
    hat = rng.choice(("red", "green", "blue"))
    if category == "object":
        changed = replace(bear, kind=other(rng, KINDS, str(bear.kind)))
    elif category == "attribute":
        changed = replace(bear, fur=other(rng, FURS, str(bear.fur)))
    elif category == "add":
        changed = replace(bear, hat=hat)
    else:
        bear, changed = replace(bear, hat=hat), bear
    return Scene((bear,), place), Scene((changed,), place)


def write_set(
    folder: Path,
    count: int,
    *,
    categories: tuple[str, ...] = ("object", "attribute", "add", "remove"),
    change: Change = unchanged,
    negative: Blur | None = None,
    control: Blur | None = None,
    controls: bool = False,
    images: bool = True,
    per_source: int = 1,
    seed: int = 0,
) -> Path:
    """Write a set of ``count`` pairs in shards of 50.

    Args:
        change: what is done to each item before it is written, e.g. to plant a tell.
        negative, control: what is done to these images.
        controls: also render the original captions.
        images: write the image files.
        per_source: pairs of one source in a row.
    """
    rng = random.Random(seed)
    rows: dict[Path, list[str]] = {}
    for number in range(count):
        category = categories[number % len(categories)]
        scene, wrong = edited(rng, category)
        place = folder / "data" / f"{number // 50:05d}"
        place.mkdir(parents=True, exist_ok=True)
        text, other_text = caption(scene), caption(wrong)
        item = Item(
            id=f"toy-{number}",
            source_id=f"source-{number // per_source}",
            image_file_name=f"{number}.png",
            negative_image_file_name=f"{number}-negative.png",
            caption=text,
            negative_caption=other_text,
            category=category,
            **span(text, other_text),
            backend="rules",
            scores=(0.9, 0.1, 0.2, 0.8),
            judge="toyworld",
            prompt=other_text,
            model="toyworld",
            revision="0123",
            methods=[{"type": "PerpNeg", "weight": 1.5}],
            seed=number,
            tries=1,
            positive_captions=(text.replace("a ", "one ", 1),),
            control_image_file_name=f"{number}-control.png" if controls else None,
            licence="CC0-1.0",
        )
        item = change(number, item)
        rows.setdefault(place, []).append(json.dumps(item.row()))
        drawn = (
            (item.image_file_name, scene, number, None),
            (item.negative_image_file_name, wrong, number + 10_000, negative),
            (item.control_image_file_name, scene, number + 20_000, control),
        )
        for name, shown, noise, blur in drawn:
            if images and name is not None:
                save(render(shown, 64, seed=noise), place / name, blur)
    for place, lines in rows.items():
        (place / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (place / "shard.json").write_text(json.dumps({"items": len(lines)}) + "\n")
    (folder / "set.json").write_text(json.dumps({"seed": seed}) + "\n")
    return folder


def span(text: str, other_text: str) -> dict[str, Any]:
    """Where two captions differ, as an edit says it."""
    start = 0
    while text[start : start + 1] == other_text[start : start + 1] and start < min(
        len(text), len(other_text)
    ):
        start += 1
    end, other_end = len(text), len(other_text)
    while min(end, other_end) > start and text[end - 1] == other_text[other_end - 1]:
        end, other_end = end - 1, other_end - 1
    return {"start": start, "end": end, "before": text[start:end], "after": other_text[start:other_end]}


def save(image: Image.Image, path: Path, change: Blur | None) -> None:
    (image if change is None else change(image)).save(path)


def spaced_stop(number: int, item: Item) -> Item:
    """The tell of ARO: negatives are put together from tokens again."""
    return replace(item, negative_caption=item.negative_caption + " .")


def longer(number: int, item: Item) -> Item:
    return replace(item, negative_caption=item.negative_caption + " somewhere")
