"""The pairs of the tab "Hard negatives", and the set that they are packed into."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.demo.backend import Run
from negguide.demo.words import as_markdown
from negguide.mining.edits import Planner
from negguide.mining.item import Edit, Item
from negguide.mining.mined import Mined
from negguide.mining.settings import Settings
from negguide.mining.shards import SetFolder, read_set, read_settings
from negguide.pictures import versions

SET = "set"
_SHARD = "00000000"
_ORIGINAL = "images/original.png"


@dataclass(frozen=True)
class Pair:
    """A negative of the original: its words, its picture, the judge's four scores, and what is wrong with it."""

    edit: Edit
    image: Image.Image
    scores: tuple[float, float, float, float]
    objections: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Original:
    """What the pairs are negatives of; `painted` by the model, or drawn or given."""

    caption: str
    image: Image.Image
    painted: bool


def settings_of(
    run: Run, planner: Planner, categories: Sequence[str], edits: int, how: Mapping[str, Any]
) -> Settings:
    """The settings of the set, as `negguide mine` stores them; `how` holds model, revision, judge, method, weight."""
    return Settings(
        data={"name": "demo", "caption": run.prompt},
        planner=planner.description,
        categories=tuple(categories),
        per_item=edits,
        steps=run.steps,
        guidance_scale=run.guidance_scale,
        batch_size=1,
        seed=run.seeds[0],
        **how,
    )


def write_set(folder: Path, settings: Settings, original: Original, pairs: Sequence[Pair]) -> None:
    """Write all pairs, whatever the judge said, as a set of the mining format."""
    images = {_ORIGINAL: original.image}
    items = []
    for number, pair in enumerate(pairs, 1):
        name = f"images/{number}-negative.png"
        images[name] = pair.image
        edit = pair.edit
        items.append(
            Item(
                id=str(number),
                source_id="demo",
                image_file_name=_ORIGINAL,
                negative_image_file_name=name,
                caption=original.caption,
                negative_caption=edit.caption,
                category=edit.category,
                start=edit.start,
                end=edit.end,
                before=edit.before,
                after=edit.after,
                backend=edit.backend,
                scores=pair.scores,
                judge=settings.judge,
                prompt=edit.prompt,
                model=settings.model,
                revision=settings.revision,
                methods=[{"method": settings.method, "avoid": edit.avoid, "weight": settings.weight}],
                seed=settings.seed,
                tries=1,
                licence="unknown",
                extra={
                    "original": "painted" if original.painted else "input",
                    "by_the_judge": not pair.objections,
                },
            )
        )
    SetFolder(folder, settings, versions()).write(_SHARD, Mined(items=items, images=images), original.caption)


def pack(whole: Path, folder: Path, keep: Collection[str]) -> Path:
    """A zip of the pairs in the set `whole` whose ids are in `keep`, made in `folder`.

    Raises:
        ValueError: when there is none.
    """
    chosen = [(item, place) for item, place in read_set(whole) if item.id in keep]
    if not chosen:
        raise ValueError("No pair is kept; choose at least one.")
    files = {
        str(getattr(item, f"{role}_file_name")): file.read_bytes()
        for item, place in chosen
        for role, file in item.files(place).items()
    }
    part = folder / SET
    mined = Mined(items=[item for item, _ in chosen], files=files)
    written = SetFolder(part, read_settings(whole), versions())
    written.write(_SHARD, mined, chosen[0][0].caption)
    written.clean()
    path = folder / "hard-negatives.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(part.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(part))
    return path


def marked(edit: Edit) -> str:
    """The negative caption with what is new in bold; what is missing stands struck out."""
    head, tail = edit.caption[: edit.start], edit.caption[edit.start + len(edit.after) :]
    text, sign = (edit.after, "**") if edit.after.strip() else (edit.before, "~~")
    inner = text.strip()
    if not inner:
        return as_markdown(edit.caption)
    before, after = text.split(inner, 1)
    return f"{as_markdown(head)}{before}{sign}{as_markdown(inner)}{sign}{after}{as_markdown(tail)}"
