"""Pictures that visitors bring: what is none, or too large, is said in words before anything reads it."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from fastapi import HTTPException
from PIL import Image

from negguide.demo.limits import MAX_PIXELS
from negguide.demo.messages import TITLE, refused, validation_messages
from negguide.image_files import shown

_log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read; Pillow knows many more, and some of those start other programs."""
MAX_LAYERS = 4
"""Layers of a painted picture; the page makes one."""
MAX_PAINTED = 3 * MAX_PIXELS
"""Pixels of a picture, of what is painted on it, and of both together, which a page sends too."""
MAX_ASPECT = 4
"""The longer side of a picture over the shorter one."""
WAITING_SECONDS = 600.0
"""How long a painted picture waits for the call that names it."""


def opened(file: str | bytes) -> Image.Image:
    """An uploaded picture, by its path or as the bytes of its file, as a viewer shows it: see `read_image`.

    Raises:
        ValueError: when it is none, has too many pixels, or is too long for its breadth.
    """
    with _open(file) as image:
        _check_size(*image.size)
        with _readable():
            image.load()
            return shown(image)


def refuse_broken(component: Any) -> None:
    """Have an image component check all that one call gives it, by the heads of the files, before it decodes any."""
    preprocess = component.preprocess

    def checked(payload: Any) -> Any:
        with validation_messages():
            _check_call(component, payload)
            # Gradio decodes what it hands on; a component that hands on a path leaves that to `opened`
            with _readable():
                return preprocess(payload)

    # of this one component: a subclass would have Gradio write a .pyi file beside this one
    component.preprocess = checked


def refuse_quietly(page: Any) -> None:
    """Have a `gradio.Blocks` answer inputs that it cannot take, such as files that it may not read, in one line."""
    preprocess = page.preprocess_data

    async def preprocess_data(block_fn: Any, inputs: list[Any], *arguments: Any, **named: Any) -> Any:
        try:
            return await preprocess(block_fn, inputs, *arguments, **named)
        # of many kinds: paths outside the folder, addresses that are not public, what is no file at all, no number
        except Exception as error:
            if isinstance(error, gr.Error) and error.title == TITLE:
                raise
            _log.warning("an input was refused: %s: %.200r", type(error).__name__, str(error))
            message = _at_fault(block_fn.inputs, inputs) or (
                "This input cannot be read here. Pictures are uploaded, or given as public addresses."
            )
            raise refused(message) from error

    page.preprocess_data = preprocess_data


def _at_fault(components: Sequence[Any], values: Sequence[Any]) -> str | None:
    """Which choice or number cannot be taken, and why; None when it is none of these."""
    for component, value in zip(components, values, strict=False):
        if not isinstance(component, gr.Slider | gr.Number | gr.Radio | gr.CheckboxGroup):
            continue
        try:
            component.preprocess(value)
        except gr.Error as error:
            return f"{component.label}: {error.message}"
        # Gradio compares whatever comes with its bounds
        except (TypeError, ValueError):
            return f"{component.label}: {value!r:.100} cannot be read here."
    return None


def _check_call(component: Any, payload: Any) -> None:
    """Refuse a picture that is too large, more layers than a page makes, and files that are too large together."""
    files, layers = _files(component, payload)
    if layers > MAX_LAYERS:
        raise ValueError(f"The picture has {layers} layers; at most {MAX_LAYERS} are read.")
    total = 0
    for file in files:
        with _open(file) as image:
            _check_size(*image.size)
            total += image.width * image.height
    if total > MAX_PAINTED:
        raise ValueError(
            f"The picture and what is painted on it have {total:,} pixels; {MAX_PAINTED:,} are read."
        )


def _open(file: str | bytes) -> Image.Image:
    with _readable():
        return Image.open(file if isinstance(file, str) else io.BytesIO(file), formats=FORMATS)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"The picture has {width}x{height} pixels; that is too many.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"The picture has {width}x{height} pixels; its longer side may be {MAX_ASPECT} times its shorter one."
        )


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    # a ValueError: of texts beside the picture that are too long
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"This file is no picture that can be read; {', '.join(FORMATS)} can be.") from None


def _files(component: Any, payload: Any) -> tuple[list[str | bytes], int]:
    """All files of what an image or an image editor was given, and how many layers these are."""
    layers: list[Any] = []
    if not hasattr(payload, "layers"):
        parts = [payload]
    else:
        # a page sends what was painted ahead of the call, which then only names it
        sent = payload if payload.id is None else component.blob_storage.get(payload.id)
        layers = [] if sent is None else list(sent.layers or ())
        parts = [] if sent is None else [sent.background, sent.composite, *layers]
    files = [part if isinstance(part, bytes) else part.path for part in parts if part is not None]
    return [file for file in files if file], len(layers)


class Waiting(dict[str, Any]):
    """What pages have painted and not yet asked for, the oldest of which goes first, since nobody may ever ask for it.

    Args:
        most: pictures.
        most_bytes: of all their files.
        keep_seconds: how long one waits; it is looked at when the next one comes.
    """

    def __init__(self, most: int, most_bytes: int, keep_seconds: float) -> None:
        super().__init__()
        self.most = most
        self.most_bytes = most_bytes
        self.keep_seconds = keep_seconds
        self._since: dict[str, float] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        now = time.monotonic()
        self.pop(key, None)
        super().__setitem__(key, value)
        self._since = {key: self._since.get(key, now) for key in self}
        while len(self) > 1 and (
            len(self) > self.most
            or sum(map(_bytes_of, self.values())) > self.most_bytes
            or now - self._since[next(iter(self))] > self.keep_seconds
        ):
            del self[next(iter(self))]


def _bytes_of(sent: Any) -> int:
    return sum(len(part) for part in (sent.background, sent.composite, *sent.layers) if part is not None)


def bound(editor: Any, most: int, most_bytes: int) -> None:
    """Keep what an image editor holds in memory small: `most` painted pictures, of so many bytes in all."""
    editor.blob_storage = Waiting(most, most_bytes, WAITING_SECONDS)
    accept = editor.accept_blobs

    def accept_blobs(data: Any) -> None:
        index = data.data.get("index")
        # Gradio makes room for as many layers as the number says
        if index not in (None, "", "null") and not 0 <= int(index) < MAX_LAYERS:
            raise HTTPException(400, f"a layer's index must be below {MAX_LAYERS}, got {index}")
        accept(data)

    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]
    editor.accept_blobs = accept_blobs
