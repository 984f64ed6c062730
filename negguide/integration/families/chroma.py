"""Chroma: FLUX.1's transformer without its distillation, with a mask over padded text, called once a branch."""

from collections.abc import Sequence
from typing import Any

from negguide.integration.families.base import Arguments, Denoiser, Family
from negguide.integration.families.common import (
    call_guidance_scale,
    cond_first,
    disabled_up_to_one,
    flux_text_positions,
    joint_attention_channels,
    lora_scale,
    packed_latents,
    packed_size,
    packed_tokens,
    sequence_token_budget,
    size_in_ids,
    split_texts,
    without_references,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, positions, mask, *_ = pipe.encode_prompt(
        prompt=list(texts),
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        max_sequence_length=arguments["max_sequence_length"],
        lora_scale=lora_scale(arguments, "joint_attention_kwargs"),
    )
    rows = split_texts({"encoder_hidden_states": embeddings, "attention_mask": mask})
    return [{**row, "txt_ids": positions} for row in rows]


CHROMA = Family(
    name="Chroma",
    pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "attention_mask": "tokens, image", "txt_ids": "positions"},
    embeds={"encoder_hidden_states": "prompt_embeds", "attention_mask": "prompt_attention_mask"},
    derived={"txt_ids": flux_text_positions},
    # img_ids are for all rows: [tokens, 3]
    batched=(
        "timestep",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        # one tensor for each IP-Adapter
        "joint_attention_kwargs.ip_adapter_image_embeds",
    ),
    controls=("controlnet_block_samples", "controlnet_single_block_samples"),
    branches=cond_first,
    sequential=True,
    guidance_scale=call_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=packed_size,
    encode_text=_encode_text,
    padded_text=True,
    token_budget=sequence_token_budget,
    encode_image=packed_latents,
    image_tokens=packed_tokens,
    prediction_slice=without_references,
    attention=((r"^(single_)?transformer_blocks\.\d+\.attn$", "text first"),),
    negtome_blocks=r"transformer_blocks\.\d+\.attn$",
    denoiser=Denoiser(
        classes=("ChromaTransformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1.0,
        latent_size=size_in_ids,
    ),
)

register_family(CHROMA)
