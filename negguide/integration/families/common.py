"""What several families have in common: how their pipelines guide, size and encode, and how their tokens lie."""

import copy
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from negguide.integration.families.base import Arguments, TokenBudget

LatentSize = Callable[[Any, Arguments], tuple[int, int]]
"""`latent_size` of a `Family`."""

# Guidance


def uncond_first(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    """The branches of a pipeline that puts the unconditional one first."""
    return ("uncond", "cond") if pipe.do_classifier_free_guidance else ("cond",)


def cond_first(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    """The branches of a pipeline that puts the conditional one first."""
    return ("cond", "uncond") if pipe.do_classifier_free_guidance else ("cond",)


def pipe_guidance_scale(pipe: Any, arguments: Arguments) -> float:
    """The pipeline's own, which a callback may change during a call."""
    return float(pipe.guidance_scale)


def call_guidance_scale(pipe: Any, arguments: Arguments) -> float:
    """The `guidance_scale` of the call."""
    return float(arguments["guidance_scale"])


def disabled_up_to_one(pipe: Any, arguments: Arguments) -> str | None:
    """Why there is no classifier-free guidance, for pipelines whose `guidance_scale` turns it on above 1."""
    scale = arguments["guidance_scale"]
    return None if scale > 1 else f"guidance_scale is {scale}, and guidance is off up to 1; use e.g. 4.5"


def true_cfg_branches(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    """Of models that take a guidance scale as an input, and beside it can be guided by a second prediction."""
    return ("cond",) if true_cfg_disabled(pipe, arguments) else ("cond", "uncond")


def true_cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    """Why there is no classifier-free guidance, for pipelines with `true_cfg_scale` and a negative prompt."""
    if not arguments["true_cfg_scale"] > 1:
        return f"true_cfg_scale is {arguments['true_cfg_scale']}, and guidance is off up to 1; use e.g. 4"
    embeds = arguments.get("negative_prompt_embeds")
    if "negative_pooled_prompt_embeds" in arguments and arguments["negative_pooled_prompt_embeds"] is None:
        embeds = None
    if arguments["negative_prompt"] is None and embeds is None:
        return "negative_prompt is None, and this pipeline is guided only with one; give negative_prompt=''"
    return None


def true_cfg_scale(pipe: Any, arguments: Arguments) -> float:
    """The `true_cfg_scale` of the call."""
    return float(arguments["true_cfg_scale"])


# Sizes


def requested_size(side: Callable[[Any], int]) -> LatentSize:
    """`latent_size` of a call that names height and width in pixels; `side(pipe)` is the default in pixels."""

    def latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
        if arguments.get("latents") is not None:
            height, width = arguments["latents"].shape[-2:]
            return height, width
        height, width = (arguments.get(name) or side(pipe) for name in ("height", "width"))
        return int(height) // pipe.vae_scale_factor, int(width) // pipe.vae_scale_factor

    return latent_size


def binned_size(side: Callable[[Any], int], bins: Callable[[int], Any]) -> LatentSize:
    """`latent_size` where the pipeline generates at the nearest size that it was trained on.

    Args:
        side: `side(pipe)` is the default in pixels.
        bins: `bins(sample_size)` is the table of sizes for a denoiser with this `config.sample_size`.
    """
    requested = requested_size(side)

    def latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
        height, width = requested(pipe, arguments)
        table = bins(pipe.transformer.config.sample_size) if arguments["use_resolution_binning"] else None
        if table is None:
            return height, width
        factor = pipe.vae_scale_factor
        height, width = pipe.image_processor.classify_height_width_bin(
            height * factor, width * factor, ratios=table
        )
        return height // factor, width // factor

    return latent_size


def unet_size(pipe: Any, arguments: Arguments, fills_in_missing_side: bool) -> tuple[int, int]:
    """`latent_size` of the UNets' pipelines. A side that is not given is that of the image, where there is one.

    Args:
        fills_in_missing_side: without an image, a missing side is the model's own; otherwise both are as soon as one is
            missing (Stable Diffusion from text).
    """
    if arguments.get("latents") is not None:
        height, width = arguments["latents"].shape[-2:]
        return height, width
    pixels: tuple[int | None, int | None] = (arguments.get("height"), arguments.get("width"))
    image, factor = _image_that_sizes(arguments), pipe.vae_scale_factor
    if image is not None and None in pixels:
        given = image_size(image)
        # image to image takes these for latents, as a base model hands them on to a refiner
        if "strength" in arguments and isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] == 4:
            return given
        # of a T2I-Adapter the image's sides are whole multiples of what it shrinks them by
        whole = factor if getattr(pipe, "adapter", None) is None else pipe.adapter.downscale_factor
        height, width = (
            whole * (its // whole) if pixel is None else int(pixel)
            for pixel, its in zip(pixels, given, strict=True)
        )
        return height // factor, width // factor
    size: Any = pipe.unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    own_size = None in pixels and not fills_in_missing_side
    height, width = (
        side if not pixel or own_size else int(pixel) // factor
        for pixel, side in zip(pixels, sides, strict=True)
    )
    return height, width


def _image_that_sizes(arguments: Arguments) -> Any:
    """The image whose size is the default; of inpainting alone, without a ControlNet, it is the model's own."""
    if arguments.get("mask_image") is not None and "control_image" not in arguments:
        return None
    image = arguments.get("image")
    return arguments.get("control_image") if image is None else image


def image_size(image: Any) -> tuple[int, int]:
    """(height, width) of what diffusers takes as an image: PIL, tensor, array, or a list of them.

    Raises:
        TypeError, ValueError: it is none of them, naming `image` and what would be right.
    """
    right = (
        "image must be a PIL image, a tensor [C, H, W] or [B, C, H, W], an array [H, W, C] or [B, H, W, C], or a list "
        "of these"
    )
    while isinstance(image, list | tuple):
        if not image:
            raise ValueError(f"{right}, got an empty list")
        image = image[0]
    if isinstance(image, PIL.Image.Image):
        return image.height, image.width
    if not isinstance(image, Tensor | np.ndarray):
        hint = "; open a file with PIL.Image.open" if isinstance(image, str | Path) else ""
        raise TypeError(f"{right}, got {image!r}{hint}")
    if image.ndim < 3:
        raise ValueError(f"{right}, got one of shape {list(image.shape)}")
    height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[-3:-1]
    return int(height), int(width)


def image_latents_size(pipe: Any, image: Any) -> tuple[int, int] | None:
    """(height, width) of an image that is given as latents; None = it is pixels, or there is none.

    Image processors do not resize latents.
    """
    first = image[0] if isinstance(image, list) and image else image
    if not isinstance(first, Tensor) or first.ndim < 3:
        return None
    if first.shape[-3] != pipe.image_processor.config.vae_latent_channels:
        return None
    height, width = first.shape[-2:]
    return height, width


# Text


def split_texts(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Text inputs [K, ..] of K texts as one dict [1, ..] each."""
    count = len(next(iter(rows.values())))
    return [{path: value[k : k + 1] for path, value in rows.items()} for k in range(count)]


def encode_masked_text(
    pipe: Any, texts: Sequence[str], arguments: Arguments, **further: Any
) -> list[dict[str, Any]]:
    """`encode_text` of pipelines that pad texts and say by a mask where they end."""
    embeddings, mask, _, _ = pipe.encode_prompt(
        list(texts),
        do_classifier_free_guidance=False,
        num_images_per_prompt=1,
        device=pipe._execution_device,
        clean_caption=arguments["clean_caption"],
        max_sequence_length=arguments["max_sequence_length"],
        **further,
    )
    return split_texts({"encoder_hidden_states": embeddings, "encoder_attention_mask": mask})


_counting: weakref.WeakKeyDictionary[Any, tuple[int, Any]] = weakref.WeakKeyDictionary()
_counting_lock = threading.Lock()


def counting_tokenizer(pipe: Any, name: str = "tokenizer") -> Any:
    """A copy of a pipeline's tokenizer, to count tokens with.

    A tokenizer keeps how it pads from one call to the next: counting with the pipeline's own would change what another
    thread is just encoding with it.
    """
    own = getattr(pipe, name)
    # a processor's is inside it
    vocabulary = len(own if hasattr(own, "__len__") else own.tokenizer)
    with _counting_lock:
        known = _counting.get(own)
        # a textual inversion adds tokens
        if known is None or known[0] != vocabulary:
            known = _counting[own] = (vocabulary, copy.deepcopy(own))
        return known[1]


def clip_token_budget(pipe: Any, text: str, arguments: Arguments, name: str = "tokenizer") -> TokenBudget:
    """Tokens of a text by a tokenizer of CLIP, and how many fit."""
    tokenizer = counting_tokenizer(pipe, name)
    return TokenBudget(tokenizer, len(tokenizer(text).input_ids), tokenizer.model_max_length)


def inversion_token_budget(
    pipe: Any, text: str, arguments: Arguments, name: str = "tokenizer"
) -> TokenBudget:
    """That of CLIP where a textual inversion may be several tokens."""
    return clip_token_budget(pipe, pipe.maybe_convert_prompt(text, getattr(pipe, name)), arguments, name)


def sequence_token_budget(pipe: Any, text: str, arguments: Arguments, name: str = "tokenizer") -> TokenBudget:
    """Of text that is cut at `max_sequence_length`."""
    tokenizer = counting_tokenizer(pipe, name)
    return TokenBudget(tokenizer, len(tokenizer(text).input_ids), arguments["max_sequence_length"])


def cleaned_token_budget(pipe: Any, text: str, arguments: Arguments) -> TokenBudget:
    """The same of text that the pipeline cleans first."""
    (cleaned,) = pipe._text_preprocessing(text, clean_caption=arguments["clean_caption"])
    return sequence_token_budget(pipe, cleaned, arguments)


def chat_token_budget(pipe: Any, text: str, arguments: Arguments, thinking: bool) -> TokenBudget:
    """The same of text that becomes a message in a chat."""
    messages = [{"role": "user", "content": text}]
    chat = pipe.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return sequence_token_budget(pipe, chat, arguments)


def lora_scale(arguments: Arguments, name: str) -> float | None:
    """The scale of LoRAs among the arguments for attention of this name; None = not said."""
    return (arguments.get(name) or {}).get("scale")


# Latents and predictions


def vae_latents(pipe: Any, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] in [-1, 1] as scaled latents of the autoencoder."""
    encoded = pipe.vae.encode(pixels.to(pipe._execution_device, pipe.vae.dtype))
    # AutoencoderTiny gives latents; AutoencoderKL a distribution, whose mode needs no random numbers
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    result: Tensor = (latents - shift) * pipe.vae.config.scaling_factor
    return result


def packed_frame_latents(pipe: Any, pixels: Tensor) -> Tensor:
    """Images as single frames to an autoencoder for video whose latents are normalised channel by channel, packed."""
    config = pipe.vae.config
    frames = pixels[:, :, None].to(pipe._execution_device, pipe.vae.dtype)
    latents = pipe.vae.encode(frames).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (config.latents_mean, config.latents_std)
    )
    latents = (latents - mean) / std
    count, channels, _, height, width = latents.shape
    packed: Tensor = pipe._pack_latents(latents, count, channels, height, width)
    return packed


def without_variances(prediction: Tensor, latents: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Without the learned variances, which come as as many channels again."""
    return prediction[:, : latents.shape[1]]


# Packed latents: 2x2 of them are one token, and reference images' tokens follow the generated image's


def patch_tokens(latent_size: tuple[int, int]) -> int:
    """Image tokens of latents in patches of 2x2."""
    return (latent_size[0] // 2) * (latent_size[1] // 2)


def packed_tokens(sample: Tensor, latent_size: tuple[int, int]) -> tuple[int, int]:
    """`image_tokens`: of the generated image, and together with reference images'."""
    return patch_tokens(latent_size), sample.shape[1]


def packed_latents(pipe: Any, pixels: Tensor) -> Tensor:
    """The same, packed into tokens as the pipeline packs its latents."""
    latents = vae_latents(pipe, pixels)
    packed: Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


def flux_text_positions(prompt_embeds: Tensor) -> Tensor:
    """[tokens, 3]; all of the text lies at 0."""
    return prompt_embeds.new_zeros(prompt_embeds.shape[1], 3)


def without_references(prediction: Tensor, sample: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """The tokens of a prediction that are of the image, without those of reference images behind them."""
    return prediction[:, : patch_tokens(latent_size)]


def packed_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
    """Latents are given in packed form, so the size is always that of height and width, in whole patches."""
    default = pipe.default_sample_size * pipe.vae_scale_factor
    height, width = (int(arguments.get(name) or default) for name in ("height", "width"))
    patch = 2 * pipe.vae_scale_factor
    return 2 * (height // patch), 2 * (width // patch)


# Denoisers by themselves


def size_of(name: str) -> Callable[[Mapping[str, Any]], tuple[int, int]]:
    """(height, width) of the input `name` of shape [B, C, .., h, w]."""

    def latent_size(inputs: Mapping[str, Any]) -> tuple[int, int]:
        height, width = inputs[name].shape[-2:]
        return height, width

    return latent_size


def size_in_ids(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """FLUX says in `img_ids` (image, row, column, ..) where each token of 2x2 latents lies."""
    ids = inputs["img_ids"]
    # FLUX.2 has them for each row of the batch; reference images are images 1, 2, ..
    image, row, column = (ids if ids.ndim == 2 else ids[0]).unbind(dim=1)[:3]
    rows = int(((image == 0) & (column == 0)).sum())
    columns = int(((image == 0) & (row == 0)).sum())
    return 2 * rows, 2 * columns


def joint_attention_channels(config: Any) -> int:
    """Channels of a text's tokens, where the config calls them `joint_attention_dim`."""
    return int(config.joint_attention_dim)


def pooled_channels(config: Any) -> tuple[int, ...]:
    """Channels of a text's pooled vector, by `pooled_projection_dim`."""
    return (int(config.pooled_projection_dim),)


def caption_channels(config: Any) -> int:
    """Channels of a text's tokens, where the config calls them `caption_channels`."""
    return int(config.caption_channels)


def unet_channels(config: Any) -> int:
    """Channels of a text's tokens of a UNet."""
    # of a projection before the UNet; its type tells nothing, for an IP-Adapter changes it
    if config.encoder_hid_dim is not None:
        return int(config.encoder_hid_dim)
    channels: Any = config.cross_attention_dim
    return int(channels if isinstance(channels, int) else channels[0])


def unet_cfg_disabled(pipe: Any, arguments: Arguments) -> str | None:
    """Why a UNet has no classifier-free guidance: it is distilled, or the scale is up to 1."""
    if pipe.unet.config.time_cond_proj_dim is not None:
        return "this UNet is distilled and takes guidance_scale as an input, so there is no second prediction"
    return disabled_up_to_one(pipe, arguments)


def is_sdxl(config: Any) -> bool:
    """Whether a UNet is one of Stable Diffusion XL: only those are told their image's size."""
    return bool(config.get("addition_embed_type") == "text_time")


UNET_CONTROLS = (
    # of ControlNets, and of T2I-Adapters
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
"""Inputs of `UNet2DConditionModel` that say where the parts of an image are to be."""

UNET_BATCHED = (
    # the pipelines give one number; a row each is as good
    "timestep",
    "timestep_cond",
    "class_labels",
    "attention_mask",
    "encoder_attention_mask",
    # one tensor for each IP-Adapter; its masks, in cross_attention_kwargs, are for all rows
    "added_cond_kwargs.image_embeds",
    *UNET_CONTROLS,
)
"""Further inputs of `UNet2DConditionModel` with a batch axis."""
