"""The embedded model's world as a stage for solids: its views, its places, and which way its profiles look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from negguide.integration.runtime.masks import image_tensor
from negguide.toyworld.domain import TOYWORLD
from negguide.toyworld.language import parse
from negguide.toyworld.render import background, render
from negguide.toyworld.scene import FURS, Character, Scene
from negguide.views.inputs import ViewPrompts, Views
from negguide.views.presets import Preset
from negguide.views.prompts import view_negatives, view_prompts, view_text

PLACE = "meadow"
"""Where a solid stands whose prompt says no place."""
VIEWS_STOP = 0.5
"""Where the negatives of a solid end: from noise level 0.5 on the view is settled, and what they still take away leaves
bright spots where the face would be."""
SIZE = 64
"""Pixels of the embedded model's pictures."""


class Stage:
    """What a prompt of one character says about its pictures.

    Attributes:
        prompt: with a place.
        backdrop: [3, 64, 64] in [0, 1], the place with nobody in it.

    Args:
        prompt: of the embedded world, without a view, e.g. "a brown bear".
        preset: of `view_prompts`.

    Raises:
        ValueError: not of the world's language, a view, or several characters.
    """

    def __init__(self, prompt: str, preset: Preset | str = "toyworld") -> None:
        scene = parse(prompt)
        if scene.count != 1:
            raise ValueError(f"prompt must be of one character, got {scene.count} in {prompt!r}")
        # says what is wrong with a prompt that has a view
        view_text(prompt, "front", model=TOYWORLD)
        self.preset = preset
        self.place = scene.background or PLACE
        self.prompt = prompt if scene.background else f"{prompt} in a {PLACE}"
        self.character = scene.characters[0]
        self.backdrop = image_tensor(background(self.place, SIZE))
        self._profiles = torch.stack([image_tensor(render(scene, SIZE)) for scene in self._drawn("side")])

    def views(self) -> Views:
        """What each camera asks for; negatives act above noise level 1 - `VIEWS_STOP`."""

        def at(azimuths: Sequence[float], elevations: Sequence[float]) -> ViewPrompts:
            cameras = view_prompts(azimuths, elevations, preset=self.preset)
            return ViewPrompts(
                [view_text(self.prompt, camera.view, model=TOYWORLD) for camera in cameras],
                [view_negatives(self.prompt, camera, model=TOYWORLD, stop=VIEWS_STOP) for camera in cameras],
            )

        return at

    def straighten(self) -> Callable[[Tensor, float], Tensor]:
        """Turns profiles to the right, where the front is at azimuth 90: the word "side" says nothing of that.

        Whichever of a target and its mirror image lies nearer to one of the world's own drawings of that kind, which
        look to the right, of whatever fur.
        """

        def straight(target: Tensor, azimuth: float) -> Tensor:
            if view_prompts(azimuth, preset=self.preset).view != "side":
                return target
            return target if self.looks_right(target) else self._mirrored(target)

        return straight

    def looks_right(self, picture: Tensor) -> bool:
        """Whether a profile [3, 64, 64] looks to the right."""

        def away(one: Tensor) -> float:
            return float((one - self._profiles).abs().flatten(1).mean(dim=1).min())

        return away(picture) <= away(self._mirrored(picture))

    def _mirrored(self, picture: Tensor) -> Tensor:
        """The mirror image, before the place as it is."""
        middle = SIZE // 4
        turned = picture.clone()
        turned[..., middle:-middle] = picture.flip(-1)[..., middle:-middle]
        return turned

    def _drawn(self, view: str) -> list[Scene]:
        """The character of this view in every fur that the prompt allows; clothes play no part."""
        furs = (self.character.fur,) if self.character.fur else FURS
        shown = Character(kind=self.character.kind, view=view)
        return [Scene((replace(shown, fur=fur),), self.place) for fur in furs]


def as_image(picture: Tensor) -> Image.Image:
    """Of [3, H, W] in [0, 1]."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
