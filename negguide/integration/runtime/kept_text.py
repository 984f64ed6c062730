"""What a model keeps of its texts from one step to the next, apart for each kind of forward."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from negguide.integration.families.base import Family


class KeptTexts:
    """Caches for the forwards of a run, in place of the pipeline's own, which knows its own rows and texts only.

    The pipeline's tells one branch from another, and where a branch begins anew.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._of: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()

    def begin_call(self, inputs: Mapping[str, Any]) -> None:
        """A call of the denoiser, before its forwards: what is to be filled is empty."""
        cache = self._cache(inputs)
        if cache is not None and (cache not in self._of or inputs.get("kv_cache_mode") == "extract"):
            self._of[cache] = {}

    def inputs(self, context: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs of one forward, with the cache of this kind of forward; the first such one fills it."""
        cache = self._cache(inputs)
        if cache is None:
            return inputs
        assert self.family.empty_cache is not None
        own, mode = self._of[cache], "cached"
        if context not in own:
            own[context], mode = self.family.empty_cache(cache), "extract"
        return {**inputs, "kv_cache": own[context], "kv_cache_mode": mode}

    def _cache(self, inputs: Mapping[str, Any]) -> Any:
        return None if self.family.empty_cache is None else inputs.get("kv_cache")
