"""LTX-Video from text and from an image: a transformer that meets T5's text in cross-attention."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular
from negguide.integration.families.common import (
    caption_channels,
    disabled_up_to_one,
    pipe_guidance_scale,
    sequence_token_budget,
    split_texts,
    uncond_first,
)
from negguide.integration.families.registry import register_family


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """Latents are given in packed form, so the size is always that of height and width."""
    factor = pipe.vae_spatial_compression_ratio
    return int(arguments["height"]) // factor, int(arguments["width"]) // factor


def _size_in_inputs(inputs: Mapping[str, Any]) -> tuple[int, int]:
    return int(inputs["height"]), int(inputs["width"])


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, mask, _, _ = pipe.encode_prompt(
        prompt=list(texts),
        do_classifier_free_guidance=False,
        num_videos_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        device=pipe._execution_device,
    )
    return split_texts({"encoder_hidden_states": embeddings, "encoder_attention_mask": mask})


def _without_given_frame(prediction: Tensor, sample: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """The given image is the first frame."""
    return prediction[:, latent_size[0] * latent_size[1] :]


def _behind_given_frame(state: Mapping[str, Any]) -> slice:
    """As above, where a modular pipeline has an image."""
    given = state.get("image_latents")
    return slice(None) if given is None else slice(given.shape[-2] * given.shape[-1], None)


LTX = Family(
    name="LTX-Video",
    pipelines=("LTXPipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_attention_mask": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"},
    # the timestep is [rows], or [rows, tokens] where a frame is given
    batched=("timestep", "video_coords"),
    branches=uncond_first,
    upcasts=True,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=_latent_size,
    encode_text=_encode_text,
    padded_text=True,
    token_budget=sequence_token_budget,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
    denoiser=Denoiser(
        classes=("LTXVideoTransformer3DModel",),
        text_channels=caption_channels,
        noise=lambda config: 1000.0,
        latent_size=_size_in_inputs,
    ),
    # packed frames do not show where a token lies
    modular=Modular(
        "ltx",
        fields={"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"},
        packed=True,
        generated=_behind_given_frame,
        places=False,
    ),
)
LTX_IMAGE_TO_VIDEO = replace(
    LTX,
    name="LTX-Video from an image",
    pipelines=("LTXImageToVideoPipeline",),
    prediction_slice=_without_given_frame,
    denoiser=None,
    modular=None,
)

register_family(LTX)
register_family(LTX_IMAGE_TO_VIDEO)
