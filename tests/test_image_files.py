"""One function opens every image that people give: the right way up, in 8 bits, on white."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negguide.image_files import UnreadableImageError, read_image, stored_form


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_turned_as_its_exif_data_say(orientation: int, kind: str) -> None:
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("red", (0, 0, 16, 16))
    # what a viewer must do to the stored pixels, by the number (EXIF 2.32, tag 0x0112), and its inverse
    stored_from = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encoded(stored_from[orientation](upright), kind, exif=exif))
    assert image.size == (48, 32)
    assert image.getpixel((4, 4))[0] > 200 and image.getpixel((44, 28))[0] < 60
    # nothing turns it a second time
    assert read_image(encoded(image)).size == (48, 32)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_become_8(kind: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    image = read_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(image)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]
    assert read_image(encoded(Image.fromarray(values), kind), "L").tobytes() == bytes([0, 1, 128, 255])


def test_a_tiff_of_12_bits_is_not_dark() -> None:
    # by hand, as Pillow writes none: two rows of two pixels, 12 bits each, packed
    pixels = bytes([0xFF, 0xF8, 0x00, 0x00, 0x00, 0x00])
    entries = ((256, 3, 2), (257, 3, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1))
    entries = (*entries, (278, 3, 2), (279, 4, len(pixels)))
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    start = 8 + len(pixels)
    content = (
        b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(entries)) + directory + b"\0" * 4
    )
    image = read_image(content, "L")
    assert image.size == (2, 2) and list(image.tobytes()) == [255, 128, 0, 0]


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")])
def test_what_every_reader_shows_alike_is_stored_as_it_came(kind: str, suffix: str) -> None:
    content = encoded(Image.new("RGB", (6, 4), "red"), kind)
    assert stored_form(content, "a") == (content, suffix)


def test_what_readers_show_differently_is_stored_as_it_looks() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (6, 4), "red"), "JPEG", exif=exif)
    clear = encoded(Image.new("RGBA", (6, 4), (0, 0, 0, 0)))
    deep = encoded(Image.fromarray(np.full((4, 6), 65535, np.uint16)))
    moving = encoded(
        Image.new("RGB", (6, 4)), "WEBP", save_all=True, append_images=[Image.new("RGB", (6, 4), "red")]
    )
    for content in (turned, clear, deep, moving, encoded(Image.new("RGB", (6, 4)), "TIFF")):
        stored, suffix = stored_form(content, "a")
        assert suffix == ".png" and stored != content
        with Image.open(io.BytesIO(stored)) as image:
            assert image.convert("RGB").tobytes() == read_image(content).tobytes()
    with pytest.raises(UnreadableImageError, match=r"^a: cannot identify image file"):
        stored_form(b"text", "a")


@pytest.mark.parametrize("values", [np.ones((2, 2), np.float32), np.ones((2, 2), np.int32)])
def test_what_has_no_agreed_white_is_refused(values: np.ndarray) -> None:
    with pytest.raises(
        UnreadableImageError, match=r"^depth\.tiff: its pixels are .* no agreed white; store it"
    ):
        read_image(encoded(Image.fromarray(values), "TIFF"), name="depth.tiff")


def see_through(mode: str) -> bytes:
    """A picture of one opaque red (or dark) pixel and one transparent one."""
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    match mode:
        case "P":
            palette = Image.new("P", (2, 1))
            palette.putpalette([255, 0, 0, 0, 0, 255])
            palette.putpixel((1, 0), 1)
            return encoded(palette, transparency=1)
        case "RGB":
            flat = Image.new("RGB", (2, 1), (255, 0, 0))
            flat.putpixel((1, 0), (0, 0, 255))
            return encoded(flat, transparency=(0, 0, 255))
        case "I;16":
            grey = Image.fromarray(np.array([[76 * 257, 5]], dtype=np.uint16))
            return encoded(grey, transparency=5)
    return encoded(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "I;16"])
def test_what_is_transparent_lies_on_white_and_in_a_mask_on_black(mode: str) -> None:
    opaque, clear = np.asarray(read_image(see_through(mode)))[0].tolist()
    assert clear == [255, 255, 255]
    assert opaque == ([255, 0, 0] if mode in ("RGBA", "P", "RGB") else [76, 76, 76])
    assert read_image(see_through(mode), "L").tobytes() == bytes([76, 0])


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "YCbCr"])
def test_other_colours_are_converted(mode: str) -> None:
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    image = read_image(encoded(white, "TIFF" if mode != "YCbCr" else "JPEG"))
    assert image.mode == "RGB" and image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, kind: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    path = tmp_path / "cut"
    path.write_bytes(encoded(noise, kind)[:1000])
    with pytest.raises(UnreadableImageError, match=r"/cut: "):
        read_image(path)
    with pytest.raises(UnreadableImageError, match=r"^a\.tar: cut: "):
        read_image(path.read_bytes(), name="a.tar: cut")


def test_what_is_no_image_is_named_and_nothing_differs_from_run_to_run() -> None:
    with pytest.raises(UnreadableImageError, match=r"^x\.png: cannot identify image file$"):
        read_image(b"words", name="x.png")


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
