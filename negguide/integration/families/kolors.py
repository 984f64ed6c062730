"""Kolors: SDXL's UNet, which meets the text of ChatGLM in cross-attention, and pooled beside the timestep."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from negguide.integration.families.base import Arguments, TokenBudget
from negguide.integration.families.common import counting_tokenizer, split_texts, unet_size
from negguide.integration.families.registry import register_family
from negguide.integration.families.stable_diffusion_xl import STABLE_DIFFUSION_XL

_READ = 256
"""How many tokens are read: the pipelines do not hand their `max_sequence_length` on."""


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        list(texts),
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        max_sequence_length=_READ,
    )
    return split_texts({"encoder_hidden_states": embeddings, "added_cond_kwargs.text_embeds": pooled})


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    tokenizer = counting_tokenizer(pipe)
    return TokenBudget(tokenizer, len(tokenizer(text).input_ids), _READ)


def _size_of_image(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """From image to image, height and width are only told to the UNet; the size is that of the image."""
    return unet_size(pipe, {**arguments, "height": None, "width": None}, fills_in_missing_side=True)


KOLORS = replace(
    STABLE_DIFFUSION_XL,
    name="Kolors",
    pipelines=("KolorsPipeline",),
    text_encoders=("text_encoder",),
    latent_size=partial(unet_size, fills_in_missing_side=True),
    encode_text=_encode_text,
    token_budget=_token_budget,
    # for attention processors its UNet is one of SDXL's
    denoiser=None,
    modular=None,
)

KOLORS_IMG2IMG = replace(
    KOLORS,
    name="Kolors from image to image",
    pipelines=("KolorsImg2ImgPipeline",),
    latent_size=_size_of_image,
)

register_family(KOLORS)
register_family(KOLORS_IMG2IMG)
