"""View-dependent prompts: which view word and which weighted negatives hold at a camera, and their texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, overload

from torch import Tensor

from negguide.domain import domain_of
from negguide.methods import Edge, Negative, PerpNeg
from negguide.views.presets import VIEWS, Preset, View, find_preset

NEGLIGIBLE = 1e-3
"""Weights below this count as 0: published curves that should end at 0 are rounded to three decimals, and a negative of
such a weight would cost an evaluation of the model and change nothing."""


@dataclass(frozen=True)
class ViewPrompt:
    """What holds at one camera.

    Attributes:
        positive: (view, fraction) pairs, the fractions above 0 and summing to 1: one view, or two whose prompt
            embeddings are mixed.
        negatives: (view, weight) pairs with weights above 0; empty where no negative holds.
    """

    positive: tuple[tuple[View, float], ...]
    negatives: tuple[tuple[View, float], ...] = ()

    @property
    def view(self) -> View:
        """The view with the largest fraction; of two equal ones the first."""
        return max(self.positive, key=lambda part: part[1])[0]


@overload
def view_prompts(azimuth: float, elevation: float = 0.0, *, preset: Preset | str = ...) -> ViewPrompt: ...


@overload
def view_prompts(
    azimuth: Sequence[float] | Tensor,
    elevation: float | Sequence[float] | Tensor = 0.0,
    *,
    preset: Preset | str = ...,
) -> tuple[ViewPrompt, ...]: ...


def view_prompts(
    azimuth: float | Sequence[float] | Tensor,
    elevation: float | Sequence[float] | Tensor = 0.0,
    *,
    preset: Preset | str = "threestudio",
) -> ViewPrompt | tuple[ViewPrompt, ...]:
    """The positive views and the weighted negative views of one camera, or of each camera of a batch.

    An azimuth and its mirror image, -azimuth, are the same. Interpolated positives are continuous in the azimuth, and
    so are the weights where the preset's curves are. Above `Preset.overhead_above` the view is "overhead" and no
    negative holds.

    Args:
        azimuth: degrees around the subject, any real number, taken modulo 360: 0 = front, 90 and -90 = side, 180 =
            back. A number, a sequence, or a tensor with at most one axis.
        elevation: degrees above the horizon, -90 to 90; one for all cameras, or one each.
        preset: a name of `PRESETS`, or a `Preset`.

    Returns:
        A `ViewPrompt` for a number; for a sequence or a tensor with an axis, a tuple with one for each azimuth.

    Raises:
        ValueError: an azimuth or elevation that is not finite or out of range, a different number of them, an unknown
            preset, or a curve with a weight that is negative or not finite.
        TypeError: values that are no numbers.

    Source: DreamFusion, arXiv 2209.14988 (view words); Perp-Neg, arXiv 2304.04968 (negatives); see `Preset.source`.
    """
    chosen = find_preset(preset)
    azimuths, single = _numbers("azimuth", azimuth)
    elevations, one = _numbers("elevation", elevation)
    if one:
        elevations = elevations * len(azimuths)
    elif single or len(elevations) != len(azimuths):
        raise ValueError(
            f"elevation must be one number, or one for each azimuth ({1 if single else len(azimuths)}), "
            f"got {len(elevations)}"
        )
    for degrees in elevations:
        if not -90 <= degrees <= 90:
            raise ValueError(f"elevation must be from -90 to 90 degrees, got {degrees:g}")
    found = tuple(_at(a, e, chosen) for a, e in zip(azimuths, elevations, strict=True))
    return found[0] if single else found


def wrap_azimuth(azimuth: float) -> float:
    """The azimuth in degrees as a number above -180 and at most 180."""
    wrapped = math.fmod(azimuth, 360.0)
    if wrapped > 180:
        return wrapped - 360
    return wrapped + 360 if wrapped <= -180 else wrapped


def view_text(prompt: str, view: View, *, model: str = "") -> str:
    """A prompt that says the view: "a bear, side view"; for the embedded model "a bear in side view".

    Args:
        prompt: what is seen, without a view.
        view: front, side, back or overhead.
        model: "toyworld" for the grammar of the embedded models, as the name of any of them; any name of no closed
            world for words that real models know.

    Raises:
        ValueError: an empty prompt or unknown view; on the embedded model "overhead", which its world does not have,
            and prompts that its grammar does not know or that say a view already.
    """
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}")
    domain = domain_of(model)
    if domain is not None:
        return domain.language().in_view(prompt, view)
    text = prompt.strip().rstrip(".,").rstrip()
    if not text:
        raise ValueError(f"prompt must say what is seen, e.g. 'a bear', got {prompt!r}")
    return f"{text}, {view} view"


def view_negatives(
    prompt: str, view: ViewPrompt, *, model: str = "", start: Edge = 0.0, stop: Edge = 1.0
) -> list[Negative]:
    """The negatives of one camera: the prompt with each negative view, weighted.

    Args:
        prompt, model: as in `view_text`.
        view: of the camera.
        start, stop: when they act, as in `Negative`; published text-to-3D has them at every noise level.

    Raises:
        ValueError: as `view_text` and `Negative`.
    """
    return [
        Negative(view_text(prompt, name, model=model), weight=weight, start=start, stop=stop)
        for name, weight in view.negatives
    ]


def view_perp_neg(
    prompt: str,
    views: Sequence[ViewPrompt],
    *,
    model: str = "",
    start: Edge = 0.0,
    stop: Edge = 1.0,
    **options: Any,
) -> PerpNeg | None:
    """Perp-Neg for a call with one prompt a camera, in the order of `views`.

    Args:
        prompt, model, start, stop: as in `view_negatives`.
        views: one for each prompt of the call.
        options: of `PerpNeg`.

    Returns:
        `PerpNeg.per_prompt(...)`; None where no camera has a negative.

    Raises:
        TypeError, ValueError: as `view_negatives` and `PerpNeg`.

    Example:
        >>> views = view_prompts([0, 90, 180], preset="toyworld")
        >>> prompts = [view_text("a bear", view.view, model="toyworld") for view in views]
        >>> pipe(prompts, negative_guidance=view_perp_neg("a bear", views, model="toyworld"))
    """
    negatives = [view_negatives(prompt, view, model=model, start=start, stop=stop) for view in views]
    return PerpNeg.per_prompt(*negatives, **options) if any(negatives) else None


def _numbers(name: str, value: Any) -> tuple[list[float], bool]:
    """The numbers, and whether it is a single one."""
    right = f"{name} must be a number, or a sequence or a tensor [cameras] of numbers, in degrees"
    given = value.detach().cpu().tolist() if isinstance(value, Tensor) else value
    if isinstance(value, Tensor) and value.ndim > 1:
        raise ValueError(f"{right}, got a tensor of shape {list(value.shape)}")
    single = not isinstance(given, Sequence)
    numbers: list[Any] = [given] if isinstance(given, str) or single else list(given)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, Real):
            raise TypeError(f"{right}, got {number!r}")
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number!r}")
    return [float(number) for number in numbers], single


def _at(azimuth: float, elevation: float, preset: Preset) -> ViewPrompt:
    if preset.overhead_above is not None and elevation > preset.overhead_above:
        return ViewPrompt((("overhead", 1.0),))
    turn = abs(wrap_azimuth(azimuth))
    weights = [(view, preset.weight(view, turn)) for view, _ in preset.negatives]
    positive = _nearest(turn, preset) if preset.positive == "nearest" else _interpolated(turn)
    return ViewPrompt(positive, tuple((view, weight) for view, weight in weights if weight >= NEGLIGIBLE))


def _nearest(turn: float, preset: Preset) -> tuple[tuple[View, float], ...]:
    if turn < preset.front_within:
        return (("front", 1.0),)
    return (("back", 1.0),) if turn > 180 - preset.back_within else (("side", 1.0),)


def _interpolated(turn: float) -> tuple[tuple[View, float], ...]:
    near: View = "front" if turn < 90 else "side"
    far: View = "side" if turn < 90 else "back"
    fraction = (1 if turn < 90 else 2) - turn / 90
    parts = ((near, fraction), (far, 1 - fraction))
    return tuple((view, part) for view, part in parts if part > 0)
