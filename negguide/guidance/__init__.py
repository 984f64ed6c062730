"""Guidance as pure tensor functions: score space, token space, attention space. Imports torch only."""

from negguide.guidance.attention import nag, nasa, ong, vsf
from negguide.guidance.automatic import automatic_weight, presence
from negguide.guidance.matching import best_match
from negguide.guidance.projection import perpendicular
from negguide.guidance.score import Joint, alignment, perp_neg, perp_neg_shift, relative_shift, uncond_for
from negguide.guidance.tokens import (
    Match,
    negtome,
    negtome_and_share,
    negtome_match,
    negtome_match_others,
    negtome_others,
    negtome_push,
    negtome_push_others,
)
from negguide.guidance.window import active

__all__ = [
    "Joint",
    "Match",
    "active",
    "alignment",
    "automatic_weight",
    "best_match",
    "nag",
    "nasa",
    "negtome",
    "negtome_and_share",
    "negtome_match",
    "negtome_match_others",
    "negtome_others",
    "negtome_push",
    "negtome_push_others",
    "ong",
    "perp_neg",
    "perp_neg_shift",
    "perpendicular",
    "presence",
    "relative_shift",
    "uncond_for",
    "vsf",
]
