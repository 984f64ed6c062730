"""Qwen-Image 2.1: a transformer whose text and reference images come before the image, as modular pipelines."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Family, Modular, TokenBudget
from negguide.integration.families.common import counting_tokenizer
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family


def _vision_mask(encoded: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Tensor]:
    """Where among a text's tokens images stand, and behind it as many places as the prompt has for the image drawn."""
    text, mask = encoded["prompt_embeds"], encoded["image_pad_mask"]
    if mask is None:
        mask = text.new_zeros(text.shape[:2], dtype=torch.bool)

    def beside(prompt: Mapping[str, Any]) -> Tensor:
        drawn = prompt["img_mask"].shape[1] - prompt["encoder_hidden_states"].shape[1]
        return torch.cat([mask, mask.new_ones(1, drawn)], dim=1)

    return beside


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    """Text is read whole."""
    processor = counting_tokenizer(pipe, "processor")
    tokens = len(processor.tokenizer(text).input_ids)
    return TokenBudget(processor.tokenizer, tokens, tokens)


QWEN_IMAGE_21 = Family(
    **MODULAR_ONLY,
    name="Qwen-Image 2.1",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_hidden_states_mask": "tokens", "img_mask": "tokens"},
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_hidden_states_mask": "prompt_embeds_mask",
        "img_mask": "image_pad_mask",
    },
    channels={"prompt_embeds": lambda config: (int(config.context_in_dim),)},
    token_budget=_token_budget,
    modular=Modular(
        "qwenimage21",
        fields={
            "encoder_hidden_states": "prompt_embeds",
            "encoder_hidden_states_mask": "prompt_embeds_mask",
            "img_mask": _vision_mask,
        },
        packed=True,
    ),
)

register_family(QWEN_IMAGE_21)
