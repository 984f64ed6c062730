"""Negatives that were given as embeddings: checked against the model, and as its text inputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from negguide.integration.families.base import Family
from negguide.integration.families.registry import denoiser_family
from negguide.methods import Negative

_AXES = {"pooled": "", "layers": "tokens, layers, ", "layers first": "layers, tokens, "}
"""Of a text input before its channels; of others the tokens."""


def check_embeds(
    family: Family, negative: Negative, models: Sequence[nn.Module], pooled: bool = True
) -> None:
    """Refuse embeddings that are not those of the model; a negative in words has none.

    Args:
        family: whose pipelines name the embeddings.
        models: the denoisers that get them.
        pooled: whether those without a token axis are needed; methods in attention do not use them.

    Raises:
        ValueError: naming the negative, the argument, its shape and what would be right.
    """
    given = negative.encoded
    if not given:
        return
    name = f"embeds of Negative({negative.prompt!r})"
    kinds = {argument: family.text[path] for path, argument in family.embeds.items()}
    # without a mask there is no padding
    optional = [a for a, kind in kinds.items() if _is_mask(a) or (kind == "pooled" and not pooled)]
    needed = [argument for argument in kinds if argument not in optional]
    if any(argument not in kinds for argument in given) or any(argument not in given for argument in needed):
        further = f", and may have {' and '.join(optional)}" if optional else ""
        raise ValueError(
            f"{name} must be {' and '.join(needed)} for {family.name}{further}; got {' and '.join(given)}"
        )
    tokens = given[family.main_embeds].shape[1]
    for argument, value in given.items():
        if _is_mask(argument):
            fits, right = value.shape == (1, tokens), f"[{tokens}], a number for each token"
        else:
            widths = _channels(family, models, argument)
            axes = _AXES.get(kinds[argument], "tokens, ")
            fits = value.ndim == 2 + axes.count(",") and (not widths or value.shape[-1] in widths)
            fits = fits and (kinds[argument] != "layers first" or value.shape[1] == 1)
            wide = " or ".join(map(str, widths)) if widths else "channels"
            right = f"[{axes}{wide}]"
        if not fits:
            raise ValueError(
                f"{name}: {argument} must be {right} for this {family.name} model, got {_row(value, kinds[argument])}"
            )


def given_text(
    family: Family, negative: Negative, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Checked embeddings as {text input: [1, ...], or [tokens, ..] of positions}; a mask that is left out is None."""
    given = negative.encoded
    text: dict[str, Any] = {}
    for path, kind in family.text.items():
        value = given.get(family.embeds.get(path, ""))
        if value is None and path in family.derived:
            text[path] = family.derived[path](given[family.main_embeds].to(device))
            continue
        if value is None and kind == "pooled":
            continue
        if value is not None:
            value = value.to(device, dtype if value.is_floating_point() else value.dtype)
        text[path] = [value[0]] if path in family.row_lists and value is not None else value
    return text


def _row(value: torch.Tensor, kind: str) -> list[int]:
    """The shape of embeddings without their batch axis."""
    axis = 1 if kind == "layers first" and value.ndim == 4 else 0
    return [*value.shape[:axis], *value.shape[axis + 1 :]]


def _is_mask(argument: str) -> bool:
    return "mask" in argument


def _channels(family: Family, models: Sequence[nn.Module], argument: str) -> tuple[int, ...]:
    """How many channels these embeddings may have; empty where nothing says it."""
    channels = family.channels.get(argument)
    for model in models:
        if channels is not None:
            return channels(model.config)
        if argument == family.main_embeds:
            try:
                return (denoiser_family(model)[1].text_channels(model.config),)
            except TypeError:
                # a denoiser without a row of its own; the model itself refuses what does not fit
                continue
    return ()
