"""The rows of the families with joint attention over text and image: SD3, FLUX, Qwen-Image, Z-Image."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.common import (
    autoencoder_latents,
    call_scale,
    cond_first,
    each_text,
    guided_batch,
    lora_scale,
    off_up_to_one,
    own_scale,
    picture_size,
    read_as_message,
    read_by_clip,
    read_up_to,
    size_asked_for,
)
from negguide.integration.family import Arguments, Family, Reading


def _sd3_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        list(texts),
        None,
        None,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        clip_skip=arguments["clip_skip"],
        max_sequence_length=arguments["max_sequence_length"],
        lora_scale=lora_scale(arguments, "joint_attention_kwargs"),
    )
    return each_text({"encoder_hidden_states": embeddings, "pooled_projections": pooled})


def _sd3_reading(pipe: Any, text: str, arguments: Arguments) -> Reading:
    readings = [read_by_clip(pipe, text, arguments, "tokenizer_2")]
    if pipe.text_encoder_3 is not None:
        readings.append(read_up_to(pipe, text, arguments, "tokenizer_3"))
    return max(readings, key=lambda reading: reading.limit - reading.tokens)


STABLE_DIFFUSION_3 = Family(
    name="Stable Diffusion 3",
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2"),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "pooled_projections": "pooled"},
    branches=guided_batch,
    scale=own_scale,
    guidance_off=off_up_to_one,
    latent_size=size_asked_for(lambda pipe: pipe.default_sample_size * pipe.vae_scale_factor),
    encode_text=_sd3_text,
    reading=_sd3_reading,
    encode_image=autoencoder_latents,
    # a further call without some layers, for the pipeline's skip_guidance_layers
    aside=lambda inputs: inputs.get("skip_layers") is not None,
    attention=((r"^transformer_blocks\.\d+\.attn$", "image first"),),
    negtome_blocks=r"\.attn$",
)


def _tokens(latent_size: tuple[int, int]) -> int:
    """Image tokens of latents in patches of 2x2."""
    return (latent_size[0] // 2) * (latent_size[1] // 2)


def _packed_tokens(sample: Tensor, latent_size: tuple[int, int]) -> tuple[int, int]:
    return _tokens(latent_size), sample.shape[1]


def _first_tokens(prediction: Tensor, sample: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Without the tokens of reference images, which follow the generated image's."""
    return prediction[:, : _tokens(latent_size)]


def _packed_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """Latents are given in packed form, so the size is always that of height and width, in whole patches."""
    default = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = (int(arguments.get(name) or default) for name in ("height", "width"))
    patch = 2 * pipe.vae_scale_factor
    return 2 * (height // patch), 2 * (width // patch)


def _true_cfg(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    return ("cond",) if _true_cfg_off(pipe, arguments) else ("cond", "uncond")


def _true_cfg_off(pipe: Any, arguments: Arguments) -> str | None:
    if not arguments["true_cfg_scale"] > 1:
        return f"true_cfg_scale is {arguments['true_cfg_scale']}, and guidance is off up to 1; use e.g. 4"
    embeds = arguments.get("negative_prompt_embeds")
    if "negative_pooled_prompt_embeds" in arguments and arguments["negative_pooled_prompt_embeds"] is None:
        embeds = None
    if arguments["negative_prompt"] is None and embeds is None:
        return "negative_prompt is None, and this pipeline is guided only with one; give negative_prompt=''"
    return None


def _true_cfg_scale(pipe: Any, arguments: Arguments) -> float:
    return float(arguments["true_cfg_scale"])


def _flux_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, pooled, positions = pipe.encode_prompt(
        prompt=list(texts),
        prompt_2=None,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        lora_scale=lora_scale(arguments, "joint_attention_kwargs"),
    )
    rows = each_text({"encoder_hidden_states": embeddings, "pooled_projections": pooled})
    return [{**row, "txt_ids": positions} for row in rows]


def _packed_image(pipe: Any, pixels: Tensor) -> Tensor:
    latents = autoencoder_latents(pipe, pixels)
    packed: Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


FLUX = Family(
    name="FLUX.1",
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2"),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "pooled_projections": "pooled", "txt_ids": "positions"},
    branches=_true_cfg,
    sequential=True,
    scale=_true_cfg_scale,
    guidance_off=_true_cfg_off,
    latent_size=_packed_size,
    encode_text=_flux_text,
    reading=partial(read_up_to, name="tokenizer_2"),
    encode_image=_packed_image,
    image_tokens=_packed_tokens,
    predicted=_first_tokens,
    shared=("txt_ids", "img_ids"),
    attention=((r"^(single_)?transformer_blocks\.\d+\.attn$", "text first"),),
    # all blocks, t 1000->900, as published
    negtome_blocks=r"transformer_blocks\.\d+\.attn$",
    negtome_threshold=0.65,
    negtome_stop=0.1,
)


def _kontext_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """Kontext keeps the proportions asked for and draws at the area that it was trained on."""
    default = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = (int(arguments.get(name) or default) for name in ("height", "width"))
    proportion, patch = width / height, 2 * pipe.vae_scale_factor
    width = round((arguments["max_area"] * proportion) ** 0.5)
    height = round((arguments["max_area"] / proportion) ** 0.5)
    return 2 * (height // patch), 2 * (width // patch)


FLUX_KONTEXT = replace(FLUX, name="FLUX.1 Kontext", latent_size=_kontext_size)


def _klein_off(pipe: Any, arguments: Arguments) -> str | None:
    if pipe.config.is_distilled:
        return "this FLUX.2 is guidance-distilled, so there is no second prediction"
    return off_up_to_one(pipe, arguments)


def _flux2_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    if arguments.get("latents") is not None:
        rows, columns = arguments["latents"].shape[-2:]
        return 2 * rows, 2 * columns
    if arguments.get("image") is None or (arguments.get("height") and arguments.get("width")):
        return _packed_size(pipe, arguments)
    height, width = picture_size(arguments["image"])
    # references above a megapixel are scaled down to one
    scale = min(1.0, (1024 * 1024 / (height * width)) ** 0.5)
    patch = 2 * pipe.vae_scale_factor
    height, width = (
        arguments.get("height") or int(height * scale),
        arguments.get("width") or int(width * scale),
    )
    return 2 * (height // patch), 2 * (width // patch)


def _flux2_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, positions = pipe.encode_prompt(
        prompt=list(texts),
        device=pipe._execution_device,
        num_images_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        text_encoder_out_layers=arguments["text_encoder_out_layers"],
    )
    return each_text({"encoder_hidden_states": embeddings, "txt_ids": positions})


def _flux2_image(pipe: Any, pixels: Tensor) -> Tensor:
    pixels = pixels.to(pipe._execution_device, pipe.vae.dtype)
    packed: Tensor = pipe._pack_latents(pipe._encode_vae_image(image=pixels, generator=None))
    return packed


FLUX_2_KLEIN = Family(
    name="FLUX.2 klein",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "txt_ids": "tokens"},
    branches=cond_first,
    sequential=True,
    scale=call_scale,
    guidance_off=_klein_off,
    latent_size=_flux2_size,
    encode_text=_flux2_text,
    reading=partial(read_as_message, thinking=False),
    encode_image=_flux2_image,
    image_tokens=_packed_tokens,
    predicted=_first_tokens,
    attention=((r"^(single_)?transformer_blocks\.\d+\.attn$", "text first"),),
    # a single-stream module of FLUX.2 gives attention and MLP in one, so only the double-stream ones are pushed
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
)


def _dev_off(pipe: Any, arguments: Arguments) -> str | None:
    return "FLUX.2 dev is guidance-distilled, so there is no second prediction"


def _dev_reading(pipe: Any, text: str, arguments: Arguments) -> Reading:
    # the module is there already, as that of the pipeline
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    chat = pipe.tokenizer.apply_chat_template(
        format_input([text], system_message=pipe.system_message),
        add_generation_prompt=False,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    # what it names its tokenizer is the processor around one
    tokenizer = getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer)
    return Reading(tokenizer, chat["input_ids"].shape[1], arguments["max_sequence_length"])


FLUX_2_DEV = replace(
    FLUX_2_KLEIN,
    name="FLUX.2 dev",
    branches=lambda pipe, arguments: ("cond",),
    guidance_off=_dev_off,
    reading=_dev_reading,
)


def _qwen_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
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


def _qwen_reading(pipe: Any, text: str, arguments: Arguments) -> Reading:
    tokens = len(pipe.tokenizer(pipe.prompt_template_encode.format(text)).input_ids)
    # what stands before the text is dropped from the encoder's output, and not counted
    limit = min(pipe.tokenizer_max_length, arguments["max_sequence_length"])
    return Reading(pipe.tokenizer, tokens, limit + pipe.prompt_template_encode_start_idx)


def _qwen_image(pipe: Any, pixels: Tensor) -> Tensor:
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


QWEN_IMAGE = Family(
    name="Qwen-Image",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_hidden_states_mask": "tokens"},
    branches=_true_cfg,
    sequential=True,
    scale=_true_cfg_scale,
    guidance_off=_true_cfg_off,
    latent_size=_packed_size,
    encode_text=_qwen_text,
    reading=_qwen_reading,
    encode_image=_qwen_image,
    image_tokens=_packed_tokens,
    predicted=_first_tokens,
    text_positions="image_rotary_emb",
    shared=("img_shapes",),
    attention=((r"^transformer_blocks\.\d+\.attn$", "text first"),),
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
)


def _z_branches(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    truncation, scheduler = arguments["cfg_truncation"], pipe.scheduler
    if truncation is not None and truncation < 1:
        # guidance ends where so much of the way from noise to image is done
        timestep = scheduler.timesteps[scheduler.step_index or 0].float()
        if float((1000 - timestep) / 1000) > truncation:
            return ("cond",)
    return cond_first(pipe, arguments)


def _z_scale(pipe: Any, arguments: Arguments) -> float:
    """Z-Image computes c + s (c - u), which is u + (1 + s) (c - u)."""
    return 1.0 + float(pipe.guidance_scale)


def _z_off(pipe: Any, arguments: Arguments) -> str | None:
    scale = arguments["guidance_scale"]
    return None if scale > 0 else f"guidance_scale is {scale}, and Z-Image's guidance is off at 0; use e.g. 4"


def _z_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        prompt=list(texts),
        device=pipe._execution_device,
        do_classifier_free_guidance=False,
        max_sequence_length=arguments["max_sequence_length"],
    )
    return [{"cap_feats": [row]} for row in embeddings]


def _z_image(pipe: Any, pixels: Tensor) -> Tensor:
    return autoencoder_latents(pipe, pixels).unsqueeze(2)


Z_IMAGE = Family(
    name="Z-Image",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="x",
    timestep="t",
    text={"cap_feats": "tokens"},
    branches=_z_branches,
    scale=_z_scale,
    guidance_off=_z_off,
    latent_size=size_asked_for(lambda pipe: 1024),
    encode_text=_z_text,
    reading=partial(read_as_message, thinking=True),
    encode_image=_z_image,
    # padded to whole 32s
    image_tokens=lambda sample, latent_size: (_tokens(latent_size), -(-_tokens(latent_size) // 32) * 32),
    negative_rows=True,
    row_lists=("x", "cap_feats"),
    attention=((r"^layers\.\d+\.attention$", "image first"),),
    negtome_blocks=r"^layers\.\d+\.attention$",
)
