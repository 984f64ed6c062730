"""Pictures that say how they were made: labelled grids, PNGs with their settings inside, JSON beside them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from PIL.PngImagePlugin import PngInfo

from negguide.storage import write_whole
from negguide.version import __version__

SETTINGS_KEY = "negguide"
"""The keyword of the PNG text chunk that holds the settings as JSON."""
MIN_CELL, MAX_CELL = 160, 512
"""Smaller images are enlarged by a whole factor to at least MIN_CELL pixels; larger ones shrink to MAX_CELL."""

_INK, _GREY, _PAPER = (28, 30, 38), (112, 116, 128), (255, 255, 255)
_FONT_CELL = 192
"""Cell width at which fonts have the sizes below; they grow with wider cells."""
_TITLE, _LABEL, _FOOTER = 19, 15, 12


def versions() -> dict[str, str]:
    """The versions that decide what an image looks like."""
    packages = ("diffusers", "torch", "transformers")
    return {"negguide": __version__} | {name: version(name) for name in packages}


def file_name(text: str, length: int = 40) -> str:
    """`text` as the readable part of a file's name: its words in lower case, joined by hyphens."""
    words = re.sub(r"\W+", "-", text.lower()).strip("-")
    return words[:length].rstrip("-") or "image"


def save_png(image: PIL.Image.Image, path: Path, settings: Mapping[str, Any]) -> bytes:
    """Write `image` as a PNG with `settings` inside, whole or not at all; returns the bytes of the file.

    The same image and settings give the same bytes: nothing about the time or the place is stored.

    Raises:
        ValueError: when `path` does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"path={str(path)!r} must end in .png")
    content = png_with(image, settings)
    write_whole(path, content)
    return content


def png_with(image: PIL.Image.Image, settings: Mapping[str, Any]) -> bytes:
    """The file that `save_png` writes."""
    info = PngInfo()
    info.add_text(SETTINGS_KEY, _json(settings))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def save_json(data: Mapping[str, Any], path: Path) -> None:
    """Write `data` as indented JSON, whole or not at all."""
    write_whole(path, (_json(data, indent=2) + "\n").encode())


def read_settings(path: Path) -> dict[str, Any]:
    """The settings inside a PNG, or in a JSON file, that negguide wrote.

    Raises:
        ValueError: when the file does not exist, is neither, or holds no settings.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith(b"\x89PNG"):
        try:
            with PIL.Image.open(io.BytesIO(content)) as image:
                image.load()  # text may follow the pixels
                stored = image.info.get(SETTINGS_KEY)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} is no readable PNG: {error}") from error
        if stored is None:
            raise ValueError(f"{path} has no settings of negguide inside")
    else:
        stored = content
    try:
        settings = json.loads(stored)
    except ValueError as error:
        raise ValueError(f"{path} is neither a PNG nor JSON that negguide wrote: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold a JSON object with settings, got {type(settings).__name__}")
    return settings


def grid(
    rows: Sequence[Sequence[PIL.Image.Image]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    footer: str = "",
    captions: Sequence[Sequence[str]] = (),
) -> PIL.Image.Image:
    """Images side by side, with labels left of the rows and above the columns, wrapped to fit.

    Args:
        rows: images of one size, as many in each row.
        row_labels, column_labels: one each, or none at all.
        title, footer: above and below everything; empty = without.
        captions: one line under each image, in the shape of `rows`; empty = without.

    Raises:
        ValueError: for no images, rows of different lengths, images of different sizes, or a wrong number of labels or
            captions.
    """
    cell = _check_grid(rows, row_labels, column_labels)
    if captions and [len(line) for line in captions] != [len(row) for row in rows]:
        raise ValueError(f"captions must hold {len(rows)} rows of {len(rows[0])}, or none")
    columns = len(rows[0])
    scale = max(1.0, cell[0] / _FONT_CELL)
    gap, margin = round(8 * scale), round(16 * scale)
    label, small = _font(_LABEL * scale), _font(_FOOTER * scale)
    heading = _font(_TITLE * scale, bold=True)

    names = [_wrap(text, label, round(96 * scale)) for text in row_labels]
    left = margin + max((round(_width(name, label)) + gap for name in names), default=0)
    total = left + columns * (cell[0] + gap) - gap + margin
    above = _wrap(title, heading, total - 2 * margin)
    below = _wrap(footer, small, total - 2 * margin)
    heads = [_wrap(text, label, cell[0]) for text in column_labels]
    head_height = max((_height(head, label) for head in heads), default=0)
    top = margin + (_height(above, heading) + gap if above else 0) + (head_height + gap if heads else 0)
    step = cell[1] + gap + (_height("x", small) + gap if captions else 0)
    bottom = top + len(rows) * step - gap
    height = bottom + margin + (_height(below, small) + gap if below else 0)

    sheet = PIL.Image.new("RGB", (total, height), _PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    if above:
        draw.multiline_text((margin, margin), above, _INK, heading)
    for column, head in enumerate(heads):
        centre = left + column * (cell[0] + gap) + cell[0] / 2
        draw.multiline_text((centre, top - gap), head, _INK, label, anchor="md", align="center")
    for row, images in enumerate(rows):
        y = top + row * step
        if names:
            draw.multiline_text(
                (left - gap, y + cell[1] / 2), names[row], _INK, label, anchor="rm", align="right"
            )
        for column, image in enumerate(images):
            x = left + column * (cell[0] + gap)
            sheet.paste(_fit(image, cell), (x, y))
            if captions:
                under = (x + cell[0] / 2, y + cell[1] + gap / 2)
                draw.text(under, captions[row][column], _GREY, small, anchor="ma")
    if below:
        draw.multiline_text((margin, bottom + gap), below, _GREY, small)
    return sheet


def _check_grid(
    rows: Sequence[Sequence[PIL.Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> tuple[int, int]:
    """The size of a cell."""
    if not rows or not rows[0]:
        raise ValueError("rows must hold at least one row with at least one image")
    for row in rows:
        if len(row) != len(rows[0]):
            raise ValueError(f"rows must be of one length, got {[len(row) for row in rows]}")
        if any(image.size != rows[0][0].size for image in row):
            sizes = sorted({image.size for row in rows for image in row})
            raise ValueError(f"rows must hold images of one size, got {sizes}")
    for name, labels, count in (
        ("row_labels", row_labels, len(rows)),
        ("column_labels", column_labels, len(rows[0])),
    ):
        if len(labels) not in (0, count):
            raise ValueError(f"{name} must hold {count} labels, or none, got {len(labels)}")
    width, height = rows[0][0].size
    if width > MAX_CELL:
        return MAX_CELL, max(1, round(height * MAX_CELL / width))
    factor = -(-MIN_CELL // width)
    return width * factor, height * factor


def _fit(image: PIL.Image.Image, cell: tuple[int, int]) -> PIL.Image.Image:
    enlarged = cell[0] > image.width
    how = PIL.Image.Resampling.BICUBIC if enlarged else PIL.Image.Resampling.LANCZOS
    return image.convert("RGB").resize(cell, how)


@cache
def _font(size: float, bold: bool = False) -> PIL.ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu Sans along, which has Cyrillic, Greek and most signs besides Latin
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return PIL.ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _wrap(text: str, font: PIL.ImageFont.FreeTypeFont, width: float) -> str:
    """`text` with line breaks, so that no line is wider than `width`; a longer word is broken."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if not line or font.getlength(f"{line} {word}") <= width:
                line = f"{line} {word}" if line else word
            else:
                lines.append(line)
                line = word
            while font.getlength(line) > width and len(line) > 1:
                fits = max(1, next(n for n in range(len(line)) if font.getlength(line[: n + 1]) > width))
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return "\n".join(lines)


def _box(text: str, font: PIL.ImageFont.FreeTypeFont) -> tuple[float, float, float, float]:
    return PIL.ImageDraw.Draw(PIL.Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)


def _width(text: str, font: PIL.ImageFont.FreeTypeFont) -> float:
    return _box(text, font)[2]


def _height(text: str, font: PIL.ImageFont.FreeTypeFont) -> int:
    return round(_box(text, font)[3]) if text else 0


def _json(data: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
