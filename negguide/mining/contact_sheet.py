"""A picture of a set: original and negative side by side, with what was changed in the captions marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from negguide.image_files import read_image
from negguide.mining.item import Item
from negguide.storage import Place

CELL, GAP, MARGIN, TEXT = 160, 10, 20, 300
"""Pixels: side of an image, space around it, edge of the sheet, and width of the captions beside it."""

_INK, _GREY, _PAPER, _LINE = (28, 30, 38), (112, 116, 128), (255, 255, 255), (226, 229, 234)
_BEFORE, _AFTER = (207, 34, 46), (26, 127, 55)

Word = tuple[str, tuple[int, int, int]]


def contact_sheet(items: Sequence[tuple[Item, Place]], title: str, columns: int = 2) -> Image.Image:
    """The pairs in rows of ``columns``; a red word was taken out of the caption, a green one put in.

    The four numbers are the judge's scores: of the original image with its caption and with the negative one, and of
    the negative image with the original caption and with its own.

    Raises:
        ValueError: without any item.
    """
    if not items:
        raise ValueError("items is empty; a contact sheet needs at least one pair")
    columns = min(columns, len(items))
    width = 2 * (CELL + GAP) + TEXT
    height = max(CELL, *(_text_height(item) for item, _ in items)) + 2 * GAP
    rows = -(-len(items) // columns)
    head = _font(20, bold=True)
    top = MARGIN + 36
    sheet = Image.new(
        "RGB", (2 * MARGIN + columns * (width + GAP) - GAP, top + rows * height + 2 * MARGIN), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, _INK, head)
    for place, (item, folder) in enumerate(items):
        left = MARGIN + place % columns * (width + GAP)
        y = top + place // columns * height
        draw.line([(left, y), (left + width - GAP, y)], _LINE)
        files = item.files(folder)
        for side, role in enumerate(("image", "negative_image")):
            picture = _fit(read_image(files[role]))
            at = (left + side * (CELL + GAP), y + GAP)
            sheet.paste(picture, (at[0] + (CELL - picture.width) // 2, at[1] + (CELL - picture.height) // 2))
        _describe(draw, item, left + 2 * (CELL + GAP) + 4, y + GAP)
    foot = "scores: image and caption, image and negative caption, negative image and caption, both negative"
    draw.text((MARGIN, top + rows * height + GAP), foot, _GREY, _font(12))
    return sheet


def _describe(draw: ImageDraw.ImageDraw, item: Item, x: int, y: int) -> int:
    """Write what is beside a pair; returns where it ends."""
    small, text = _font(12), _font(14)
    draw.text((x, y - 2), item.category, _GREY, _font(12, bold=True))
    tries = f"{item.tries} {'try' if item.tries == 1 else 'tries'}"
    draw.text((x + TEXT - 16, y - 2), tries, _GREY, small, anchor="ra")
    y = _flow(draw, _marked(item.caption, item.start, item.end, _BEFORE), x, y + 18, text)
    end = item.start + len(item.after)
    y = _flow(draw, _marked(item.negative_caption, item.start, end, _AFTER), x, y + 6, text)
    draw.text((x, y + 6), "   ".join(f"{score:.2f}" for score in item.scores), _GREY, small)
    return y + 20


def _text_height(item: Item) -> int:
    """What `_describe` needs, in pixels."""
    nowhere = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return _describe(nowhere, item, 0, 0)


def _marked(caption: str, start: int, end: int, color: tuple[int, int, int]) -> list[Word]:
    """The words of a caption, those that touch [start, end) in ``color``."""
    return [
        (match.group(), color if match.start() < end and match.end() > start else _INK)
        for match in re.finditer(r"\S+", caption)
    ]


def _flow(
    draw: ImageDraw.ImageDraw, words: Sequence[Word], x: int, y: int, font: ImageFont.FreeTypeFont
) -> int:
    """Write words in lines of the text's width; returns where the next line goes."""
    at = float(x)
    space = font.getlength(" ")
    for word, color in words:
        length = font.getlength(word)
        if at > x and at + length > x + TEXT - 16:
            at, y = float(x), y + 18
        draw.text((at, y), word, color, font)
        at += length + space
    return y + 18


def _fit(image: Image.Image) -> Image.Image:
    scale = CELL / max(image.size)
    how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu Sans along
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
