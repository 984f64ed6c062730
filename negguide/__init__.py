"""Negative guidance for diffusion models. Names are imported when they are first used."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from negguide.version import __version__

if TYPE_CHECKING:
    from negguide.integration.defaults import defaults as defaults
    from negguide.integration.diagnostics.maps import plot_maps as plot_maps
    from negguide.integration.diagnostics.trace import Trace as Trace
    from negguide.integration.diagnostics.trace import plot_trace as plot_trace
    from negguide.integration.families import Family as Family
    from negguide.integration.families import register_family as register_family
    from negguide.integration.families import registered_families as registered_families
    from negguide.integration.modular.blocks import EncodeNegatives as EncodeNegatives
    from negguide.integration.modular.blocks import GuideDenoiser as GuideDenoiser
    from negguide.integration.modular.blocks import with_negative_guidance as with_negative_guidance
    from negguide.integration.modular.blocks import with_perp_neg as with_perp_neg
    from negguide.integration.modular.guider import PerpNegGuidance as PerpNegGuidance
    from negguide.integration.pipelines import GuidedPipeline as GuidedPipeline
    from negguide.integration.pipelines import (
        NegGuideStableDiffusionPipeline as NegGuideStableDiffusionPipeline,
    )
    from negguide.integration.pipelines import from_pipe as from_pipe
    from negguide.integration.processors import apply_to_model as apply_to_model
    from negguide.integration.processors import attention_processors as attention_processors
    from negguide.integration.processors import remove_attention_processors as remove_attention_processors
    from negguide.integration.processors import remove_from_model as remove_from_model
    from negguide.methods import NAG as NAG
    from negguide.methods import NASA as NASA
    from negguide.methods import ONG as ONG
    from negguide.methods import VSF as VSF
    from negguide.methods import Negative as Negative
    from negguide.methods import NegToMe as NegToMe
    from negguide.methods import PerpNeg as PerpNeg
    from negguide.methods import Timestep as Timestep
    from negguide.methods import register_method as register_method
    from negguide.methods import registered_methods as registered_methods
    from negguide.models import pipeline_file as pipeline_file

_MODULES = {
    "EncodeNegatives": "negguide.integration.modular.blocks",
    "Family": "negguide.integration.families",
    "GuideDenoiser": "negguide.integration.modular.blocks",
    "GuidedPipeline": "negguide.integration.pipelines",
    "NAG": "negguide.methods",
    "NASA": "negguide.methods",
    "NegGuideStableDiffusionPipeline": "negguide.integration.pipelines",
    "NegToMe": "negguide.methods",
    "Negative": "negguide.methods",
    "ONG": "negguide.methods",
    "PerpNeg": "negguide.methods",
    "PerpNegGuidance": "negguide.integration.modular.guider",
    "Timestep": "negguide.methods",
    "Trace": "negguide.integration.diagnostics.trace",
    "VSF": "negguide.methods",
    "apply_to_model": "negguide.integration.processors",
    "attention_processors": "negguide.integration.processors",
    "defaults": "negguide.integration.defaults",
    "from_pipe": "negguide.integration.pipelines",
    "pipeline_file": "negguide.models",
    "plot_maps": "negguide.integration.diagnostics.maps",
    "plot_trace": "negguide.integration.diagnostics.trace",
    "register_family": "negguide.integration.families",
    "register_method": "negguide.methods",
    "registered_families": "negguide.integration.families",
    "registered_methods": "negguide.methods",
    "remove_attention_processors": "negguide.integration.processors",
    "remove_from_model": "negguide.integration.processors",
    "with_negative_guidance": "negguide.integration.modular.blocks",
    "with_perp_neg": "negguide.integration.modular.blocks",
}

__all__ = ["__version__", *_MODULES]

_PROCESSORS = ("NAGAttnProcessor", "NegToMeAttnProcessor", "ONGAttnProcessor", "VSFAttnProcessor")


def __getattr__(name: str) -> Any:
    if name in _PROCESSORS:
        warnings.warn(
            f"negguide.{name} is deprecated: the model's own attention processors stay where they are, and are "
            "intercepted while it runs",
            DeprecationWarning,
            stacklevel=2,
        )
        return importlib.import_module("negguide.integration.hooks.interception").InterceptedProcessor
    if name not in _MODULES:
        raise AttributeError(f"module 'negguide' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
