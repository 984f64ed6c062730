"""Pictures that visitors bring: what is none, or too large, is said in words before anything reads it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from fastapi import HTTPException
from PIL import Image, ImageOps

from negguide.demo.limits import MAX_PIXELS
from negguide.demo.words import said_on_the_page

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read; Pillow knows many more, and some of those start other programs."""
MAX_LAYERS = 4
"""Layers of a painted picture; the page makes one."""


def opened(file: str | bytes) -> Image.Image:
    """An uploaded picture, by its path or as the bytes of its file, turned as the camera says.

    Raises:
        ValueError: when it is none, or has too many pixels.
    """
    try:
        with Image.open(file if isinstance(file, str) else io.BytesIO(file), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"The picture has {image.width}x{image.height} pixels; that is too many.")
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"This file is no picture that can be read; {', '.join(FORMATS)} can be.") from None


def refuse_broken(component: Any) -> None:
    """Have an image component check every file that it is given, before Gradio fails on it."""
    preprocess = component.preprocess

    def checked(payload: Any) -> Any:
        with said_on_the_page():
            for file in _files(component, payload):
                opened(file)
        return preprocess(payload)

    # of this one component: a subclass would have Gradio write a .pyi file beside this one
    component.preprocess = checked


def _files(component: Any, payload: Any) -> Iterator[str | bytes]:
    """All files of what an image or an image editor was given."""
    if not hasattr(payload, "layers"):
        parts = [payload]
    else:
        # a page sends what was painted ahead of the call, which then only names it
        sent = payload if payload.id is None else component.blob_storage.get(payload.id)
        parts = [] if sent is None else [sent.background, sent.composite, *(sent.layers or ())]
    for part in parts:
        if isinstance(part, bytes):
            yield part
        elif part is not None and part.path:
            yield part.path


class Waiting(dict[str, Any]):
    """What pages have painted and not yet asked for: the newest `most`, since nobody may ever ask for it."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: str, value: Any) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        while len(self) > self.most:
            del self[next(iter(self))]


def bound(editor: Any, most: int) -> None:
    """Keep what an image editor holds in memory small: `most` painted pictures of `MAX_LAYERS` layers each."""
    editor.blob_storage = Waiting(most)
    accept = editor.accept_blobs

    def accept_blobs(data: Any) -> None:
        index = data.data.get("index")
        # Gradio makes room for as many layers as the number says
        if index not in (None, "", "null") and not 0 <= int(index) < MAX_LAYERS:
            raise HTTPException(400, f"a layer's index must be below {MAX_LAYERS}, got {index}")
        accept(data)

    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]
    editor.accept_blobs = accept_blobs
