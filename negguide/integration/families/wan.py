"""Wan 2.1 and 2.2: transformers that meet UMT5's text in cross-attention, called once a branch.

From text, from an image, from a video, and VACE with all of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from negguide.integration.families.base import (
    NEGTOME_DEFAULTS,
    Arguments,
    Denoiser,
    Family,
    Modular,
    TokenBudget,
)
from negguide.integration.families.common import (
    call_guidance_scale,
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
    if arguments.get("latents") is not None:
        height, width = arguments["latents"].shape[-2:]
        return height, width
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


def _size_of_one_each(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    videos = arguments["num_videos_per_prompt"]
    if videos != 1:
        raise ValueError(
            f"num_videos_per_prompt is {videos}, and {type(pipe).__name__} makes one video of each prompt whatever it "
            "is; give 1, and the prompt several times in a list"
        )
    return _latent_size(pipe, arguments)


def _without_given_frame(prediction: Tensor, sample: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Wan 2.2 5B has the given image in the place of the first frame; the others have it in further channels."""
    return prediction[:, :, 1:] if sample.shape[1] == prediction.shape[1] else prediction


def _has_image_tokens(module: nn.Module) -> bool:
    return getattr(module, "add_k_proj", None) is not None


_DENOISER = Denoiser(
    classes=("WanTransformer3DModel",),
    text_channels=lambda config: int(config.text_dim),
    noise=lambda config: 1000.0,
    latent_size=size_of("hidden_states"),
)
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
    padded_text=True,
    token_budget=_token_budget,
    attention=((r"attn2$", "cross"),),
    counts_text=_has_image_tokens,
    negtome_blocks=r"attn1$",
    # of NAG as published
    defaults={"NegToMe": NEGTOME_DEFAULTS, "NAG": {"scale": 9.0}},
    denoiser=_DENOISER,
    modular=Modular("wan", fields={"encoder_hidden_states": "prompt_embeds"}),
)

WAN_IMAGE_TO_VIDEO = replace(
    WAN,
    name="Wan from an image",
    pipelines=("WanImageToVideoPipeline",),
    prediction_slice=_without_given_frame,
    denoiser=None,
    modular=Modular(
        "wan-i2v", fields={"encoder_hidden_states": "prompt_embeds"}, latent_size=size_of("hidden_states")
    ),
)
WAN_VIDEO_TO_VIDEO = replace(
    WAN,
    name="Wan from a video",
    pipelines=("WanVideoToVideoPipeline",),
    denoisers=("transformer",),
    guidance_scale=call_guidance_scale,
    latent_size=_size_of_one_each,
    denoiser=None,
    modular=None,
)
WAN_VACE = replace(
    WAN,
    name="Wan VACE",
    pipelines=("WanVACEPipeline",),
    # what it is given; how much each layer heeds it is for all rows
    batched=(*WAN.batched, "control_hidden_states"),
    negtome_blocks=r"^blocks\.\d+\.attn1$",
    denoiser=replace(_DENOISER, classes=("WanVACETransformer3DModel",)),
    modular=Modular("wan-vace", fields={"encoder_hidden_states": "prompt_embeds"}),
)

register_family(WAN)
register_family(WAN_IMAGE_TO_VIDEO)
register_family(WAN_VIDEO_TO_VIDEO)
register_family(WAN_VACE)
