"""ERNIE-Image: a transformer over one sequence of image and text, as modular pipelines."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Family, Modular, TokenBudget
from negguide.integration.families.common import counting_tokenizer
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family


def _rows(encoded: Mapping[str, Any]) -> Tensor:
    """The text [1, tokens, channels], without padding; it is encoded as a list of one."""
    row: Tensor = encoded["prompt_embeds"][0]
    return row[None]


def _lengths(encoded: Mapping[str, Any]) -> Tensor:
    row: Tensor = encoded["prompt_embeds"][0]
    return torch.tensor([len(row)], device=row.device)


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    tokenizer = counting_tokenizer(pipe)
    return TokenBudget(tokenizer, len(tokenizer(text).input_ids), int(tokenizer.model_max_length))


ERNIE_IMAGE = Family(
    **MODULAR_ONLY,
    name="ERNIE-Image",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"text_bth": "tokens"},
    # a list of one tensor [tokens, channels] for each prompt
    embeds={"text_bth": "prompt_embeds"},
    row_lists=("text_bth",),
    channels={"prompt_embeds": lambda config: (int(config.text_in_dim),)},
    token_budget=_token_budget,
    modular=Modular("ernie-image", fields={"text_bth": _rows, "text_lens": _lengths}),
)

register_family(ERNIE_IMAGE)
