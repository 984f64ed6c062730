"""Wan 2.1 and 2.2 (text to video): transformers that meet UMT5's text in cross-attention, called once a branch."""

from collections.abc import Sequence
from typing import Any

from negguide.integration.families.base import Arguments, Denoiser, Family, Modular, TokenBudget
from negguide.integration.families.common import (
    cond_first,
    disabled_up_to_one,
    sequence_token_budget,
    size_of,
    split_texts,
)
from negguide.integration.families.registry import register_family


def _encode_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        list(texts),
        do_classifier_free_guidance=False,
        num_videos_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        device=pipe._execution_device,
    )
    return split_texts({"encoder_hidden_states": embeddings})


def _token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return sequence_token_budget(pipe, prompt_clean(text), arguments)


def _latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    factor = pipe.vae_scale_factor_spatial
    model = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    _, rows, columns = model.config.patch_size
    return (
        int(arguments["height"]) // (factor * rows) * rows,
        int(arguments["width"]) // (factor * columns) * columns,
    )


def _guidance_scale(pipe: Any, arguments: Arguments) -> float:
    second = arguments["guidance_scale_2"]
    boundary = pipe.config.boundary_ratio
    if second is None or boundary is None:
        return float(arguments["guidance_scale"])
    late = float(pipe.current_timestep) < boundary * pipe.scheduler.config.num_train_timesteps
    return float(second if late else arguments["guidance_scale"])


WAN = Family(
    name="Wan",
    pipelines=("WanPipeline",),
    # of Wan 2.2 the second draws the low-noise steps
    denoisers=("transformer", "transformer_2"),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    embeds={"encoder_hidden_states": "prompt_embeds"},
    # the timestep is [rows], or [rows, tokens] where each frame has its own
    batched=("timestep", "encoder_hidden_states_image"),
    branches=cond_first,
    sequential=True,
    guidance_scale=_guidance_scale,
    cfg_disabled_reason=disabled_up_to_one,
    latent_size=_latent_size,
    encode_text=_encode_text,
    token_budget=_token_budget,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
    denoiser=Denoiser(
        classes=("WanTransformer3DModel",),
        text_channels=lambda config: int(config.text_dim),
        noise=lambda config: 1000.0,
        latent_size=size_of("hidden_states"),
    ),
    modular=Modular("wan", fields={"encoder_hidden_states": "prompt_embeds"}),
)

register_family(WAN)
