"""Images that a run needs besides its words: read once, copied beside the results, verified at a replay."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from negguide.image_files import UnreadableImageError, read_image
from negguide.pictures import file_name
from negguide.storage import write_whole


class Attachments:
    """Reference images and masks, with the bytes of the files that they came from.

    Args:
        folder: where `load` looks for files: beside the settings that are replayed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._files: dict[str, bytes] = {}
        self._opened: list[tuple[Image.Image, dict[str, str]]] = []

    def open(self, path: Path, option: str, mode: str = "RGB") -> Image.Image:
        """The image in a file; `mode` is "RGB" for pictures and "L" for masks.

        Raises:
            ValueError: naming `option`, for a file that is missing or no image.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{option} {path}: cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(content).hexdigest()
        name = f"{file_name(path.stem)}-{digest[:8]}{path.suffix.lower()}"
        return self._add(content, {"file": name, "sha256": digest, "mode": mode}, f"{option} {path}")

    def save(self, image: Any) -> dict[str, str]:
        """What stands for an opened image in the settings."""
        return next(stored for opened, stored in self._opened if opened is image)

    def load(self, stored: Any) -> Image.Image:
        """The image that `save` stored, from `folder`.

        Raises:
            ValueError: when its file is missing, is no image, or is not the one that was used.
        """
        if not isinstance(stored, dict) or not {"file", "sha256", "mode"} <= set(stored):
            raise ValueError(f"an image in the settings must be {{file, sha256, mode}}, got {stored!r}")
        name = str(stored["file"])
        if self.folder is None or Path(name).name != name:
            raise ValueError(f"the image {name!r} must lie beside the settings that name it")
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"{path} is needed for this replay and cannot be read: {error.strerror}"
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != stored["sha256"]:
            raise ValueError(
                f"{path} has changed since the images were made (sha256 {digest[:12]}, it was "
                f"{str(stored['sha256'])[:12]}); put the original back"
            )
        return self._add(content, {key: str(stored[key]) for key in ("file", "sha256", "mode")}, str(path))

    def write(self, folder: Path) -> None:
        """Copy the files into `folder`."""
        for name, content in self._files.items():
            write_whole(folder / name, content)

    def _add(self, content: bytes, stored: dict[str, str], source: str) -> Image.Image:
        if stored["mode"] not in ("RGB", "L"):
            raise ValueError(f"{source}: mode must be RGB or L, got {stored['mode']!r}")
        try:
            image = read_image(content, stored["mode"], name=source)
        except UnreadableImageError as error:
            raise ValueError(f"{error}; use e.g. a PNG or a JPEG") from error
        self._files[stored["file"]] = content
        self._opened.append((image, stored))
        return image
