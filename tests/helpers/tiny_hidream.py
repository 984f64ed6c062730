"""A tiny random HiDream-I1."""

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from tiny_joint import HEADS, flux_vae
from tiny_parts import (
    END,
    PAD,
    START,
    T5_TEXT,
    VOCABULARY,
    Tiny,
    apart,
    clip_text,
    clip_tokenizer,
    louder,
    ready,
    size,
    t5,
    t5_tokenizer,
    tokenizer,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel


def llama(width: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
        # it is asked for its attentions too
        attn_implementation="eager",
    )
    return apart(LlamaForCausalLM(config))


def hidream() -> DiffusionPipeline:
    torch.manual_seed(46)
    model = HiDreamImageTransformer2DModel(
        **HEADS,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        # T5's and Llama's
        caption_channels=[32, 24],
        text_emb_dim=28,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 6, 6),
        # more than any image here has, which is filled up to it unless it is square
        max_resolution=(8, 12),
        # one for each block, the last one of them twice
        llama_layers=[0, 1, 3, 3],
    )
    strong = {"attn1.to_": 2, "adaLN_modulation": 2, "caption_projection": 2, "p_embedder": 2}
    pipe = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux_vae(),
        text_encoder=clip_text(32, projection=12),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(24, projection=16),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(32),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=llama(24),
        tokenizer_4=tokenizer("<s> $A", 1000),
        transformer=louder(model, {**strong, "final_layer.linear": 2}),
    )
    # every image has the area of a square of this side
    pipe.default_sample_size = 8
    return ready(pipe)


GUIDED: dict[str, Any] = {**T5_TEXT, "guidance_scale": 3.0, "negative_prompt": ""}

TINY: tuple[Tiny, ...] = (Tiny("hidream", hidream, size(**GUIDED)),)
