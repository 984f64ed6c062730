"""CogView4: a transformer with joint attention over GLM's text and the image, called once a branch."""

from collections.abc import Sequence
from typing import Any

import torch

from negguide.integration.families.base import Arguments, Denoiser, Family
from negguide.integration.families.common import (
    cond_first,
    disabled_up_to_one,
    pipe_guidance_scale,
    requested_size,
    sequence_token_budget,
    size_of,
    vae_latents,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    def encoded(text: str) -> torch.Tensor:
        # one by one: texts are filled up to the longest beside them, and the filling is read
        embeddings, _ = pipe.encode_prompt(
            [text],
            do_classifier_free_guidance=False,
            num_images_per_prompt=1,
            max_sequence_length=arguments["max_sequence_length"],
            device=pipe._execution_device,
        )
        result: torch.Tensor = embeddings
        return result

    return [{"encoder_hidden_states": encoded(text)} for text in texts]


COGVIEW_4 = Family(
    name="CogView4",
    pipelines=("CogView4Pipeline",),
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    batched=("timestep", "original_size", "target_size", "crop_coords"),
    branches=cond_first,
    sequential=True,
    guidance_scale=pipe_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=requested_size(lambda pipe: pipe.transformer.config.sample_size * pipe.vae_scale_factor),
    encode_text=_encode_text,
    token_budget=sequence_token_budget,
    encode_image=vae_latents,
    attention=((r"^transformer_blocks\.\d+\.attn1$", "text first"),),
    negtome_blocks=r"attn1$",
    denoiser=Denoiser(
        classes=("CogView4Transformer2DModel",),
        text_channels=lambda config: int(config.text_embed_dim),
        noise=lambda config: 1000.0,
        latent_size=size_of("hidden_states"),
    ),
)

register_family(COGVIEW_4)
