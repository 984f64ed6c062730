"""HiDream-I1: a transformer that is given the text by T5, by the layers of a Llama and, pooled, by two CLIPs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from negguide.integration.families.base import Arguments, Denoiser, Family, TokenBudget
from negguide.integration.families.common import (
    counting_tokenizer,
    disabled_up_to_one,
    patch_tokens,
    pipe_guidance_scale,
    size_of,
    uncond_first,
    vae_latents,
)
from negguide.integration.families.registry import register_family

_BLOCKS = r"^(double|single)_stream_blocks\.\d+\.block\.attn1$"


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """That of an image of the proportions asked for, and always of the area that the model was trained on."""
    if arguments.get("latents") is not None:
        height, width = arguments["latents"].shape[-2:]
        return height, width
    side, patch = pipe.default_sample_size * pipe.vae_scale_factor, 2 * pipe.vae_scale_factor
    height, width = (int(arguments.get(name) or side) for name in ("height", "width"))
    # in this order, as the pipeline rounds
    scale = math.sqrt(side**2 / (width * height))
    return 2 * int(height * scale // patch), 2 * int(width * scale // patch)


def _text_length(arguments: Arguments) -> int:
    """How many tokens every text has: the model has no mask for them."""
    embeds = arguments.get("prompt_embeds_t5")
    return int(arguments["max_sequence_length"] if embeds is None else embeds.shape[1])


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    t5, _, llama, _, pooled, _ = pipe.encode_prompt(
        list(texts),
        device=pipe._execution_device,
        do_classifier_free_guidance=False,
        max_sequence_length=_text_length(arguments),
    )
    return [
        {
            "encoder_hidden_states_t5": t5[k : k + 1],
            "encoder_hidden_states_llama3": llama[:, k : k + 1],
            "pooled_embeds": pooled[k : k + 1],
        }
        for k in range(len(texts))
    ]


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    budgets = []
    for name in ("tokenizer_3", "tokenizer_4"):
        tokenizer = counting_tokenizer(pipe, name)
        limit = min(_text_length(arguments), tokenizer.model_max_length)
        budgets.append(TokenBudget(tokenizer, len(tokenizer(text).input_ids), limit))
    return max(budgets, key=lambda budget: budget.limit - budget.tokens)


def _image_tokens(sample: Any, latent_size: tuple[int, int]) -> tuple[int, int]:
    tokens = patch_tokens(latent_size)
    return tokens, tokens


def _filled_tokens(config: Any, latent_size: tuple[int, int]) -> int:
    """An image that is not square is filled up to as many tokens as there can be."""
    height, width = latent_size
    if height == width:
        return patch_tokens(latent_size)
    highest, widest = config.max_resolution
    return int(highest * widest // config.patch_size**2)


def _size_of_latents(inputs: Mapping[str, Any]) -> tuple[int, int]:
    if inputs["hidden_states"].ndim != 4:
        raise ValueError(
            "hidden_states must be latents [B, C, h, w] where a method of negguide acts, got shape "
            f"{list(inputs['hidden_states'].shape)}; let the model make patches of them"
        )
    return size_of("hidden_states")(inputs)


def _t5_channels(config: Any) -> int:
    return int(config.caption_channels[0])


HIDREAM_IMAGE = Family(
    name="HiDream-I1",
    pipelines=("HiDreamImagePipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4"),
    sample="hidden_states",
    timestep="timesteps",
    text={
        "encoder_hidden_states_t5": "tokens",
        "encoder_hidden_states_llama3": "layers first",
        "pooled_embeds": "pooled",
    },
    embeds={
        "encoder_hidden_states_t5": "prompt_embeds_t5",
        "encoder_hidden_states_llama3": "prompt_embeds_llama3",
        "pooled_embeds": "pooled_prompt_embeds",
    },
    channels={
        "prompt_embeds_llama3": lambda config: (int(config.caption_channels[1]),),
        "pooled_prompt_embeds": lambda config: (int(config.text_emb_dim),),
    },
    branches=uncond_first,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=_latent_size,
    encode_text=_encode_text,
    token_budget=_token_budget,
    encode_image=vae_latents,
    image_tokens=_image_tokens,
    filled_tokens=_filled_tokens,
    # its tokens of text attend to one another, and each block brings those of another layer of the Llama
    negative_rows=True,
    attention=((_BLOCKS, "image first"),),
    negtome_blocks=_BLOCKS,
    denoiser=Denoiser(
        classes=("HiDreamImageTransformer2DModel",),
        text_channels=_t5_channels,
        noise=lambda config: 1000.0,
        latent_size=_size_of_latents,
    ),
)

register_family(HIDREAM_IMAGE)
