"""View-dependent prompts and negatives for text-to-3D: what holds at a camera, as published and as found here."""

from negguide.views.adapters import nerfstudio_noise, threestudio_noise, threestudio_text
from negguide.views.curves import Curve, Decay, Halves, Ramp
from negguide.views.embeddings import check_mixes, mixed_embeds
from negguide.views.presets import PRESETS, VIEWS, Preset, View, find_preset
from negguide.views.prompts import (
    ViewPrompt,
    view_negatives,
    view_perp_neg,
    view_prompts,
    view_text,
    wrap_azimuth,
)

__all__ = [
    "PRESETS",
    "VIEWS",
    "Curve",
    "Decay",
    "Halves",
    "Preset",
    "Ramp",
    "View",
    "ViewPrompt",
    "check_mixes",
    "find_preset",
    "mixed_embeds",
    "nerfstudio_noise",
    "threestudio_noise",
    "threestudio_text",
    "view_negatives",
    "view_perp_neg",
    "view_prompts",
    "view_text",
    "wrap_azimuth",
]
