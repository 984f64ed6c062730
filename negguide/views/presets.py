"""Presets: which view words and which weighted negatives hold at an azimuth, as published and as found here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from negguide.views.curves import Curve, Decay, Halves, Ramp

View = Literal["front", "side", "back", "overhead"]
VIEWS: tuple[View, ...] = get_args(View)


@dataclass(frozen=True)
class Preset:
    """What `view_prompts` does at every camera. Change one with `dataclasses.replace`.

    Args:
        name: for people and messages.
        positive: "nearest": the word of the nearest view. "interpolated": the two neighbouring views, with fractions
            that are linear in the azimuth; what is mixed are the embeddings of the two prompts.
        negatives: (view, curve) pairs; the curve says what the negative weighs at a turn of 0 to 180 degrees. ()
            = view words alone.
        front_within, back_within: with "nearest", how far from 0 and from 180 degrees the front and the back reach, in
            degrees, not inclusive; the side is between.
        overhead_above: the elevation in degrees above which a camera sees the subject from overhead, where no negative
            holds; None = the elevation does not count.
        source: where the numbers are from.

    Raises:
        ValueError: naming the argument, its value and what would be right.
    """

    name: str
    positive: Literal["nearest", "interpolated"]
    negatives: tuple[tuple[View, Curve], ...]
    front_within: float = 45.0
    back_within: float = 45.0
    overhead_above: float | None = 60.0
    source: str = ""

    def __post_init__(self) -> None:
        if self.positive not in ("nearest", "interpolated"):
            raise ValueError(f"positive must be 'nearest' or 'interpolated', got {self.positive!r}")
        views = [view for view, _ in self.negatives]
        for view, curve in self.negatives:
            if view not in VIEWS:
                raise ValueError(f"negatives must be of the views {', '.join(VIEWS)}, got {view!r}")
            if not callable(curve):
                raise ValueError(f"the curve of the negative {view!r} must be a function, got {curve!r}")
        if len(set(views)) < len(views):
            raise ValueError(f"negatives must have each view once, got {', '.join(views)}")
        for name in ("front_within", "back_within"):
            if not 0 < getattr(self, name) <= 90:
                raise ValueError(
                    f"{name} must be above 0 and at most 90 degrees, got {getattr(self, name)!r}"
                )
        if self.overhead_above is not None and not -90 <= self.overhead_above <= 90:
            raise ValueError(f"overhead_above must be from -90 to 90, or None, got {self.overhead_above!r}")

    def weight(self, view: View, turn: float) -> float:
        """What the negative of `view` weighs at a turn of 0 to 180 degrees; 0 for a view without a negative.

        Raises:
            ValueError: the curve gives a weight that is negative or not finite.
        """
        curve = dict(self.negatives).get(view)
        if curve is None:
            return 0.0
        weight = float(curve(turn))
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"the curve of the negative {view!r} in the preset {self.name!r} gives {weight:g} at {turn:g} degrees; "
                "weights must be finite and >= 0, where 0 leaves the negative out"
            )
        return weight


_THREESTUDIO = Preset(
    name="threestudio",
    positive="interpolated",
    # f_fs, f_fsb and f_sf, f_sb there; the shifts are rounded to three decimals, so that f(1) is about 0
    negatives=(
        ("front", Halves("front", Decay(4.0, 0.5, -2.426), Decay(1.0, 0.5, 0.967))),
        ("side", Halves("side", Decay(4.0, 0.5, -2.426), Decay(1.0, 0.5, -0.606))),
    ),
    source="threestudio, prompt_processors/base.py: get_text_embeddings_perp_neg and its default perp_neg_f_*",
)

_STABLE_DREAMFUSION = Preset(
    name="stable-dreamfusion",
    positive="interpolated",
    # negative_w -2, front_decay_factor 2, side_decay_factor 10
    negatives=(
        ("front", Halves("front", Decay(2.0, 2.0, end=0.8), Decay(2.0))),
        ("side", Halves("side", Decay(2.0, 10.0, end=0.8), Decay(1.0, 10.0, end=0.8))),
    ),
    overhead_above=None,
    source="stable-dreamfusion, nerf/utils.py: get_pos_neg_text_embeddings at the default options of main.py",
)

_PAPER = Preset(
    name="paper",
    positive="interpolated",
    negatives=(("front", Ramp(((0.0, 1.5),))), ("side", Ramp(((0.0, 1.5),)))),
    overhead_above=None,
    source="arXiv 2304.04968, the command for rotation in the authors' repository (weights 1|-1.5|-1.5)",
)

_TOYWORLD = Preset(
    name="toyworld",
    positive="nearest",
    negatives=(("front", Ramp(((45.0, 0.0), (90.0, 1.0), (150.0, 3.0)))),),
    source="found on the embedded model",
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (_THREESTUDIO, _STABLE_DREAMFUSION, _PAPER, _TOYWORLD)}
)
"""The presets by name."""


def find_preset(preset: Preset | str) -> Preset:
    """The preset of a name; a preset itself is passed on.

    Raises:
        ValueError: no preset has the name.
        TypeError: neither a name nor a preset.
    """
    if isinstance(preset, Preset):
        return preset
    if not isinstance(preset, str):
        raise TypeError(f"preset must be a Preset or one of {', '.join(PRESETS)}, got {preset!r}")
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, or a Preset, got {preset!r}")
    return PRESETS[preset]
