"""NegToMe's references: what they are given beside their latents, and what is kept of them."""

from typing import Any

import torch
from torch import Tensor


def given_apart(cond: dict[str, Any], images: int) -> tuple[list[int], list[int]]:
    """Which images of a batch are given something else: a mask or a picture to paint into, one to edit, a text.

    Args:
        cond: a conditioning as ComfyUI's samplers have it.

    Returns:
        (first, index): the first image of each kind, and [images] which of them each image is like.
    """
    rows = [value.cond for value in _by_row(cond).values()]
    first: list[int] = []
    index = []
    for image in range(images):
        for kind, other in enumerate(first):
            if all(torch.equal(_row(value, image), _row(value, other)) for value in rows):
                index.append(kind)
                break
        else:
            index.append(len(first))
            first.append(image)
    return first, index


def given_to(cond: dict[str, Any], image: int) -> dict[str, Any]:
    """The conditioning with what one image of a batch is given."""
    own = {name: value._copy_with(_row(value.cond, image)) for name, value in _by_row(cond).items()}
    return {**cond, "model_conds": {**cond.get("model_conds", {}), **own}}


def _by_row(cond: dict[str, Any]) -> dict[str, Any]:
    """What has a row for each of several images."""
    from comfy.conds import CONDRegular

    return {
        name: value
        for name, value in cond.get("model_conds", {}).items()
        if isinstance(value, CONDRegular) and len(value.cond) > 1
    }


def _row(value: Tensor, image: int) -> Tensor:
    # ComfyUI repeats what has fewer rows than there are images
    return value[image % len(value)][None]


class Captures:
    """The references' tokens at one step; no dict, of which ComfyUI would hand on a copy.

    Several forwards make them where ComfyUI cuts a long video into windows of frames, and all of them count.
    """

    def __init__(self) -> None:
        # {place in the model: of each forward [1, tokens, channels], and [1, tokens], which of them may be matched}
        self._kept: dict[Any, list[tuple[Tensor, Tensor | None]]] = {}

    def keep(self, place: Any, tokens: Tensor, allowed: Tensor | None) -> None:
        flat = tokens.detach().clone().reshape(1, -1, tokens.shape[2])
        self._kept.setdefault(place, []).append((flat, allowed))

    def at(self, place: Any) -> tuple[Tensor, Tensor | None]:
        """All tokens of a place, [1, tokens, channels], and which of them may be matched.

        Raises:
            ValueError: there are none.
        """
        if place not in self._kept:
            raise ValueError(
                "NegToMe: the model did not run on the references at this step: another node left it out (a cache such "
                "as EasyCache); take that node out"
            )
        tokens, allowed = zip(*self._kept[place], strict=True)
        masks = [mask for mask in allowed if mask is not None]
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1) if masks else None
