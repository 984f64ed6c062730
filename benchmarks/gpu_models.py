"""SDXL and FLUX.1-dev in their real shapes with random weights, and small ones of the same architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

PROMPT = "a bear wearing glasses"
NEGATIVE = "black glasses"

UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 768 + 1280,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 1280,
}
UNET_TINY: dict[str, Any] = {
    **UNET,
    "sample_size": 8,
    "block_out_channels": (32, 32, 64),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (1, 1, 2),
    "cross_attention_dim": 32 + 64,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 64,
}
FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
FLUX_TINY: dict[str, Any] = {
    **FLUX,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHIFT: dict[str, Any] = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
VOCABULARY = {
    word: i
    for i, word in enumerate(("<pad>", "<s>", "<unk>", "</s>", *sorted({*PROMPT.split(), *NEGATIVE.split()})))
}


@contextmanager
def built_on(device: torch.device) -> Iterator[None]:
    """Models made here have their random weights on the device, in bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def tokenizer(template: str, length: int) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    special = [(token, VOCABULARY[token]) for token in ("<s>", "</s>")]
    words.post_processor = TemplateProcessing(single=template, special_tokens=special)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **names)


def clip_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=max(1, width // 64),
        bos_token_id=VOCABULARY["<s>"],
        eos_token_id=VOCABULARY["</s>"],
        pad_token_id=VOCABULARY["<pad>"],
    )


def vae(channels: int) -> AutoencoderKL:
    """Never run, for the output is latents; it only says that a latent has 8 x 8 pixels."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
    )


def sdxl(device: torch.device, tiny: bool) -> Any:
    first, second = (32, 64) if tiny else (768, 1280)
    with built_on(device):
        models = {
            "unet": UNet2DConditionModel(**(UNET_TINY if tiny else UNET)),
            "text_encoder": CLIPTextModel(clip_config(first)),
            "text_encoder_2": CLIPTextModelWithProjection(clip_config(second)),
            "vae": vae(4),
        }
    words = tokenizer("<s> $A </s>", 77)
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    return StableDiffusionXLPipeline(**models, tokenizer=words, tokenizer_2=words, scheduler=scheduler)


def flux(device: torch.device, tiny: bool) -> Any:
    config = FLUX_TINY if tiny else FLUX
    width = config["joint_attention_dim"]
    t5 = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=width,
        d_kv=min(64, width),
        d_ff=10240 if width == 4096 else width,
        num_layers=1,
        num_heads=max(1, width // 64),
        feed_forward_proj="gated-gelu",
    )
    with built_on(device):
        models = {
            "transformer": FluxTransformer2DModel(**config),
            "text_encoder": CLIPTextModel(clip_config(config["pooled_projection_dim"])),
            "text_encoder_2": T5EncoderModel(t5),
            "vae": vae(16),
        }
    return FluxPipeline(
        **models,
        tokenizer=tokenizer("<s> $A </s>", 77),
        tokenizer_2=tokenizer("$A </s>", 512),
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFT),
    )


@dataclass(frozen=True)
class Model:
    """A pipeline, how it is called, and what was published for it.

    Attributes:
        plain: arguments of a call. guided: those of one with classifier-free guidance, which Perp-Neg needs.
        threshold, window: NegToMe's as published, the window as a share of 25 steps at 1024 px: t 1000-800 of SDXL's
            schedule, t 1000-900 of FLUX's, which is shifted.
        tokens: [B, N, C] of the self-attention outputs it pushes at 1024 px.
    """

    build: Callable[[torch.device, bool], Any]
    plain: dict[str, Any]
    guided: dict[str, Any]
    threshold: float
    window: float
    tokens: tuple[tuple[int, int, int], ...]


MODELS = {
    "SDXL": Model(
        build=sdxl,
        plain={"guidance_scale": 5.0},
        guided={"guidance_scale": 5.0},
        threshold=0.7,
        window=0.2,
        tokens=((2, 1024, 1280), (2, 4096, 640)),
    ),
    "FLUX.1-dev": Model(
        build=flux,
        plain={"guidance_scale": 3.5},
        guided={"guidance_scale": 3.5, "true_cfg_scale": 4.0, "negative_prompt": ""},
        threshold=0.65,
        window=7 / 25,
        tokens=((1, 4096, 3072),),
    ),
}
