"""Rows of a source for the tests: how they are written, and what is read of them."""

import json

from PIL import Image

from negguide.mining.item import Source
from negguide.mining.sources import BadSource

RED, BLUE = (200, 0, 0), (0, 0, 200)


def picture(color=RED, size=(12, 8)):
    return Image.new("RGB", size, color)


def read(source):
    """Ids with captions and middle pixels of what is good, and reasons of what is bad."""
    good, bad = {}, {}
    for row in source:
        if isinstance(row, Source):
            good[row.id] = (row.caption, row.load().getpixel((6, 4)) if row.load else None)
        else:
            assert isinstance(row, BadSource)
            bad[row.id] = row.reason
    return good, bad


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
