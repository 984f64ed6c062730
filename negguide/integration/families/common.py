"""What several families have in common: how their pipelines guide, size and encode."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from negguide.integration.family import Arguments, Reading


def guided_batch(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    return ("uncond", "cond") if pipe.do_classifier_free_guidance else ("cond",)


def cond_first(pipe: Any, arguments: Arguments) -> tuple[str, ...]:
    return ("cond", "uncond") if pipe.do_classifier_free_guidance else ("cond",)


def own_scale(pipe: Any, arguments: Arguments) -> float:
    return float(pipe.guidance_scale)


def off_up_to_one(pipe: Any, arguments: Arguments) -> str | None:
    scale = arguments["guidance_scale"]
    return None if scale > 1 else f"guidance_scale is {scale}, and guidance is off up to 1; use e.g. 4.5"


def size_asked_for(side: Callable[[Any], int]) -> Callable[[Any, Arguments], tuple[int, int]]:
    """`latent_size` of a call that names height and width in pixels; `side(pipe)` is the default in pixels."""

    def latent_size(pipe: Any, arguments: Arguments) -> tuple[int, int]:
        if arguments.get("latents") is not None:
            height, width = arguments["latents"].shape[-2:]
            return height, width
        height, width = (arguments.get(name) or side(pipe) for name in ("height", "width"))
        return int(height) // pipe.vae_scale_factor, int(width) // pipe.vae_scale_factor

    return latent_size


def each_text(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Text inputs [K, ..] of K texts as one dict [1, ..] each."""
    count = len(next(iter(rows.values())))
    return [{path: value[k : k + 1] for path, value in rows.items()} for k in range(count)]


def read_by_clip(pipe: Any, text: str, arguments: Arguments, name: str = "tokenizer") -> Reading:
    tokenizer = getattr(pipe, name)
    return Reading(tokenizer, len(tokenizer(text).input_ids), tokenizer.model_max_length)


def read_up_to(pipe: Any, text: str, arguments: Arguments, name: str = "tokenizer") -> Reading:
    """Text that is cut at `max_sequence_length`."""
    tokenizer = getattr(pipe, name)
    return Reading(tokenizer, len(tokenizer(text).input_ids), arguments["max_sequence_length"])


def read_as_message(pipe: Any, text: str, arguments: Arguments, thinking: bool) -> Reading:
    """The same of text that becomes a message in a chat."""
    messages = [{"role": "user", "content": text}]
    chat = pipe.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return read_up_to(pipe, chat, arguments)


def lora_scale(arguments: Arguments, name: str) -> float | None:
    return (arguments.get(name) or {}).get("scale")


def autoencoder_latents(pipe: Any, pixels: Tensor) -> Tensor:
    encoded = pipe.vae.encode(pixels.to(pipe._execution_device, pipe.vae.dtype))
    # AutoencoderTiny gives latents; AutoencoderKL a distribution, whose mode needs no random numbers
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    result: Tensor = (latents - shift) * pipe.vae.config.scaling_factor
    return result


def call_scale(pipe: Any, arguments: Arguments) -> float:
    return float(arguments["guidance_scale"])


def picture_size(picture: Any) -> tuple[int, int]:
    """(height, width) of what diffusers takes as an image: PIL, tensor, array, or a list of them.

    Raises:
        TypeError, ValueError: it is none of them, naming `image` and what would be right.
    """
    right = (
        "image must be a PIL image, a tensor [C, H, W] or [B, C, H, W], an array [H, W, C] or [B, H, W, C], or a list "
        "of these"
    )
    while isinstance(picture, list | tuple):
        if not picture:
            raise ValueError(f"{right}, got an empty list")
        picture = picture[0]
    if isinstance(picture, PIL.Image.Image):
        return picture.height, picture.width
    if not isinstance(picture, Tensor | np.ndarray):
        hint = "; open a file with PIL.Image.open" if isinstance(picture, str | Path) else ""
        raise TypeError(f"{right}, got {picture!r}{hint}")
    if picture.ndim < 3:
        raise ValueError(f"{right}, got one of shape {list(picture.shape)}")
    height, width = picture.shape[-2:] if isinstance(picture, Tensor) else picture.shape[-3:-1]
    return int(height), int(width)
