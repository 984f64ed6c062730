"""A tiny random Krea 2."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
)
from tiny_joint import DYNAMIC, HEADS, QWEN, qwen_image, qwen_tokenizer
from tiny_parts import Tiny, apart, louder, ready, size
from transformers import PreTrainedModel, Qwen3VLConfig, Qwen3VLModel

TEXT_LENGTH = 20
"""Of which the end of the instruction takes 5."""


def qwen3_vl(width: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    config = Qwen3VLConfig(
        text_config={**QWEN, "hidden_size": width, "head_dim": 8, "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": width,
            "deepstack_visual_indexes": [0],
        },
    )
    return apart(Qwen3VLModel(config))


def krea2() -> DiffusionPipeline:
    torch.manual_seed(45)
    model = Krea2Transformer2DModel(
        **HEADS,
        in_channels=16,
        num_layers=2,
        num_key_value_heads=1,
        intermediate_size=48,
        timestep_embed_dim=32,
        text_hidden_dim=32,
        num_text_layers=3,
        text_num_attention_heads=4,
        text_num_key_value_heads=2,
        text_intermediate_size=48,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    strong = {"attn.to_": 2, "time_mod_proj": 3, "txt_in": 2, "projector": 2, "final_layer.linear": 2}
    vae: AutoencoderKLQwenImage = qwen_image().vae
    # one block has learnt tables of its own
    for name, parameter in model.named_parameters():
        if "scale_shift_table" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return ready(
        Krea2Pipeline(
            transformer=louder(model, strong),
            vae=vae,
            text_encoder=qwen3_vl(32),
            tokenizer=qwen_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
            text_encoder_select_layers=(1, 2, 4),
        )
    )


GUIDED: dict[str, Any] = {"max_sequence_length": TEXT_LENGTH, "guidance_scale": 3.0, "negative_prompt": ""}

TINY: tuple[Tiny, ...] = (Tiny("krea2", krea2, size(**GUIDED), scale_offset=1.0),)
