"""The denoisers by themselves, without a pipeline: which row each class belongs to, and what its inputs say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from negguide.integration.families import unet_family
from negguide.integration.families.cross import PIXART, SANA, WAN
from negguide.integration.families.joint import FLUX, FLUX_2_KLEIN, QWEN_IMAGE, STABLE_DIFFUSION_3
from negguide.integration.families.unet import STABLE_DIFFUSION
from negguide.integration.family import Family

LatentSize = Callable[[Mapping[str, Any]], tuple[int, int]]


@dataclass(frozen=True)
class Denoiser:
    """What a denoiser's own calls say, where there is no pipeline to ask.

    Attributes:
        family: its row; only what knows nothing of the pipeline is used.
        text_channels: `text_channels(config)` -> channels of its text input.
        noise: `noise(config)` -> the timestep of pure noise, as it is given to the model; 0 is the image.
        latent_size: `latent_size(inputs)` -> (height, width) of the generated image's latents.
    """

    family: Family
    text_channels: Callable[[Any], int]
    noise: Callable[[Any], float]
    latent_size: LatentSize


def _size_of(name: str) -> LatentSize:
    """That of latents [B, C, .., h, w]."""

    def latent_size(inputs: Mapping[str, Any]) -> tuple[int, int]:
        height, width = inputs[name].shape[-2:]
        return height, width

    return latent_size


def _size_in_ids(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """FLUX packs 2x2 latents to a token and says in `img_ids` (image, row, column, ..) where each one lies."""
    ids = inputs["img_ids"]
    # FLUX.2 has them for each row of the batch; reference images are images 1, 2, ..
    image, row, column = (ids if ids.ndim == 2 else ids[0]).unbind(dim=1)[:3]
    rows = int(((image == 0) & (column == 0)).sum())
    columns = int(((image == 0) & (row == 0)).sum())
    return 2 * rows, 2 * columns


def _size_in_shapes(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Qwen-Image's `img_shapes` holds (frames, rows, columns) in tokens of 2x2 latents, reference images' behind."""
    shape = inputs["img_shapes"][0]
    _, rows, columns = shape[0] if isinstance(shape, list) else shape
    return 2 * rows, 2 * columns


def _unet_channels(config: Any) -> int:
    if config.encoder_hid_dim_type == "text_proj":
        return int(config.encoder_hid_dim)
    channels: Any = config.cross_attention_dim
    return int(channels if isinstance(channels, int) else channels[0])


def _sana_noise(config: Any) -> float:
    # Sana Sprint, which embeds its guidance, counts from 1
    return 1.0 if config.guidance_embeds else 1000.0 * config.timestep_scale


DENOISERS: dict[str, Denoiser] = {
    "UNet2DConditionModel": Denoiser(
        STABLE_DIFFUSION,  # or XL
        text_channels=_unet_channels,
        noise=lambda config: 1000.0,
        latent_size=_size_of("sample"),
    ),
    "SD3Transformer2DModel": Denoiser(
        STABLE_DIFFUSION_3,
        text_channels=lambda config: int(config.joint_attention_dim),
        noise=lambda config: 1000.0,
        latent_size=_size_of("hidden_states"),
    ),
    "PixArtTransformer2DModel": Denoiser(
        PIXART,
        text_channels=lambda config: int(config.caption_channels),
        noise=lambda config: 1000.0,
        latent_size=_size_of("hidden_states"),
    ),
    "SanaTransformer2DModel": Denoiser(
        SANA,
        text_channels=lambda config: int(config.caption_channels),
        noise=_sana_noise,
        latent_size=_size_of("hidden_states"),
    ),
    "WanTransformer3DModel": Denoiser(
        WAN,
        text_channels=lambda config: int(config.text_dim),
        noise=lambda config: 1000.0,
        latent_size=_size_of("hidden_states"),
    ),
    "FluxTransformer2DModel": Denoiser(
        FLUX,
        text_channels=lambda config: int(config.joint_attention_dim),
        noise=lambda config: 1.0,
        latent_size=_size_in_ids,
    ),
    "Flux2Transformer2DModel": Denoiser(
        FLUX_2_KLEIN,
        text_channels=lambda config: int(config.joint_attention_dim),
        noise=lambda config: 1.0,
        latent_size=_size_in_ids,
    ),
    "QwenImageTransformer2DModel": Denoiser(
        QWEN_IMAGE,
        text_channels=lambda config: int(config.joint_attention_dim),
        noise=lambda config: 1.0,
        latent_size=_size_in_shapes,
    ),
}
"""The denoisers of diffusers that take attention processors, by class name."""


def denoiser_of(model: Any) -> Denoiser:
    """What is known of this model, by its class or one that it derives from.

    Raises:
        TypeError: nothing is, or it takes no attention processors.
    """
    names = [kind.__name__ for kind in type(model).__mro__]
    for name in names:
        if name in DENOISERS:
            known = DENOISERS[name]
            unet = known.family is STABLE_DIFFUSION
            return replace(known, family=unet_family(model)) if unet else known
    if "ZImageTransformer2DModel" in names:
        raise TypeError(
            "model is a ZImageTransformer2DModel, which has no set_attn_processor; use negguide.from_pipe(pipe) and "
            "pipe(..., negative_guidance=...)"
        )
    raise TypeError(f"model must be one of {', '.join(DENOISERS)} of diffusers, got {names[0]}")
