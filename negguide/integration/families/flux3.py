"""FLUX.3: a transformer whose text and image each have blocks of their own before they meet, in modular diffusers only.

Negatives in attention do not act in it: in the text's own blocks a prompt and a negative beside it would meet.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Family, Modular, TokenBudget
from negguide.integration.families.common import counting_tokenizer, joint_attention_channels
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family


def _text_positions(prompt_embeds: Tensor) -> Tensor:
    """[tokens, 4]; the text's tokens are counted along the last axis."""
    positions = torch.zeros(prompt_embeds.shape[1], 4, device=prompt_embeds.device)
    positions[:, 3] = torch.arange(len(positions))
    return positions


def _positions_of(encoded: Mapping[str, Any]) -> Tensor:
    return _text_positions(encoded["prompt_embeds"])


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    processor = counting_tokenizer(pipe)
    chat = [{"role": "user", "content": text}]
    written = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    tokens = len(processor.tokenizer(written).input_ids)
    return TokenBudget(processor.tokenizer, tokens, arguments["max_sequence_length"])


FLUX_3 = Family(
    **MODULAR_ONLY,
    name="FLUX.3",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "txt_ids": "positions"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    derived={"txt_ids": _text_positions},
    channels={"prompt_embeds": lambda config: (joint_attention_channels(config),)},
    token_budget=_token_budget,
    # a text is as long as it is, in whole 80s
    modular=Modular(
        "flux3",
        fields={"encoder_hidden_states": "prompt_embeds", "txt_ids": _positions_of},
        packed=True,
        positions=("txt_ids",),
    ),
)

register_family(FLUX_3)
