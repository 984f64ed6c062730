"""The judge of the toy world: the probability that a picture shows everything that its caption fixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from negguide.mining.verify.margins import Margins
from negguide.toyworld.judge import Judge, to_pixels
from negguide.toyworld.labels import Field
from negguide.toyworld.language import parse
from negguide.toyworld.scene import ABSENT, ACCESSORIES, ANY_COLOR, Scene

# what "an explorer" wears, who is never said to wear it
_EXPLORER = {"hat": ANY_COLOR, "scarf": ANY_COLOR}


class WorldJudge:
    """The embedded judge, which was trained on drawings alone and reads a scene field by field.

    Score: prod_f P(f is as the caption says), over all fields that the caption fixes. This world's captions are
    complete about clothes: an accessory that is not said is not worn. Colours that are not said may be any.
    """

    name = "toyworld"
    model = "toyworld judge"
    # more likely right than wrong, in every cell
    margins = Margins(absolute_margin=0.5)

    def __init__(self, device: str = "cpu", batch_size: int = 64) -> None:
        self.device, self.batch_size = device, batch_size
        from negguide.toyworld.models import JUDGE, load_judge

        # the loader keeps one for all on the CPU
        self.net = load_judge() if device == "cpu" else Judge.load(JUDGE).to(device)

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """[n]; NaN where the caption is no sentence of this world."""
        scores = torch.full((len(images),), float("nan"), dtype=torch.float64)
        scenes = [_read(caption) for caption in captions]
        for start in range(0, len(images), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            logits = self.net(to_pixels(images[chosen]).to(self.device))
            chances = [part.double().softmax(dim=1).cpu() for part in logits]
            for row, scene in enumerate(scenes[chosen]):
                if scene is not None:
                    scores[start + row] = _probability(scene, self.net.rows, [part[row] for part in chances])
        return scores.float()


def _read(caption: str) -> Scene | None:
    try:
        return parse(caption, negation=True)
    except ValueError:
        return None


def _probability(scene: Scene, rows: Sequence[Field], chances: Sequence[Tensor]) -> Tensor:
    result = torch.ones((), dtype=torch.float64)
    for field, chance in zip(rows, chances, strict=True):
        for allowed in _allowed(scene, field):
            result = result * sum(chance[field.options.index(option)] for option in allowed)
    return result


def _allowed(scene: Scene, field: Field) -> Iterator[list[str | None]]:
    """The options that a caption leaves to a field; nothing where it does not fix it."""
    if field.name == "count":
        if scene.characters:
            yield [str(scene.count)]
        return
    if field.name == "background":
        if scene.background is not None:
            yield [scene.background]
        return
    if field.slot is None or field.slot >= scene.count:
        return
    said = getattr(scene.left_to_right[field.slot], field.name)
    if field.name not in ACCESSORIES:
        if said is not None:
            yield [said]
        return
    if said is None and scene.explorer:
        said = _EXPLORER.get(field.name)
    if said == ANY_COLOR:
        yield [option for option in field.options if option is not None]
    else:
        yield [None if said == ABSENT else said]
