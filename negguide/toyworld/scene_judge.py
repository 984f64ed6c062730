"""The judge of the toy world for benchmarks and the demo: it reads the whole scene, and phrases are captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from negguide.benchmark.judges import Verdict
from negguide.benchmark.suites import Check
from negguide.models import revision
from negguide.toyworld.domain import TOYWORLD
from negguide.toyworld.judge import Judge
from negguide.toyworld.language import caption, is_fragment, parse
from negguide.toyworld.measure import agreement
from negguide.toyworld.models import JUDGE, load_judge
from negguide.toyworld.scene import Character, Scene


class SceneJudge:
    """See `negguide.domain.DomainJudge`.

    A picture shows a fragment ("black glasses") when one of its characters, or its place, is as the fragment says, and
    a caption ("a bear wearing glasses") when everything is. What must not be shown is looked for beside others as well:
    "a brown bear" is there as soon as one of several characters is one.
    """

    name = TOYWORLD
    remark = ""

    def __init__(self, device: str = "cpu") -> None:
        # the loader keeps one for all on the CPU
        self.network = load_judge() if device == "cpu" else Judge.load(JUDGE).to(device)
        self.revision = revision(str(JUDGE))

    def verdicts(self, images: Sequence[Image.Image], checks: Sequence[Check]) -> list[Verdict]:
        """Whether the scene that is read from each image holds what its check names."""
        found = []
        for seen, check in zip(self.network.read(images), checks, strict=True):
            is_there = (_shows if check.shown else _holds)(check.present, seen)
            found.append(Verdict(is_there == check.shown, caption(seen)))
        return found

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit length, float32 [len(images), 256] on the CPU."""
        return self.network.embed(images)

    def shows(self, images: Sequence[Image.Image], text: str) -> list[bool]:
        """Whether the scene that is read from each image is as the text says."""
        return [_shows(text, seen) for seen in self.network.read(images)]

    def views(self, images: Sequence[Image.Image]) -> list[str]:
        """The view of the character, the left one of several; "nobody" where there is none."""
        return [
            (scene.characters[0].view or "?") if scene.characters else "nobody"
            for scene in self.network.read(images)
        ]


def _shows(text: str, seen: Scene) -> bool:
    """Whether a scene is all that a text says."""
    wanted = parse(text)
    return _somewhere(wanted, seen) if is_fragment(text) else all(agreement(wanted, seen).values())


def _holds(text: str, seen: Scene) -> bool:
    """Whether what a text says is anywhere in a scene; several characters are there together, or not."""
    wanted = parse(text)
    return _somewhere(wanted, seen) if wanted.count < 2 else all(agreement(wanted, seen).values())


def _somewhere(wanted: Scene, seen: Scene) -> bool:
    """Whether one character of a scene is as the first one of `wanted`, and the place too where it is said."""
    place = wanted.background in (None, seen.background)
    if not wanted.characters:
        return place
    return place and any(_is(wanted.characters[0], character) for character in seen.characters)


def _is(wanted: Character, seen: Character) -> bool:
    return all(agreement(Scene((wanted,)), Scene((seen,))).values())
