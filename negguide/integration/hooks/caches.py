"""Caches of diffusers that cannot go on beside a method."""

from __future__ import annotations

from torch import nn

from negguide.integration.hooks.compat import per_module_cache


def check_cache(model: nn.Module, cause: str) -> None:
    """Refuse a cache that keeps one state a module, where a model runs in other forwards than the pipeline's own.

    Args:
        cause: what makes further forwards or longer ones, as the message names it.

    Raises:
        ValueError: naming the cache.
    """
    cache = per_module_cache(model)
    if cache is None:
        return
    remedy = "take its hooks off the model for this call"
    if hasattr(model, "disable_cache"):
        remedy = (
            "disable it for this call (model.disable_cache()), or use FirstBlockCache, TaylorSeer or MagCache"
        )
    raise ValueError(
        f"{cache} keeps one state a module, in which it would mix up the further or longer forwards that {cause} asks "
        f"for with the pipeline's own; {remedy}"
    )
