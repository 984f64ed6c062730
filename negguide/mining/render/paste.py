"""Images and masks of one size, and pasting inside a mask."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageFilter


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``image`` at (width, height); a mask (L) stays a mask."""
    wanted = image if image.mode == "L" else image.convert("RGB")
    return wanted if wanted.size == size else wanted.resize(size, Image.Resampling.LANCZOS)


def inside(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``mask`` as 0 or 255 at (width, height)."""
    return fitted(mask.convert("L"), size).point(lambda value: 255 if value >= 128 else 0)


def paste(original: Image.Image, painted: Image.Image, mask: Image.Image) -> Image.Image:
    """``painted`` inside the mask, ``original`` outside it, to the last bit; the seam is soft on the inside."""
    original = original.convert("RGB")
    area = inside(mask, original.size)
    radius = max(1, min(original.size) // 64)
    # a seam that reaches outside would change what must not change
    soft = ImageChops.darker(area, area.filter(ImageFilter.GaussianBlur(radius)))
    return Image.composite(fitted(painted, original.size), original, soft)


def change_outside(original: Image.Image, changed: Image.Image, mask: Image.Image) -> float:
    """Mean absolute difference outside the mask, in [0, 1]; 0 when nothing is outside it."""
    area = np.asarray(inside(mask, original.size)) == 0
    if not area.any():
        return 0.0
    before = np.asarray(original.convert("RGB"), dtype=np.float32)
    after = np.asarray(fitted(changed, original.size).convert("RGB"), dtype=np.float32)
    return float(np.abs(after - before)[area].mean() / 255)
