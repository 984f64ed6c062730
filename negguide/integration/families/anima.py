"""Anima: Cosmos' transformer with a text conditioner between Qwen3 and itself, in modular diffusers only."""

from typing import Any

from negguide.integration.families.base import Arguments, Family, Modular, TokenBudget
from negguide.integration.families.common import counting_tokenizer
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    """The conditioner has Qwen3's reading of the text and T5's tokens: what counts is the longer one."""
    limit = arguments["max_sequence_length"]
    tokenizers = [counting_tokenizer(pipe, name) for name in ("tokenizer", "t5_tokenizer")]
    budgets = [TokenBudget(one, len(one(text).input_ids), limit) for one in tokenizers]
    return max(budgets, key=lambda budget: budget.tokens)


ANIMA = Family(
    **MODULAR_ONLY,
    name="Anima",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    channels={"prompt_embeds": lambda config: (int(config.text_embed_dim),)},
    token_budget=_token_budget,
    modular=Modular(
        "anima",
        fields={"encoder_hidden_states": "prompt_embeds"},
        text_steps=("AnimaTextConditioningStep",),
    ),
)

register_family(ANIMA)
