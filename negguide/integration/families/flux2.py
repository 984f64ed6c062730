"""FLUX.2 klein and FLUX.2 dev: a transformer with joint attention over text and image, called once a branch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.common import (
    call_guidance_scale,
    chat_token_budget,
    cond_first,
    counting_tokenizer,
    disabled_up_to_one,
    image_size,
    joint_attention_channels,
    packed_size,
    packed_tokens,
    size_in_ids,
    split_texts,
    without_references,
)
from negguide.integration.families.registry import register_family


def _klein_cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    if pipe.config.is_distilled:
        return "this FLUX.2 is guidance-distilled, so there is no second prediction"
    return disabled_up_to_one(pipe, arguments)


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    if "mask_image" in arguments:
        return _inpaint_size(pipe, arguments)
    if arguments.get("latents") is not None:
        rows, columns = arguments["latents"].shape[-2:]
        return 2 * rows, 2 * columns
    if arguments.get("image") is None or (arguments.get("height") and arguments.get("width")):
        return packed_size(pipe, arguments)
    height, width = image_size(arguments["image"])
    # references above a megapixel are scaled down to one
    scale = min(1.0, (1024 * 1024 / (height * width)) ** 0.5)
    patch = 2 * pipe.vae_scale_factor
    height, width = (
        arguments.get("height") or int(height * scale),
        arguments.get("width") or int(width * scale),
    )
    return 2 * (height // patch), 2 * (width // patch)


def _inpaint_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """That of the image, whatever height and width say; above a megapixel it is scaled down to one."""
    image, patch = arguments["image"], 2 * pipe.vae_scale_factor
    height, width = image_size(image)
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] == 4 * pipe.latent_channels:
        return 2 * height, 2 * width
    if height * width > 1024 * 1024:
        scale = (1024 * 1024 / (height * width)) ** 0.5
        height, width = int(height * scale), int(width * scale)
    return 2 * (height // patch), 2 * (width // patch)


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, positions = pipe.encode_prompt(
        prompt=list(texts),
        device=pipe._execution_device,
        num_images_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        text_encoder_out_layers=arguments["text_encoder_out_layers"],
    )
    return split_texts({"encoder_hidden_states": embeddings, "txt_ids": positions})


def _text_positions(prompt_embeds: Tensor) -> Tensor:
    """[1, tokens, 4]; the text's tokens are counted along the last axis."""
    tokens = prompt_embeds.shape[1]
    positions = torch.zeros(1, tokens, 4, dtype=torch.int64, device=prompt_embeds.device)
    positions[0, :, 3] = torch.arange(tokens)
    return positions


def _encode_image(pipe: Any, pixels: Tensor) -> Tensor:
    pixels = pixels.to(pipe._execution_device, pipe.vae.dtype)
    packed: Tensor = pipe._pack_latents(pipe._encode_vae_image(image=pixels, generator=None))
    return packed


FLUX_2_KLEIN = Family(
    name="FLUX.2 klein",
    pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "txt_ids": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    derived={"txt_ids": _text_positions},
    # img_ids are of each row, unlike FLUX.1's: [rows, tokens, 4]
    batched=("timestep", "guidance", "img_ids"),
    branches=cond_first,
    sequential=True,
    guidance_scale=call_guidance_scale,
    cfg_disabled_reason=_klein_cfg_disabled,
    latent_size=_latent_size,
    encode_text=_encode_text,
    padded_text=True,
    token_budget=partial(chat_token_budget, thinking=False),
    encode_image=_encode_image,
    image_tokens=packed_tokens,
    prediction_slice=without_references,
    attention=((r"^(single_)?transformer_blocks\.\d+\.attn$", "text first"),),
    # a single-stream module of FLUX.2 gives attention and MLP in one, so only the double-stream ones are pushed
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
    denoiser=Denoiser(
        classes=("Flux2Transformer2DModel",),
        text_channels=joint_attention_channels,
        noise=lambda config: 1.0,
        latent_size=size_in_ids,
    ),
    # all texts have one length, and the positions of their tokens with it
    modular=Modular("flux2-klein", fields={"encoder_hidden_states": "prompt_embeds"}, packed=True),
)


def _dev_cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    return "FLUX.2 dev is guidance-distilled, so there is no second prediction"


def _dev_token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    # the module is there already, as that of the pipeline
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    processor = counting_tokenizer(pipe)
    chat = processor.apply_chat_template(
        format_input([text], system_message=pipe.system_message),
        add_generation_prompt=False,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    # what it names its tokenizer is the processor around one
    tokenizer = getattr(processor, "tokenizer", processor)
    return TokenBudget(tokenizer, chat["input_ids"].shape[1], arguments["max_sequence_length"])


def _modular_reader(components: Any) -> Any:
    """What a modular pipeline has inside its text encoder step."""
    from diffusers.modular_pipelines.flux2.encoders import Flux2TextEncoderStep

    return SimpleNamespace(
        tokenizer=components.tokenizer, system_message=Flux2TextEncoderStep.DEFAULT_SYSTEM_MESSAGE
    )


# its denoiser is klein's, which has the row already
FLUX_2_DEV = replace(
    FLUX_2_KLEIN,
    name="FLUX.2 dev",
    pipelines=("Flux2Pipeline",),
    branches=lambda pipe, arguments: ("cond",),
    cfg_disabled_reason=_dev_cfg_disabled,
    guided=False,
    token_budget=_dev_token_budget,
    denoiser=None,
    # its loop asks no guider
    modular=Modular("flux2", fields={}, reader=_modular_reader, latent_size=size_in_ids),
)

register_family(FLUX_2_KLEIN)
register_family(FLUX_2_DEV)
