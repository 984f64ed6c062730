"""FLUX.1 and FLUX.1 Kontext: a transformer with joint attention over text and image, called once a branch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family
from negguide.integration.families.common import (
    joint_attention_channels,
    lora_scale,
    packed_size,
    packed_tokens,
    pooled_channels,
    sequence_token_budget,
    size_in_ids,
    split_texts,
    true_cfg_branches,
    true_cfg_disabled,
    true_cfg_scale,
    vae_latents,
    without_references,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, pooled, positions = pipe.encode_prompt(
        prompt=list(texts),
        prompt_2=None,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        lora_scale=lora_scale(arguments, "joint_attention_kwargs"),
    )
    rows = split_texts({"encoder_hidden_states": embeddings, "pooled_projections": pooled})
    return [{**row, "txt_ids": positions} for row in rows]


def _text_positions(prompt_embeds: Tensor) -> Tensor:
    """[tokens, 3]; all of the text lies at 0."""
    return prompt_embeds.new_zeros(prompt_embeds.shape[1], 3)


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    latents = vae_latents(pipe, pixels)
    packed: Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


FLUX = Family(
    name="FLUX.1",
    pipelines=("FluxPipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2"),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "pooled_projections": "pooled", "txt_ids": "positions"},
    embeds={"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"},
    derived={"txt_ids": _text_positions},
    channels={"pooled_prompt_embeds": pooled_channels},
    # img_ids are for all rows: [tokens, 3]
    batched=(
        "timestep",
        "guidance",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        # one tensor for each IP-Adapter
        "joint_attention_kwargs.ip_adapter_image_embeds",
    ),
    branches=true_cfg_branches,
    sequential=True,
    guidance_scale=true_cfg_scale,
    cfg_disabled_reason=true_cfg_disabled,
    latent_size=packed_size,
    encode_text=_encode_text,
    token_budget=partial(sequence_token_budget, name="tokenizer_2"),
    encode_image=_encode_image,
    image_tokens=packed_tokens,
    prediction_slice=without_references,
    attention=((r"^(single_)?transformer_blocks\.\d+\.attn$", "text first"),),
    # all blocks, t 1000->900, as published
    negtome_blocks=r"transformer_blocks\.\d+\.attn$",
    defaults={"NegToMe": {"threshold": 0.65, "stop": 0.1}},
    denoiser=Denoiser(
        classes=("FluxTransformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1.0,
        latent_size=size_in_ids,
    ),
)


def _kontext_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """Kontext keeps the requested proportions and generates at the area that it was trained on."""
    default = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = (int(arguments.get(name) or default) for name in ("height", "width"))
    proportion, patch = width / height, 2 * pipe.vae_scale_factor
    width = round((arguments["max_area"] * proportion) ** 0.5)
    height = round((arguments["max_area"] / proportion) ** 0.5)
    return 2 * (height // patch), 2 * (width // patch)


# its denoiser is FLUX.1's, which has the row already
FLUX_KONTEXT = replace(
    FLUX,
    name="FLUX.1 Kontext",
    pipelines=("FluxKontextPipeline",),
    latent_size=_kontext_size,
    denoiser=None,
    modular=None,
)

register_family(FLUX)
register_family(FLUX_KONTEXT)
