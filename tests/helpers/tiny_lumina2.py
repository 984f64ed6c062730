"""A tiny random pipeline of Lumina-Image 2.0."""

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
)
from tiny_parts import T5_LENGTH, Tiny, louder, ready, size
from tiny_unet_and_cross import gemma, gemma_tokenizer, kl_vae
from tokenizers.normalizers import Replace
from transformers import PreTrainedTokenizerFast


def words() -> PreTrainedTokenizerFast:
    """The mark that the pipeline puts between its system prompt and a prompt is left out."""
    made = gemma_tokenizer()
    made.backend_tokenizer.normalizer = Replace("<Prompt Start>", "")
    return made


def lumina2() -> DiffusionPipeline:
    torch.manual_seed(50)
    model = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(64, 32, 32),
        cap_feat_dim=40,
    )
    strong = {"attn.to_": 2, "caption_embedder": 2}
    return ready(
        Lumina2Pipeline(
            tokenizer=words(),
            text_encoder=gemma(40),
            vae=kl_vae(16, shift_factor=0.06, scaling_factor=1.5),
            transformer=louder(model, strong),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


def as_a_negative() -> dict[str, Any]:
    """The system prompt is put before the prompt only."""
    return {"system_prompt": ""}


TINY: tuple[Tiny, ...] = (
    Tiny(
        "lumina2",
        lumina2,
        # a short system prompt, because the tokens of the pipeline's own would leave none for the prompt
        size(max_sequence_length=T5_LENGTH, system_prompt="a robot", cfg_normalization=False),
        alike=as_a_negative,
    ),
)
