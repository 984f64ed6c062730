"""The rows of the transformers that meet their text in cross-attention: PixArt-Sigma, Sana, Wan."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from negguide.integration.families.common import (
    autoencoder_latents,
    call_scale,
    cond_first,
    each_text,
    guided_batch,
    lora_scale,
    off_up_to_one,
    read_up_to,
    size_asked_for,
)
from negguide.integration.family import Arguments, Family, Reading


def _masked_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    instruction: dict[str, Any] = {}
    if "complex_human_instruction" in arguments:
        # Sana puts its instruction before the prompt alone, never before a negative
        instruction = {"complex_human_instruction": None}
        instruction["lora_scale"] = lora_scale(arguments, "attention_kwargs")
    embeddings, mask, _, _ = pipe.encode_prompt(
        list(texts),
        do_classifier_free_guidance=False,
        num_images_per_prompt=1,
        device=pipe._execution_device,
        clean_caption=arguments["clean_caption"],
        max_sequence_length=arguments["max_sequence_length"],
        **instruction,
    )
    return each_text({"encoder_hidden_states": embeddings, "encoder_attention_mask": mask})


def _masked_reading(pipe: Any, text: str, arguments: Arguments) -> Reading:
    (cleaned,) = pipe._text_preprocessing(text, clean_caption=arguments["clean_caption"])
    return read_up_to(pipe, cleaned, arguments)


def _pixart_branches(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    return ("uncond", "cond") if arguments["guidance_scale"] > 1 else ("cond",)


def _binned_size(
    side: Callable[[Any], int], bins: Callable[[int], Any]
) -> Callable[[Any, Arguments], tuple[int, int]]:
    """`latent_size` where the pipeline draws at the nearest size that it was trained on."""
    asked = size_asked_for(side)

    def latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
        height, width = asked(pipe, arguments)
        table = bins(pipe.transformer.config.sample_size) if arguments["use_resolution_binning"] else None
        if table is None:
            return height, width
        factor = pipe.vae_scale_factor
        height, width = pipe.image_processor.classify_height_width_bin(
            height * factor, width * factor, ratios=table
        )
        return height // factor, width // factor

    return latent_size


def _pixart_bins(sample_size: int) -> Any:
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha as alpha
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_sigma as sigma

    tables = {256: "ASPECT_RATIO_2048_BIN", 128: "ASPECT_RATIO_1024_BIN", 64: "ASPECT_RATIO_512_BIN"}
    name = tables.get(sample_size, "ASPECT_RATIO_256_BIN")
    return getattr(sigma, name, None) or getattr(alpha, name)


def _sana_bins(sample_size: int) -> Any:
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha as alpha
    from diffusers.pipelines.sana import pipeline_sana as sana

    tables = {128: "ASPECT_RATIO_4096_BIN", 64: "ASPECT_RATIO_2048_BIN", 32: "ASPECT_RATIO_1024_BIN"}
    name = tables.get(sample_size, "ASPECT_RATIO_512_BIN")
    return getattr(sana, name, None) or getattr(alpha, name)


def _first_channels(prediction: Tensor, latents: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Without the learned variances, which come as as many channels again."""
    return prediction[:, : latents.shape[1]]


PIXART = Family(
    name="PixArt-Sigma",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_attention_mask": "tokens"},
    branches=_pixart_branches,
    scale=call_scale,
    guidance_off=off_up_to_one,
    latent_size=_binned_size(
        lambda pipe: pipe.transformer.config.sample_size * pipe.vae_scale_factor, _pixart_bins
    ),
    encode_text=_masked_text,
    reading=_masked_reading,
    encode_image=autoencoder_latents,
    predicted=_first_channels,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
)


def _deep_autoencoder(pipe: Any, pixels: Tensor) -> Tensor:
    latents = pipe.vae.encode(pixels.to(pipe._execution_device, pipe.vae.dtype)).latent
    result: Tensor = latents * pipe.vae.config.scaling_factor
    return result


SANA = Family(
    name="Sana",
    denoisers=("transformer",),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens", "encoder_attention_mask": "tokens"},
    branches=guided_batch,
    scale=call_scale,
    guidance_off=off_up_to_one,
    latent_size=_binned_size(lambda pipe: 1024, _sana_bins),
    encode_text=_masked_text,
    reading=_masked_reading,
    encode_image=_deep_autoencoder,
    predicted=_first_channels,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
)


def _wan_text(pipe: Any, texts: Sequence[str], arguments: Arguments) -> list[dict[str, Any]]:
    embeddings, _ = pipe.encode_prompt(
        list(texts),
        do_classifier_free_guidance=False,
        num_videos_per_prompt=1,
        max_sequence_length=arguments["max_sequence_length"],
        device=pipe._execution_device,
    )
    return each_text({"encoder_hidden_states": embeddings})


def _wan_reading(pipe: Any, text: str, arguments: Arguments) -> Reading:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return read_up_to(pipe, prompt_clean(text), arguments)


def _wan_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    factor = pipe.vae_scale_factor_spatial
    model = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    _, rows, columns = model.config.patch_size
    return (
        int(arguments["height"]) // (factor * rows) * rows,
        int(arguments["width"]) // (factor * columns) * columns,
    )


def _wan_scale(pipe: Any, arguments: Arguments) -> float:
    second = arguments["guidance_scale_2"]
    boundary = pipe.config.boundary_ratio
    if second is None or boundary is None:
        return float(arguments["guidance_scale"])
    late = float(pipe.current_timestep) < boundary * pipe.scheduler.config.num_train_timesteps
    return float(second if late else arguments["guidance_scale"])


WAN = Family(
    name="Wan",
    denoisers=("transformer", "transformer_2"),
    text_encoders=("text_encoder",),
    sample="hidden_states",
    timestep="timestep",
    text={"encoder_hidden_states": "tokens"},
    branches=cond_first,
    sequential=True,
    scale=_wan_scale,
    guidance_off=off_up_to_one,
    latent_size=_wan_size,
    encode_text=_wan_text,
    reading=_wan_reading,
    attention=((r"attn2$", "cross"),),
    negtome_blocks=r"attn1$",
)
