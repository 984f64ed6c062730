"""Qwen-Image: a transformer with joint attention over text and image, called once a branch."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.common import (
    counting_tokenizer,
    joint_attention_channels,
    packed_size,
    packed_tokens,
    true_cfg_branches,
    true_cfg_disabled,
    true_cfg_scale,
    without_references,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    rows = []
    # one by one: in a batch the shorter ones would be padded, and need masks
    for text in texts:
        embeddings, mask = pipe.encode_prompt(
            prompt=[text],
            device=pipe._execution_device,
            num_images_per_prompt=1,
            max_sequence_length=arguments["max_sequence_length"],
        )
        rows.append({"encoder_hidden_states": embeddings, "encoder_hidden_states_mask": mask})
    return rows


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    tokenizer = counting_tokenizer(pipe)
    tokens = len(tokenizer(pipe.prompt_template_encode.format(text)).input_ids)
    # what stands before the text is dropped from the encoder's output, and not counted
    limit = min(pipe.tokenizer_max_length, arguments["max_sequence_length"])
    return TokenBudget(tokenizer, tokens, limit + pipe.prompt_template_encode_start_idx)


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    config = pipe.vae.config
    frames = pixels[:, :, None].to(pipe._execution_device, pipe.vae.dtype)
    latents = pipe.vae.encode(frames).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (config.latents_mean, config.latents_std)
    )
    latents = (latents - mean) / std
    count, channels, _, height, width = latents.shape
    packed: Tensor = pipe._pack_latents(latents, count, channels, height, width)
    return packed


def _size_in_shapes(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """`img_shapes` holds (frames, rows, columns) in tokens of 2x2 latents, reference images' behind."""
    shape = inputs["img_shapes"][0]
    _, rows, columns = shape[0] if isinstance(shape, list) else shape
    return 2 * rows, 2 * columns


def _modular_reader(components: Any) -> Any:
    # the module is there already, as that of the pipeline, which does not hold the template itself
    from diffusers.modular_pipelines.qwenimage import prompt_templates

    return SimpleNamespace(
        tokenizer=components.tokenizer,
        prompt_template_encode=prompt_templates.QWENIMAGE_PROMPT_TEMPLATE,
        prompt_template_encode_start_idx=prompt_templates.QWENIMAGE_PROMPT_TEMPLATE_START_IDX,
        tokenizer_max_length=1024,
    )


QWEN_IMAGE = Family(
    name="Qwen-Image",
    pipelines=("QwenImagePipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_hidden_states_mask": "tokens"},
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_hidden_states_mask": "prompt_embeds_mask",
    },
    # img_shapes has an entry for each prompt, not for each row, and the model takes the first for all rows
    batched=("timestep", "guidance", "controlnet_block_samples", "additional_t_cond"),
    branches=true_cfg_branches,
    sequential=True,
    guidance_scale=true_cfg_scale,
    cfg_disabled_reason=true_cfg_disabled,
    latent_size=packed_size,
    encode_text=_encode_text,
    token_budget=_token_budget,
    encode_image=_encode_image,
    image_tokens=packed_tokens,
    prediction_slice=without_references,
    text_positions="image_rotary_emb",
    attention=((r"^transformer_blocks\.\d+\.attn$", "text first"),),
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
    denoiser=Denoiser(
        classes=("QwenImageTransformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1.0,
        latent_size=_size_in_shapes,
    ),
    modular=Modular(
        "qwenimage",
        fields={
            "encoder_hidden_states": "prompt_embeds",
            "encoder_hidden_states_mask": "prompt_embeds_mask",
        },
        packed=True,
        reader=_modular_reader,
    ),
)

register_family(QWEN_IMAGE)
