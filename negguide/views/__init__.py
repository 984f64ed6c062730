"""Views and text-to-3D: what holds at a camera, score distillation for renderers of one's own, and solids of voxels."""

from negguide.views.adapters import nerfstudio_noise, threestudio_noise, threestudio_text
from negguide.views.curves import Curve, Decay, Halves, Ramp
from negguide.views.distillation import Distilled, ScoreDistillation
from negguide.views.embeddings import check_mixes, mixed_embeds
from negguide.views.hull import mesh, save_glb, visual_hull
from negguide.views.inputs import ViewPrompts, Views
from negguide.views.lora import RenderLora
from negguide.views.presets import PRESETS, VIEWS, Preset, View, find_preset
from negguide.views.prompts import (
    ViewPrompt,
    view_negatives,
    view_perp_neg,
    view_prompts,
    view_text,
    wrap_azimuth,
)
from negguide.views.schedule import Schedule
from negguide.views.solid import Descent, Fit, SolidFit
from negguide.views.voxels import Voxels, on_background

__all__ = [
    "PRESETS",
    "VIEWS",
    "Curve",
    "Decay",
    "Descent",
    "Distilled",
    "Fit",
    "Halves",
    "Preset",
    "Ramp",
    "RenderLora",
    "Schedule",
    "ScoreDistillation",
    "SolidFit",
    "View",
    "ViewPrompt",
    "ViewPrompts",
    "Views",
    "Voxels",
    "check_mixes",
    "find_preset",
    "mesh",
    "mixed_embeds",
    "nerfstudio_noise",
    "on_background",
    "save_glb",
    "threestudio_noise",
    "threestudio_text",
    "view_negatives",
    "view_perp_neg",
    "view_prompts",
    "view_text",
    "visual_hull",
    "wrap_azimuth",
]
