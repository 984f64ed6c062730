"""Interpolated positives: the prompt embeddings of two views mixed, for the pipelines where that means something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families import Family
from negguide.integration.hooks.compat import call_signature
from negguide.views.presets import View
from negguide.views.prompts import ViewPrompt, view_text


def check_mixes(family: Family) -> None:
    """Refuse a family whose prompt embeddings cannot be mixed.

    They can where all that a call takes for a text are tensors [B, tokens, channels] or [B, channels] of one size for
    every text. Where a mask says which tokens a text has, or each text has as many as its words, the tokens of two
    texts do not lie upon one another.

    Raises:
        ValueError: naming the family and what it has instead.
    """
    reason = ""
    if masks := [name for name in family.embeds.values() if "mask" in name]:
        reason = f"{' and '.join(masks)} beside them"
    elif family.row_lists or family.negative_rows or family.one_layout:
        reason = "as many of them as the text has tokens"
    elif any(family.text[path] not in ("tokens", "pooled") for path in family.embeds):
        reason = "those of several layers of a text encoder"
    if reason:
        raise ValueError(
            f"interpolated positives mix the prompt embeddings of two views, and {family.name} has {reason}; use "
            "positive='nearest', as the preset toyworld has it"
        )


def mixed_embeds(
    pipe: Any, prompt: str, views: Sequence[ViewPrompt], *, model: str = ""
) -> dict[str, Tensor]:
    """The prompt embeddings of each camera, mixed by the fractions of its positive views.

    Formula: sum_v share_v E(prompt with view v), with E by the pipeline's own text encoders.

    Args:
        pipe: a guided pipeline (`negguide.from_pipe`).
        prompt, model: as in `view_text`.
        views: of the B cameras.

    Returns:
        {argument of the pipeline's call: [B, ...]}, e.g. `prompt_embeds` and `pooled_prompt_embeds`.

    Raises:
        ValueError: as `check_mixes` and `view_text`, and where two texts have embeddings of different sizes.
    """
    family: Family = pipe.family
    check_mixes(family)
    bound = call_signature(type(pipe)).bind_partial(pipe)
    bound.apply_defaults()
    names: list[View] = list(dict.fromkeys(name for view in views for name, _ in view.positive))
    texts = [view_text(prompt, name, model=model) for name in names]
    with torch.no_grad():
        encoded = dict(zip(names, family.encode_text(pipe, texts, bound.arguments), strict=True))
    mixed = {}
    for path, argument in family.embeds.items():
        shapes = {tuple(text[path].shape) for text in encoded.values()}
        if len(shapes) > 1:
            raise ValueError(
                f"interpolated positives mix embeddings of one size, and {family.name} gives {argument} of "
                f"{' and '.join(str(list(shape)) for shape in sorted(shapes))}; use positive='nearest'"
            )
        rows = [sum(fraction * encoded[name][path] for name, fraction in view.positive) for view in views]
        mixed[argument] = torch.cat([torch.as_tensor(row) for row in rows])
    return mixed
