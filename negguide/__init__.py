"""Negative guidance for diffusion models. Names are imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

from negguide.version import __version__

if TYPE_CHECKING:
    from negguide.integration.pipelines import NegGuideStableDiffusionPipeline, from_pipe
    from negguide.integration.processors import NegToMeAttnProcessor, attention_processors
    from negguide.integration.trace import Trace, plot_trace
    from negguide.methods import Negative, NegToMe, PerpNeg

__all__ = [
    "NegGuideStableDiffusionPipeline",
    "NegToMe",
    "NegToMeAttnProcessor",
    "Negative",
    "PerpNeg",
    "Trace",
    "__version__",
    "attention_processors",
    "from_pipe",
    "plot_trace",
]

_MODULES = {
    "NegGuideStableDiffusionPipeline": "negguide.integration.pipelines",
    "NegToMe": "negguide.methods",
    "NegToMeAttnProcessor": "negguide.integration.processors",
    "Negative": "negguide.methods",
    "PerpNeg": "negguide.methods",
    "Trace": "negguide.integration.trace",
    "attention_processors": "negguide.integration.processors",
    "from_pipe": "negguide.integration.pipelines",
    "plot_trace": "negguide.integration.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'negguide' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
