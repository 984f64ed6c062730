"""A small drawn world with exact ground truth, and the models trained on it."""

from negguide.toyworld.language import caption, parse, vocabulary
from negguide.toyworld.models import load_clip, load_judge, load_pipeline
from negguide.toyworld.render import render
from negguide.toyworld.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    COLORS,
    FURS,
    KINDS,
    TRADEMARK,
    VIEWS,
    Character,
    Scene,
    is_trademark,
    sample_scene,
)

__all__ = [
    "ACCESSORIES",
    "BACKGROUNDS",
    "COLORS",
    "FURS",
    "KINDS",
    "TRADEMARK",
    "VIEWS",
    "Character",
    "Scene",
    "caption",
    "is_trademark",
    "load_clip",
    "load_judge",
    "load_pipeline",
    "parse",
    "render",
    "sample_scene",
    "vocabulary",
]
