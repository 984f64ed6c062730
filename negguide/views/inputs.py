"""What a call of score distillation is given, checked: images, angles, and the prompts and negatives of each view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negguide.methods import Negative, PerpNeg, Timestep, Window
from negguide.methods.validation import number

_RANGE_TOLERANCE = 1e-3
"""How far outside of [0, 1] a renderer may round."""


class ViewPrompts(NamedTuple):
    """What the images of a batch are to show, an entry each.

    Attributes:
        prompts: the text of each image.
        negatives: the negatives of each image, [] for none.
        negative_prompts: the classic negative prompt of each image; None = the pipeline's own default for all.
    """

    prompts: Sequence[str]
    negatives: Sequence[Sequence[Negative]]
    negative_prompts: Sequence[str] | None = None


Views = Callable[[Sequence[float], Sequence[float]], ViewPrompts | tuple[Any, ...]]
"""`views(azimuths, elevations)`, of B numbers in degrees each, gives the `ViewPrompts` of the B images, or the same as
a plain tuple: (prompts, negatives) or (prompts, negatives, negative_prompts)."""


def view_prompts_of(
    views: Views | None,
    prompt: str,
    own: Sequence[Negative],
    azimuths: Sequence[float],
    elevations: Sequence[float],
) -> ViewPrompts:
    """What is asked for each image, checked.

    Args:
        views: None = `prompt` for each.
        prompt: see there.
        own: negatives of every image, which come first.
        azimuths, elevations: B each, in degrees.

    Raises:
        ValueError: `views` gives something else than a text and negatives for each image.
    """
    batch = len(azimuths)
    if views is None:
        return ViewPrompts([prompt] * batch, [own] * batch)
    given = ViewPrompts(*views(azimuths, elevations))
    right = f"views must give a text, and a list of negatives, for each of the {batch} images"
    if not _are_texts(given.prompts, batch):
        raise ValueError(f"{right}, got prompts {given.prompts!r}")
    if len(given.negatives) != batch:
        raise ValueError(f"{right}, got {len(given.negatives)} lists of negatives")
    for negatives in given.negatives:
        if not isinstance(negatives, list | tuple):
            raise ValueError(f"{right}, got {negatives!r} in place of a list")
        for negative in negatives:
            if not isinstance(negative, Negative):
                raise ValueError(f"{right}, got {negative!r} among the negatives; give Negative(...)")
            _check_negative(negative)
    if given.negative_prompts is not None and not _are_texts(given.negative_prompts, batch):
        raise ValueError(f"{right}; negative_prompts must be as many texts, got {given.negative_prompts!r}")
    return given._replace(negatives=[[*own, *negatives] for negatives in given.negatives])


def _are_texts(texts: Any, count: int) -> bool:
    # a string is a sequence of strings too
    listed = isinstance(texts, Sequence) and not isinstance(texts, str)
    return listed and len(texts) == count and all(isinstance(text, str) for text in texts)


def acting_method(
    method: PerpNeg | None, negatives: Sequence[Sequence[Negative]], timesteps: Sequence[float]
) -> PerpNeg | None:
    """The negatives whose windows hold any of the timesteps, each with the index of its image; None where none does.

    Args:
        method: whose options count; None = those of `PerpNeg` itself.
        negatives: of each image.
        timesteps: of a run, 1000 = pure noise and 0 = the image.
    """
    found: list[Negative] = []
    for index, own in enumerate(negatives):
        for negative in own:
            start, stop = _in_timesteps(negative)
            window = Window(f"Negative({negative.prompt!r})", start, stop)
            if not negative.off and window.steps(timesteps):
                found.append(replace(negative, start=start, stop=stop, prompt_index=index))
    if not found:
        return None
    return PerpNeg(*found) if method is None else method.with_negatives(*found)


def _in_timesteps(negative: Negative) -> tuple[Timestep, Timestep]:
    """A window in timesteps of 1000: a fraction f of the steps is the timestep 1000 (1 - f)."""
    (window,) = PerpNeg(negative).windows
    start, stop = (
        edge if isinstance(edge, Timestep) else Timestep(1000 * (1 - edge))
        for edge in (window.start, window.stop)
    )
    return start, stop


def shared_method(negatives: Any) -> PerpNeg | None:
    """The method with the negatives of every image.

    Args:
        negatives: a `PerpNeg`, a list of `Negative` objects or strings, or None.

    Raises:
        TypeError: it is none of these.
        ValueError: it has options that look from step to step, or a negative that names its image.
    """
    if negatives is None:
        return None
    if not isinstance(negatives, PerpNeg):
        if isinstance(negatives, str | Negative) or not isinstance(negatives, Sequence):
            raise TypeError(
                f"negatives must be a list of Negative objects or strings, or a PerpNeg, got {negatives!r}"
            )
        return shared_method(PerpNeg(*negatives)) if negatives else None
    for negative in negatives.negatives:
        _check_negative(negative)
    across = {
        "refresh_every": negatives.refresh_every != 1,
        "adaptive": negatives.adaptive,
        "economy": negatives.economy,
        "guidance_stop": negatives.guidance_stop != 1,
    }
    for name, given in across.items():
        if given:
            raise ValueError(
                f"{name} of negatives is {getattr(negatives, name)!r}, which looks from one step of a run to the next, "
                "and each call of distillation is a run of its own; leave it out"
            )
    return negatives


def _check_negative(negative: Negative) -> None:
    if negative.prompt_index is not None:
        raise ValueError(
            f"prompt_index of Negative({negative.prompt!r}) is {negative.prompt_index}, and which image a negative "
            "belongs to is said by views; leave it out"
        )
    if negative.automatic:
        raise ValueError(
            f"weight of Negative({negative.prompt!r}) is 'auto', which looks from one step of a run to the next, and "
            "each call of distillation is a run of its own; give a number"
        )


def check_images(images: Any) -> None:
    """Refuse what are no images [B, 3, H, W] in [0, 1].

    Raises:
        TypeError, ValueError: naming the shape, dtype or range that was given.
    """
    right = "images must be a float tensor [B, 3, H, W] in [0, 1]"
    if not isinstance(images, Tensor):
        raise TypeError(f"{right}, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{right}, got dtype {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise ValueError(f"{right}, got shape {list(images.shape)}")
    lowest, highest = (float(value) for value in torch.aminmax(images.detach()))
    # NaN fails the comparisons
    if not (lowest >= -_RANGE_TOLERANCE and highest <= 1 + _RANGE_TOLERANCE):
        raise ValueError(f"{right}, got values from {lowest:g} to {highest:g}")


def angles(name: str, value: Any, batch: int) -> list[float]:
    """B angles in degrees, from one for all or a list of them.

    Raises:
        TypeError, ValueError: they are no finite numbers, or not B of them.
    """
    if isinstance(value, Tensor):
        value = value.tolist()
    many = value if isinstance(value, list | tuple) else [value] * batch
    if len(many) != batch:
        raise ValueError(f"{name} must be one number, or {batch}, one for each image, got {len(many)}")
    degrees = [number(name, one) for one in many]
    for angle in degrees:
        if not math.isfinite(angle):
            raise ValueError(f"{name} must be finite, in degrees, got {angle}")
    return degrees
