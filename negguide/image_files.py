"""How an image that people give is opened: the right way up, in 8 bits, on white where it is transparent."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from negguide.storage import ImageFile

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Of the files in an archive that are images."""
_KEPT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
"""Formats that every reader of image-caption sets opens, with the suffix by which they know them."""
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102

# What Pillow raises for broken files, whatever the format.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    struct.error,
    PIL.Image.DecompressionBombError,
)


class UnreadableImageError(ValueError):
    """An image that cannot be decoded; the message names it."""


def read_image(
    source: ImageFile | str | bytes, mode: str = "RGB", *, name: str | None = None
) -> PIL.Image.Image:
    """Decode an image whole, as a viewer shows it.

    - The orientation in the EXIF data is applied (`PIL.ImageOps.exif_transpose`).
    - 16 bits a channel become 8: ``round(255 v / 65535)``; of a TIFF with 12 bits ``round(255 v / 4095)``.
    - Transparency (a channel, a colour, or an entry of the palette) is laid on white; that of a mask (``mode="L"``) on
      black: what is transparent is not marked.
    - CMYK, greyscale, palettes and 1 bit are converted as Pillow does; of several frames the first is taken.

    Args:
        source: a file, wherever it lies, or the content of one.
        mode: "RGB", or "L" for a mask.
        name: what messages call it, e.g. "00000.tar: cat.jpg"; by default the path of the file.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImageError: it is broken, cut off or no image, or its values have no agreed white (32-bit integers
            and floats).
    """
    if name is None:
        name = "an image in memory" if isinstance(source, bytes) else str(source)
    # what is no path of this machine (in an archive, in an object store) is read first: that this fails says nothing of
    # the image
    known = source if isinstance(source, (bytes, str, Path)) else source.read_bytes()
    try:
        with PIL.Image.open(io.BytesIO(known) if isinstance(known, bytes) else known) as image:
            image.load()
            return shown(image, mode)
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        raise UnreadableImageError(f"{name}: {_reason(error)}") from error


def shown(image: PIL.Image.Image, mode: str = "RGB") -> PIL.Image.Image:
    """An opened image as `read_image` gives it.

    Raises:
        ValueError: its values have no agreed white.
    """
    # a turned image no longer knows its format
    image = _in_8_bits(PIL.ImageOps.exif_transpose(image), image.format, _white(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", image.size, "black" if mode == "L" else "white")
        image = PIL.Image.alpha_composite(ground, image)
    return image.convert(mode)


def stored_form(content: bytes, name: str) -> tuple[bytes, str]:
    """The bytes in which an image is stored in a set, and their suffix.

    They are those that it came in, where every reader shows the same image: a JPEG, PNG or WebP with 8 bits a channel,
    one frame, no transparency and no EXIF orientation. Others become a PNG of what `read_image` shows.

    Args:
        content: of the image's file.
        name: what messages call it.

    Raises:
        UnreadableImageError: as `read_image`; the pixels of what stays as it is are not decoded.
    """
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            plain = image.mode in ("RGB", "L", "P", "1") and not image.has_transparency_data
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            if plain and upright and image.format in _KEPT and getattr(image, "n_frames", 1) == 1:
                return content, _KEPT[image.format]
    except _BROKEN as error:
        raise UnreadableImageError(f"{name}: {_reason(error)}") from error
    shown_again = io.BytesIO()
    read_image(content, name=name).save(shown_again, "PNG")
    return shown_again.getvalue(), ".png"


def _white(image: PIL.Image.Image) -> int:
    """The largest value of a channel of 16 bits; a TIFF of 10, 12 or 14 bits a channel uses no more of them."""
    tags = getattr(image, "tag_v2", None) or {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    return (1 << min(int(bits[0] if isinstance(bits, tuple) else bits), 16)) - 1


def _in_8_bits(image: PIL.Image.Image, format: str | None, white: int) -> PIL.Image.Image:
    """Pillow cuts values above 255 off when it converts these modes."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    # 16-bit PNG and PGM files have mode "I" in older versions of Pillow
    if image.mode == "F" or (image.mode == "I" and format not in ("PNG", "PPM")):
        raise ValueError(
            f"its pixels are {'floats' if image.mode == 'F' else '32-bit integers'}, which have no agreed white; store "
            "it with 8 or 16 bits a channel"
        )
    values = np.asarray(image).astype(np.int64)
    grey = PIL.Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(PIL.Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        # Pillow adds the path, or the address of a buffer
        return "cannot identify image file"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.partition("\n")[0][:200] or type(error).__name__


def png_of(image: PIL.Image.Image) -> bytes:
    """The image as a PNG; it is encoded once, however often this is asked, so it must not be painted on in between."""
    held = vars(image)
    if _PNG not in held:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        held[_PNG] = stream.getvalue()
    content: bytes = held[_PNG]
    return content


_PNG = "negguide_png"
