"""Images and masks as tensors of the size that a model works on."""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.nn.functional import interpolate

from negguide.guidance.grid import resize_mask, token_grid
from negguide.methods import ImageLike, MaskLike, Negative


def image_tensor(image: ImageLike) -> torch.Tensor:
    """[3, H, W] float32 in [0, 1]."""
    if isinstance(image, torch.Tensor):
        return image.detach().float().cpu()
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def mask_tensor(mask: MaskLike) -> torch.Tensor:
    """[H, W] float32 in [0, 1]."""
    if isinstance(mask, torch.Tensor):
        return mask.detach().float().cpu()
    return torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32) / 255)


def packed(value: MaskLike) -> dict[str, Any]:
    """A mask, or a negative's embeddings, as JSON, whole, so that a config alone makes it again."""
    tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else mask_tensor(value)
    content = zlib.compress(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"shape": list(tensor.shape), "dtype": dtype, "zlib": b64encode(content).decode()}


def unpacked(stored: Mapping[str, Any]) -> torch.Tensor:
    """The inverse of `packed`."""
    content = bytearray(zlib.decompress(b64decode(stored["zlib"])))
    return torch.frombuffer(content, dtype=getattr(torch, stored["dtype"])).reshape(stored["shape"])


def image_size(image: ImageLike) -> tuple[int, int]:
    """(height, width) in pixels."""
    if isinstance(image, PIL.Image.Image):
        return image.height, image.width
    return image.shape[-2], image.shape[-1]


def check_aspect(name: str, mask: MaskLike, size: tuple[int, int], what: str) -> None:
    """Refuse a mask that would have to be stretched to lie over an image of (height, width) `size`.

    One pixel of rounding is allowed, so that a mask may be of any resolution.

    Raises:
        ValueError: naming both sizes.
    """
    height, width = image_size(mask)
    if abs(height * size[1] - width * size[0]) > max(size):
        raise ValueError(
            f"{name} is {width}x{height} (width x height) and {what} is {size[1]}x{size[0]}: "
            "a mask must have the aspect ratio of what it covers"
        )


def cover(image: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """[C, H, W] -> [1, C, height, width]: scaled to cover that size without distortion, the rest cut off evenly.

    `mode` is of torch's interpolate: "bilinear" (antialiased) for pictures, "area" for masks.
    """
    scale = max(height / image.shape[-2], width / image.shape[-1])
    size = (max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale)))
    scaled = interpolate(image[None], size=size, mode=mode, antialias=mode == "bilinear")
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[..., top : top + height, left : left + width]


def packed_frames(tokens: int, latent_size: tuple[int, int]) -> int:
    """How many frames a video of so many tokens has: one frame has no more of them than latents."""
    return max(1, tokens // (latent_size[0] * latent_size[1]))


def mask_over(mask: torch.Tensor, latents: torch.Tensor, latent_size: tuple[int, int]) -> torch.Tensor:
    """A mask [1, 1, h, w] in the shape of latents [B, C, h, w], [B, C, frames, h, w] or packed [B, tokens, C]."""
    if latents.ndim == 3:
        frames = packed_frames(latents.shape[1], latent_size)
        grid = token_grid(latents.shape[1] // frames, latent_size)
        return resize_mask(mask, grid).reshape(1, -1, 1).repeat(1, frames, 1)
    return mask if latents.ndim == 4 else mask[:, :, None]


def negative_masks(
    negatives: Sequence[Negative], size: tuple[int, int], latent_size: tuple[int, int], what: str
) -> torch.Tensor | None:
    """[K, 1, h, w] at the size of the latents; ones where a negative has no mask, None when none has.

    Raises:
        ValueError: for a mask that has not the aspect ratio of `size`, (height, width) of `what`.
    """
    if all(negative.mask is None for negative in negatives):
        return None
    masks = []
    for negative in negatives:
        if negative.mask is None:
            masks.append(torch.ones(1, *latent_size))
        else:
            check_aspect(f"mask of Negative({negative.prompt!r})", negative.mask, size, what)
            masks.append(resize_mask(mask_tensor(negative.mask)[None, None], latent_size)[0])
    return torch.stack(masks)
