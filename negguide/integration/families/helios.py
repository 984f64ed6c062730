"""Helios: Wan's transformer with a memory, which draws a video chunk by chunk, as modular pipelines."""

from dataclasses import replace
from typing import Any

from negguide.integration.families.base import Arguments, Family, Modular, TokenBudget
from negguide.integration.families.common import sequence_token_budget
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    # the module is there already, as that of the pipeline
    from diffusers.modular_pipelines.helios.encoders import prompt_clean

    return sequence_token_budget(pipe, prompt_clean(text), arguments)


# every chunk has all the steps; the pyramid's stages have as many as they have, and windows are theirs
_MODULAR = Modular("helios", fields={"encoder_hidden_states": "prompt_embeds"})

HELIOS = Family(
    **MODULAR_ONLY,
    name="Helios",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    channels={"prompt_embeds": lambda config: (int(config.text_dim),)},
    token_budget=_token_budget,
    modular=(_MODULAR, replace(_MODULAR, model_name="helios-pyramid")),
)

register_family(HELIOS)
