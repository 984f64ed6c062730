"""The model families: a file each, which registers what it describes; `base` says what a family is."""

from negguide.integration.families.base import Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.registry import (
    denoiser_family,
    family_of,
    modular_families,
    register_family,
    registered_families,
    supported_pipelines,
)

__all__ = [
    "Denoiser",
    "Family",
    "Modular",
    "TokenBudget",
    "denoiser_family",
    "family_of",
    "modular_families",
    "register_family",
    "registered_families",
    "supported_pipelines",
]
