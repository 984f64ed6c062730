"""A small drawn world with exact ground truth, and the models trained on it.

The world itself needs nothing but Pillow; torch and diffusers are imported when a model is first loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from negguide.toyworld.language import caption, parse, vocabulary
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

if TYPE_CHECKING:
    from negguide.toyworld.models import load_clip, load_judge, load_pipeline

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


def __getattr__(name: str) -> Any:
    if name in ("load_clip", "load_judge", "load_pipeline"):
        return getattr(import_module("negguide.toyworld.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
