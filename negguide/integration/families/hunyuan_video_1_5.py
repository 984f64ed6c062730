"""HunyuanVideo 1.5: a transformer that reads Qwen2.5-VL's text and ByT5's of what it quotes, as modular pipelines."""

from typing import Any

from negguide.integration.families.base import Arguments, Family, Modular, TokenBudget
from negguide.integration.families.common import counting_tokenizer
from negguide.integration.families.modular_only import MODULAR_ONLY
from negguide.integration.families.registry import register_family


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    # the module is there already, as that of the pipeline
    from diffusers.modular_pipelines.hunyuan_video1_5.encoders import extract_glyph_texts, format_text_input

    tokenizer, glyphs = counting_tokenizer(pipe), counting_tokenizer(pipe, "tokenizer_2")
    (chat,) = format_text_input([text], pipe.system_message)
    written = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    # what stands before the text is dropped from the encoder's output, and not counted
    limit = pipe.tokenizer_max_length + pipe.prompt_template_encode_start_idx
    budgets = [TokenBudget(tokenizer, len(written["input_ids"]), limit)]
    quoted = extract_glyph_texts(text)
    if quoted is not None:
        budgets.append(TokenBudget(glyphs, len(glyphs(quoted).input_ids), pipe.tokenizer_2_max_length))
    return min(budgets, key=lambda budget: budget.limit - budget.tokens)


HUNYUAN_VIDEO_1_5 = Family(
    **MODULAR_ONLY,
    name="HunyuanVideo 1.5",
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2"),
    sample="hidden_states",
    timestep="timestep",
    text={
        "encoder_hidden_states": "tokens",
        "encoder_attention_mask": "tokens",
        "encoder_hidden_states_2": "tokens",
        "encoder_attention_mask_2": "tokens",
    },
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_attention_mask": "prompt_embeds_mask",
        "encoder_hidden_states_2": "prompt_embeds_2",
        "encoder_attention_mask_2": "prompt_embeds_mask_2",
    },
    channels={
        "prompt_embeds": lambda config: (int(config.text_embed_dim),),
        "prompt_embeds_2": lambda config: (int(config.text_embed_2_dim),),
    },
    token_budget=_token_budget,
    modular=Modular(
        "hunyuan-video-1.5",
        fields={
            "encoder_hidden_states": "prompt_embeds",
            "encoder_attention_mask": "prompt_embeds_mask",
            "encoder_hidden_states_2": "prompt_embeds_2",
            "encoder_attention_mask_2": "prompt_embeds_mask_2",
        },
    ),
)

register_family(HUNYUAN_VIDEO_1_5)
