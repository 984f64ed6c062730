"""The sets of benchmarks/vlm.py: negatives that are mined or rendered, and pairs without negatives beside them.

A set's folder is named by its recipe (what it is made of, the version of negguide and the weights), so that a set of
another recipe is never taken for it.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from report import STEPS, models
from tqdm import tqdm

import negguide
from negguide._utils.files import whole_file
from negguide.models import revision
from negguide.storage import write_whole
from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.toyworld.measure import draw
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.rows import ImageSource

POSITIVES = 2
"""Paraphrases of every caption."""


@dataclass(frozen=True)
class Part:
    """A part of the set: at most ``per_item`` edits of some categories for each of the first ``pairs`` scenes."""

    pairs: int
    per_item: int
    categories: tuple[str, ...]
    views: bool = False


def parts(order_pairs: int, detail_pairs: int, presence_pairs: int) -> dict[str, Part]:
    """What the set is made of: edits that keep a caption's words, that exchange one, and that change its length.

    Who stands where, and who has what, is what the start model fails at (relation, swap), and only a quarter of the
    world's scenes has two characters who could be taken for each other: a set with the world's own shares would hold
    few of these edits. So they are asked for apart, of more scenes.
    """
    return {
        "order": Part(order_pairs, 4, ("relation", "swap")),
        "details": Part(detail_pairs, 4, ("object", "attribute", "count"), views=True),
        "presence": Part(presence_pairs, 2, ("add", "remove", "negation")),
    }


def recipe(asked: Mapping[str, Part], **more: Any) -> dict[str, Any]:
    """All that decides what is in a set, as JSON holds it."""
    return {
        "parts": {name: asdict(part) for name, part in asked.items()},
        "positives": POSITIVES,
        "steps": STEPS,
        "negguide": negguide.__version__,
        "weights": str(revision(TOYWORLD)),
        **more,
    }


def set_folder(work: Path, kind: str, made_of: Mapping[str, Any]) -> Path:
    """Where the set of a recipe lies; the recipe is in it."""
    text = json.dumps(made_of, sort_keys=True)
    folder = work / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(made_of, indent=1) + "\n")
    return folder


def mined_set(folder: Path, asked: Mapping[str, Part]) -> Path:
    """A set of `negguide mine` for every part, or what is missing of it; the folder of all is a set as well."""
    for name, part in asked.items():
        command = [sys.executable, "-m", "negguide", "mine", "--out", str(folder / name)]
        command += ["--data", f"toyworld:{part.pairs}", "--per-item", str(part.per_item)]
        command += ["--categories", ",".join(part.categories), *(["--views"] if part.views else [])]
        command += ["--positives", str(POSITIVES), "--controls", "0"]
        subprocess.run(command, check=True)
    return folder


def rendered_set(folder: Path, asked: Mapping[str, Part]) -> Path:
    """The same edits of the same scenes, drawn by the world itself."""
    for name, part in asked.items():
        _render(folder / name, part)
    return folder


def _render(folder: Path, part: Part) -> None:
    from negguide.mining.edits import make_planner, plan, plan_positives
    from negguide.toyworld import parse, render
    from negguide.toyworld.source import ToyworldScenes

    done = folder / "metadata.jsonl"
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    planner = make_planner("rules", world="toyworld", views=part.views)
    rows = []
    for source in tqdm(ToyworldScenes(part.pairs).rows(), total=part.pairs, desc="rendering"):
        rng = random.Random(f"vlm-{source.id}")
        pose = rng.getrandbits(32)
        edits, _ = plan(source.caption, planner, categories=part.categories, per_item=part.per_item, rng=rng)
        if not edits:
            continue
        positives, _ = plan_positives(source.caption, planner, count=POSITIVES, rng=rng)
        render(parse(source.caption), 64, pose).save(folder / f"{source.id}.png")
        for number, edit in enumerate(edits):
            name = f"{source.id}-{number}"
            render(parse(edit.prompt), 64, pose).save(folder / f"{name}.png")
            rows.append(
                {
                    "id": name,
                    "source_id": source.id,
                    "file_name": f"{source.id}.png",
                    "negative_file_name": f"{name}.png",
                    "caption": source.caption,
                    "negative_caption": edit.caption,
                    "positive_captions": [positive.caption for positive in positives],
                    "category": edit.category,
                    "prompt": edit.prompt,
                }
            )
    _write_lines(done, rows)


def plain_set(folder: Path, mined: Path, batch_size: int = 50) -> Path:
    """The items of ``mined`` with negative images by plain prompting, as they come; what is generated is kept."""
    from negguide.mining.shards import read_set

    done = folder / "metadata.jsonl"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # the parts number their items alike
    items: list[tuple[Any, Any, str]] = [
        (item, place, _file(f"{part.parent.name}/{item.id}"))
        for part in sorted(mined.glob("*/set.json"))
        for item, place in read_set(part.parent)
    ]
    pipe, _ = models()
    left = [(item, file) for item, _, file in items if not (folder / file).is_file()]
    for start in tqdm(range(0, len(left), batch_size), desc="plain prompting"):
        chosen = left[start : start + batch_size]
        images = draw(
            pipe,
            [item.prompt for item, _ in chosen],
            [item.seed for item, _ in chosen],
            steps=STEPS,
            guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        )
        for (_, file), image in zip(chosen, images, strict=True):
            with whole_file(folder / file) as partial:
                image.save(partial, format="PNG")
    rows = [
        {
            "id": item.id,
            "source_id": item.source_id,
            "file_name": _original(item, place, folder, f"original-{file}"),
            "negative_file_name": file,
            "caption": item.caption,
            "negative_caption": item.negative_caption,
            "positive_captions": list(item.positive_captions),
            "category": item.category,
            "prompt": item.prompt,
        }
        for item, place, file in items
    ]
    _write_lines(done, rows)
    return folder


def _stored(image: ImageSource, folder: Path) -> str:
    """The name of an image in ``folder``, where it is copied to: in its set it may be packed."""
    name = _file(image.name)
    if not (folder / name).is_file():
        (folder / name).write_bytes(image.read())
    return name


def _original(item: Any, place: Any, folder: Path, name: str) -> str:
    """The name of a pair's original in ``folder``, where it is copied to: in the set it may be packed."""
    (folder / name).write_bytes((place / item.image_file_name).read_bytes())
    return name


def keeping_set(folder: Path, negatives: Path, pairs: int, *, even_for: str | None = None) -> Path:
    """The rows of ``negatives``, and ``pairs`` scenes of the training split, captioned as for the start model.

    Batches of siblings are filled up with these pairs half and half. Where rows are drawn at random instead, the set
    itself has to be even: with ``even_for``, the category of the curriculum, each row with a negative comes as often as
    it takes for half of all rows to be such, and as many pairs as rows of that category are of the curriculum as well.
    """
    from negguide.toyworld import render
    from negguide.toyworld.language import training_caption
    from negguide.toyworld.scene import held_out, sample_scene

    done = folder / "metadata.jsonl"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    triplets = read_triplets(str(negatives))
    times = max(1, round(pairs / len(triplets))) if even_for else 1
    rows: list[dict[str, Any]] = [
        {
            "id": triplet.id if copy == 0 else f"{triplet.id}, copy {copy}",
            "source_id": triplet.source,
            "file_name": _stored(triplet.image, folder),
            "negative_file_name": triplet.negative_image and _stored(triplet.negative_image, folder),
            "caption": triplet.caption,
            "negative_caption": triplet.negative_caption,
            "positive_captions": list(triplet.positive_captions),
            "category": triplet.category,
            "prompt": triplet.prompt,
        }
        for copy in range(times)
        for triplet in triplets
    ]
    first = sum(row["category"] == even_for for row in rows)
    rng = random.Random("vlm pairs to keep")
    for number in tqdm(range(pairs), desc="pairs to keep"):
        scene = sample_scene(rng)
        while held_out(scene):
            scene = sample_scene(rng)
        file = f"kept-{number}.png"
        render(scene, 64, rng.getrandbits(32)).save(folder / file)
        row = {"id": f"kept-{number}", "file_name": file, "caption": training_caption(scene, rng)}
        # a curriculum takes rows by category, and those without one always
        rows.append(row | ({"category": even_for if number < first else "kept"} if even_for else {}))
    _write_lines(done, rows)
    return folder


def _file(name: str) -> str:
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.png"


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
