"""A tiny random pipeline of CogView4."""

import torch
from diffusers import (
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_parts import END, PAD, START, VOCABULARY, Tiny, apart, louder, ready, size, tokenizer
from tiny_unet_and_cross import kl_vae
from transformers import GlmConfig, GlmModel, PreTrainedModel, PreTrainedTokenizerFast


def glm_tokenizer() -> PreTrainedTokenizerFast:
    words = tokenizer("<s> $A", 1000)
    words.padding_side = "left"
    return words


def glm(width: int) -> PreTrainedModel:
    config = GlmConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return apart(GlmModel(config))


def cogview4() -> DiffusionPipeline:
    torch.manual_seed(42)
    model = CogView4Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        text_embed_dim=40,
        time_embed_dim=16,
        condition_dim=4,
        pos_embed_max_size=16,
        rope_axes_dim=(16, 16),
    )
    strong = {"attn1.to_": 2, "text_proj": 2}
    flow = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return ready(
        CogView4Pipeline(
            tokenizer=glm_tokenizer(),
            text_encoder=glm(40),
            vae=kl_vae(16),
            transformer=louder(model, strong),
            scheduler=flow,
        )
    )


TINY: tuple[Tiny, ...] = (Tiny("cogview4", cogview4, size(max_sequence_length=16)),)
