"""Contrastive fine-tuning and evaluation of CLIP-like models. Names are imported when they are first used.

- data: rows, readers, the order of rows, batches;
- losses: one a file, by name; `register_loss` brings further ones;
- training: settings, task, state and loop; `finetune` runs them;
- evaluation: metrics, suites by name, tables and pictures; `register_suite` brings further ones.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negguide.vlm.data.readers import read_triplets as read_triplets
    from negguide.vlm.evaluation.evaluate import evaluate as evaluate
    from negguide.vlm.evaluation.plot import plot_results as plot_results
    from negguide.vlm.evaluation.results import Results as Results
    from negguide.vlm.evaluation.suites.registry import make_suite as make_suite
    from negguide.vlm.evaluation.suites.registry import register_suite as register_suite
    from negguide.vlm.losses.registry import register_loss as register_loss
    from negguide.vlm.losses.registry import registered_losses as registered_losses
    from negguide.vlm.models import VisionLanguageModel as VisionLanguageModel
    from negguide.vlm.models import load_model as load_model
    from negguide.vlm.training.config import Settings as Settings
    from negguide.vlm.training.loop import LossNotFiniteError as LossNotFiniteError
    from negguide.vlm.training.loop import finetune as finetune
    from negguide.vlm.training.model_card import push_result as push_result
    from negguide.vlm.training.outcome import Outcome as Outcome

_MODULES = {
    "LossNotFiniteError": "training.loop",
    "Outcome": "training.outcome",
    "Results": "evaluation.results",
    "Settings": "training.config",
    "VisionLanguageModel": "models",
    "evaluate": "evaluation.evaluate",
    "finetune": "training.loop",
    "load_model": "models",
    "make_suite": "evaluation.suites.registry",
    "plot_results": "evaluation.plot",
    "push_result": "training.model_card",
    "read_triplets": "data.readers",
    "register_loss": "losses.registry",
    "register_suite": "evaluation.suites.registry",
    "registered_losses": "losses.registry",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'negguide.vlm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
