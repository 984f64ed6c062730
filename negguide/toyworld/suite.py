"""The suite of the embedded world: held-out scenes and their true renders, so both sides are exact.

An item is a scene, the same scene with exactly one change, their two captions and their two renders in the same
pose. Both scenes are held out (`negguide.toyworld.scene.held_out`), so no pair of the training split is among them.
The edits are the suite's own: it stays what it is when the planner of `negguide mine` changes. Whatever changes an
item (here, or in the world's scenes and captions) needs a new `VERSION`; a test compares `fingerprint`.

There are two draws of it. What was chosen by the figures of the first is reported on the second, whose pairs are all
others; only questions are kept out, not scenes, for without the world's favourite scenes it would be a harder suite.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import overload

from PIL import Image

from negguide.toyworld.domain import TOYWORLD
from negguide.toyworld.language import caption
from negguide.toyworld.render import render
from negguide.toyworld.scene import (
    ABSENT,
    ACCESSORIES,
    BACKGROUNDS,
    COLORS,
    FURS,
    KINDS,
    VIEWS,
    Character,
    Scene,
    held_out,
    is_trademark,
    sample_scene,
)
from negguide.vlm.evaluation.suites.base import Pair, Pairs, Retrieval, Suite, ZeroShot

VERSION = "1"
DRAWS = (1, 2)
PER_CATEGORY = 125
GALLERY = 500
CLASSIFIED = 500
PARAPHRASES = 3
TRIES = 12
WORDINGS_TRIED = 40
SIZE = 64
"""Side of the renders in pixels; what the embedded models see."""


Shown = tuple[object, ...]
"""All that is to be seen of a scene."""


@dataclass(frozen=True)
class SceneItem:
    """A scene and its edited scene, both complete; `first` and `second` are what the captions say of them.

    They differ from the scenes only in what is said not to be worn.
    """

    category: str
    scene: Scene
    edited: Scene
    first: Scene
    second: Scene
    pose: int

    @property
    def shown(self) -> frozenset[Shown]:
        """Both pictures, whichever comes first."""
        return frozenset((_image_key(self.scene), _image_key(self.edited)))


Edit = Callable[[Scene, random.Random], Scene | None]
"""The scene with one change, or None where there is nothing to change."""


def scene_items(category: str, count: int = PER_CATEGORY, draw: int = 1) -> list[SceneItem]:
    """The first `count` items of a category in a draw; the same ones in every run."""
    rng = _random(category, draw)
    asked = {item.shown for item in scene_items(category, draw=draw - 1)} if draw > 1 else set()
    found: list[SceneItem] = []
    seen: set[Shown] = set()
    while len(found) < count:
        scene = sample_scene(rng)
        if not _usable(scene) or _image_key(scene) in seen:
            continue  # the world's favourite scenes would come again and again
        edited = _edited(scene, EDITS[category], rng)
        if edited is None or _image_key(edited) in seen:
            continue
        if frozenset((_image_key(scene), _image_key(edited))) in asked:
            continue
        seen.update((_image_key(scene), _image_key(edited)))
        # the change is looked at from either side, so that neither the longer nor the common caption is the right one
        if rng.random() < 0.5 and category not in ("add", "remove"):
            scene, edited = edited, scene
        first, second = scene, edited
        if category == "negation":
            first, second = _denying(scene, edited), _denying(edited, scene)
        found.append(SceneItem(category, scene, edited, first, second, rng.getrandbits(32)))
    return found


def _random(purpose: str, draw: int) -> random.Random:
    drawn = f" draw {draw}" if draw > 1 else ""
    return random.Random(f"negguide toyworld suite {VERSION}{drawn} {purpose}")


def _edited(scene: Scene, edit: Edit, rng: random.Random) -> Scene | None:
    """A usable edit of `scene`; one in ten is, so several are tried."""
    for _ in range(TRIES):
        edited = edit(scene, rng)
        if edited is not None and _usable(edited) and _image_key(edited) != _image_key(scene):
            return edited
    return None


def _usable(scene: Scene) -> bool:
    """Held out, and said word by word: the trademark character's caption is a name."""
    return held_out(scene) and not any(is_trademark(c) for c in scene.characters)


def _image_key(scene: Scene) -> Shown:
    return (scene.left_to_right, scene.background)


def _denying(scene: Scene, other: Scene) -> Scene:
    """`scene`, saying that what only `other` has is not worn."""
    characters = tuple(
        replace(own, **{n: ABSENT for n in ACCESSORIES if getattr(own, n) is None and getattr(others, n)})
        for own, others in zip(scene.characters, other.characters, strict=True)
    )
    return replace(scene, characters=characters)


def _with(scene: Scene, place: int, **changes: str | None) -> Scene:
    """Change one character; of several equal ones, all, as their caption speaks of all."""
    everyone = scene.relation is None
    return replace(
        scene,
        characters=tuple(
            replace(c, **changes) if everyone or i == place else c for i, c in enumerate(scene.characters)
        ),
    )


def _any(scene: Scene, rng: random.Random) -> tuple[int, Character]:
    place = rng.randrange(scene.count)
    return place, scene.characters[place]


def _other(value: str | None, values: Sequence[str], rng: random.Random) -> str:
    return rng.choice([v for v in values if v != value])


def _object(scene: Scene, rng: random.Random) -> Scene:
    """Another kind, or another place."""
    if rng.random() < 0.25:
        return replace(scene, background=_other(scene.background, BACKGROUNDS, rng))
    place, character = _any(scene, rng)
    return _with(scene, place, kind=_other(character.kind, KINDS, rng))


def _attribute(scene: Scene, rng: random.Random) -> Scene:
    """Another fur, view, or colour of something worn."""
    place, character = _any(scene, rng)
    values = {"fur": FURS, "view": VIEWS} | {name: COLORS for name, _ in character.worn}
    name = rng.choice(list(values))
    return _with(scene, place, **{name: _other(getattr(character, name), values[name], rng)})


def _count(scene: Scene, rng: random.Random) -> Scene | None:
    """Another number of equal characters; rarely from one on, as the world shows single ones six times as often."""
    if scene.relation is not None or (scene.count == 1 and rng.random() < 0.98):
        return None
    number = rng.choice([n for n in (1, 2, 3) if n != scene.count])
    return replace(scene, characters=scene.characters[:1] * number)


def _relation(scene: Scene, rng: random.Random) -> Scene | None:
    """The other side."""
    if scene.relation is None:
        return None
    return replace(scene, relation="left" if scene.relation == "right" else "right")


def _swap(scene: Scene, rng: random.Random) -> Scene | None:
    """Two characters exchange their kind, their fur, or an accessory (which one of them may lack)."""
    if scene.relation is None:
        return None
    a, b = scene.characters
    names = [n for n in ("kind", "fur", *ACCESSORIES) if getattr(a, n) != getattr(b, n)]
    if not names:
        return None
    name = rng.choice(names)
    return replace(
        scene,
        characters=(replace(a, **{name: getattr(b, name)}), replace(b, **{name: getattr(a, name)})),
    )


def _add(scene: Scene, rng: random.Random) -> Scene | None:
    """One thing more is worn."""
    place, character = _any(scene, rng)
    bare = [name for name in ACCESSORIES if getattr(character, name) is None]
    return _with(scene, place, **{rng.choice(bare): rng.choice(COLORS)}) if bare else None


def _remove(scene: Scene, rng: random.Random) -> Scene | None:
    """One thing less is worn."""
    place, character = _any(scene, rng)
    return _with(scene, place, **{rng.choice(character.worn)[0]: None}) if character.worn else None


EDITS: dict[str, Edit] = {
    "object": _object,
    "attribute": _attribute,
    "count": _count,
    "relation": _relation,
    "swap": _swap,
    "add": _add,
    "remove": _remove,
    "negation": _remove,
}


def paraphrases(scene: Scene, rng: random.Random, count: int = PARAPHRASES) -> tuple[str, ...]:
    """Up to `count` other wordings of the caption of `scene`; short captions have few."""
    found = {caption(scene): None}
    for _ in range(WORDINGS_TRIED):
        if len(found) > count:
            break
        found[caption(scene, rng)] = None
    return tuple(found)[1:]


def gallery(count: int, draw: int = 1) -> list[Scene]:
    """`count` different held-out pictures as the world shows them; the same ones in every run."""
    return _held_out_scenes(count, "gallery", draw, lambda scene: True)


def classified(count: int, draw: int = 1) -> list[Scene]:
    """The same, of one character that has no name of its own."""
    return _held_out_scenes(
        count, "classes", draw, lambda scene: scene.count == 1 and not is_trademark(scene.characters[0])
    )


def _held_out_scenes(count: int, purpose: str, draw: int, accept: Callable[[Scene], bool]) -> list[Scene]:
    rng = _random(purpose, draw)
    found: dict[Shown, Scene] = {}
    while len(found) < count:
        scene = sample_scene(rng)
        if held_out(scene) and accept(scene):
            found.setdefault(_image_key(scene), scene)
    return list(found.values())


class Renders(Sequence[Image.Image]):
    """Scenes in their poses, drawn when they are asked for, and kept."""

    def __init__(self, scenes: Sequence[tuple[Scene, int]]) -> None:
        self.scenes = tuple(scenes)
        self.drawn: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if index not in self.drawn:
            scene, pose = self.scenes[index]
            self.drawn[index] = render(scene, SIZE, pose)
        return self.drawn[index]


def pairs_part(per_category: int, draw: int = 1) -> Pairs:
    """All categories, with paraphrases."""
    scenes: list[tuple[Scene, int]] = []
    items = []
    for category in EDITS:
        rng = _random(f"wordings of {category}", draw)
        for q in scene_items(category, per_category, draw):
            items.append(
                Pair(
                    (len(scenes), len(scenes) + 1),
                    (caption(q.first), caption(q.second)),
                    category,
                    paraphrases(q.first, rng),
                )
            )
            scenes += [(q.scene, q.pose), (q.edited, q.pose)]
    return Pairs(Renders(scenes), tuple(items))


def retrieval_part(count: int, draw: int = 1) -> Retrieval:
    """A gallery of different scenes, each described in one of its wordings."""
    scenes = gallery(count, draw)
    rng = _random("gallery wordings", draw)
    captions = tuple(caption(scene, rng) for scene in scenes)
    return Retrieval(Renders([(s, i) for i, s in enumerate(scenes)]), captions, tuple(range(count)))


def zero_shot_part(count: int, draw: int = 1) -> ZeroShot:
    """Which kind of which fur is it, among all 25?"""
    scenes = classified(count, draw)
    classes = [(fur, kind) for fur in FURS for kind in KINDS]
    labels = tuple(classes.index((s.characters[0].fur or "", s.characters[0].kind or "")) for s in scenes)
    prompts = tuple((caption(Scene((Character(kind=kind, fur=fur),))),) for fur, kind in classes)
    return ZeroShot(Renders([(s, i) for i, s in enumerate(scenes)]), labels, prompts)


@cache
def toyworld(limit: int | None = None, draw: int = 1) -> Suite:
    """The suite; with `limit`, only the first so many items of a category, scenes to retrieve and to classify.

    The gallery of a limited suite is smaller and so easier: compare only results of the same limit.

    Args:
        limit: the most items of a category.
        draw: 1 or 2; the second shares no pair with the first, and is named "toyworld-2".
    """
    if draw not in DRAWS:
        raise ValueError(f"draw={draw} must be one of {', '.join(map(str, DRAWS))}")

    def at_most(count: int) -> int:
        return count if limit is None else min(limit, count)

    return Suite(
        TOYWORLD if draw == 1 else f"{TOYWORLD}-{draw}",
        VERSION,
        {
            "": pairs_part(at_most(PER_CATEGORY), draw),
            "retrieval": retrieval_part(at_most(GALLERY), draw),
            "zero-shot": zero_shot_part(at_most(CLASSIFIED), draw),
        },
    )


def fingerprint(suite: Suite) -> str:
    """A hash of all the words of the suite; two suites with the same one hold the same items."""
    digest = hashlib.sha256()
    for part in suite.parts.values():
        match part:
            case Pairs():
                lines = [f"{p.category}|{p.captions}|{p.paraphrases}" for p in part.items]
            case Retrieval():
                lines = list(part.captions)
            case ZeroShot():
                lines = [f"{part.prompts}", f"{part.labels}"]
        digest.update("\n".join(lines).encode() + b"\0")
    return digest.hexdigest()[:16]
