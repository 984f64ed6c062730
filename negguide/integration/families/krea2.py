"""Krea 2: a transformer over one sequence of text and image, which fuses several layers of its text encoder."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.common import (
    cond_first,
    counting_tokenizer,
    packed_frame_latents,
    split_texts,
)
from negguide.integration.families.registry import register_family


def _guidance_scale(pipe: Any, arguments: Arguments) -> float:
    """Krea 2 computes c + s (c - u), which is u + (1 + s) (c - u)."""
    return 1.0 + float(arguments["guidance_scale"])


def _cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    scale = arguments["guidance_scale"]
    return (
        None if scale > 0 else f"guidance_scale is {scale}, and Krea 2's guidance is off at 0; use e.g. 4.5"
    )


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """That of height and width, rounded up to whole patches; latents are given in packed form."""
    patch = pipe.vae_scale_factor * pipe.patch_size
    height, width = (-(-int(arguments[name]) // patch) for name in ("height", "width"))
    return height * pipe.patch_size, width * pipe.patch_size


def _text_length(arguments: Arguments) -> int:
    """How many tokens every text has: the model knows one length a call."""
    embeds = arguments.get("prompt_embeds")
    return int(arguments["max_sequence_length"] if embeds is None else embeds.shape[1])


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, mask = pipe.encode_prompt(
        list(texts), device=pipe._execution_device, max_sequence_length=_text_length(arguments)
    )
    return split_texts({"encoder_hidden_states": embeddings, "encoder_attention_mask": mask})


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    tokenizer = counting_tokenizer(pipe)
    tokens = len(tokenizer(pipe.prompt_template_encode_prefix + text).input_ids)
    # what stands before the text is dropped from the encoder's output, and what stands behind it is always read
    around = pipe.prompt_template_encode_start_idx - pipe.prompt_template_encode_num_suffix_tokens
    return TokenBudget(tokenizer, tokens, _text_length(arguments) + around)


def _image_tokens(sample: Any, latent_size: tuple[int, int]) -> tuple[int, int]:
    return sample.shape[1], sample.shape[1]


def _size_in_positions(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """`position_ids` holds (0, row, column) of each token of 2x2 latents, and zeros for the text."""
    _, rows, columns = inputs["position_ids"].unbind(dim=1)
    return 2 * (int(rows.max()) + 1), 2 * (int(columns.max()) + 1)


def _text_channels(config: Any) -> int:
    return int(config.text_hidden_dim)


def _modular_reader(components: Any) -> Any:
    """What a modular pipeline has inside its text encoder step."""
    from diffusers.modular_pipelines.krea2 import encoders

    return SimpleNamespace(
        tokenizer=components.tokenizer,
        prompt_template_encode_prefix=encoders._PROMPT_TEMPLATE_ENCODE_PREFIX,
        prompt_template_encode_start_idx=encoders._PROMPT_TEMPLATE_ENCODE_START_IDX,
        prompt_template_encode_num_suffix_tokens=encoders._PROMPT_TEMPLATE_ENCODE_NUM_SUFFIX_TOKENS,
    )


KREA_2 = Family(
    name="Krea 2",
    pipelines=("Krea2Pipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "layers", "encoder_attention_mask": "tokens"},
    embeds={
        "encoder_hidden_states": "prompt_embeds",
        "encoder_attention_mask": "prompt_embeds_mask",
    },
    # position_ids are those of all rows: the text's tokens have one place, the image's theirs
    batched=("timestep",),
    branches=cond_first,
    sequential=True,
    guidance_scale=_guidance_scale,
    cfg_disabled_reason=_cfg_disabled,
    latent_size=_latent_size,
    encode_text=_encode_text,
    token_budget=_token_budget,
    encode_image=packed_frame_latents,
    image_tokens=_image_tokens,
    # its tokens of text attend to one another before they meet the image
    negative_rows=True,
    attention=((r"^transformer_blocks\.\d+\.attn$", "text first"),),
    negtome_blocks=r"^transformer_blocks\.\d+\.attn$",
    denoiser=Denoiser(
        classes=("Krea2Transformer2DModel",),
        text_channels=_text_channels,
        noise=lambda config: 1.0,
        latent_size=_size_in_positions,
    ),
    modular=Modular(
        "krea2",
        fields={
            "encoder_hidden_states": "prompt_embeds",
            "encoder_attention_mask": "prompt_embeds_mask",
        },
        packed=True,
        reader=_modular_reader,
    ),
)

register_family(KREA_2)
