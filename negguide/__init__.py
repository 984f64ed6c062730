"""Negative guidance for diffusion models. Names are imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

from negguide.version import __version__

if TYPE_CHECKING:
    from negguide.integration.encode_negatives import EncodeNegatives, with_perp_neg
    from negguide.integration.guider import PerpNegGuidance
    from negguide.integration.maps import plot_maps
    from negguide.integration.pipelines import NegGuideStableDiffusionPipeline, from_pipe
    from negguide.integration.processors import (
        NAGAttnProcessor,
        NegToMeAttnProcessor,
        ONGAttnProcessor,
        VSFAttnProcessor,
        attention_processors,
        remove_attention_processors,
    )
    from negguide.integration.trace import Trace, plot_trace
    from negguide.methods import NAG, ONG, VSF, Negative, NegToMe, PerpNeg

__all__ = [
    "NAG",
    "ONG",
    "VSF",
    "EncodeNegatives",
    "NAGAttnProcessor",
    "NegGuideStableDiffusionPipeline",
    "NegToMe",
    "NegToMeAttnProcessor",
    "Negative",
    "ONGAttnProcessor",
    "PerpNeg",
    "PerpNegGuidance",
    "Trace",
    "VSFAttnProcessor",
    "__version__",
    "attention_processors",
    "from_pipe",
    "plot_maps",
    "plot_trace",
    "remove_attention_processors",
    "with_perp_neg",
]

_MODULES = {
    "EncodeNegatives": "negguide.integration.encode_negatives",
    "NAG": "negguide.methods",
    "NAGAttnProcessor": "negguide.integration.processors",
    "NegGuideStableDiffusionPipeline": "negguide.integration.pipelines",
    "NegToMe": "negguide.methods",
    "NegToMeAttnProcessor": "negguide.integration.processors",
    "Negative": "negguide.methods",
    "ONG": "negguide.methods",
    "ONGAttnProcessor": "negguide.integration.processors",
    "PerpNeg": "negguide.methods",
    "PerpNegGuidance": "negguide.integration.guider",
    "Trace": "negguide.integration.trace",
    "VSF": "negguide.methods",
    "VSFAttnProcessor": "negguide.integration.processors",
    "attention_processors": "negguide.integration.processors",
    "from_pipe": "negguide.integration.pipelines",
    "plot_maps": "negguide.integration.maps",
    "plot_trace": "negguide.integration.trace",
    "remove_attention_processors": "negguide.integration.processors",
    "with_perp_neg": "negguide.integration.encode_negatives",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'negguide' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
