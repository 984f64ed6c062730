"""Evaluation suites: the embedded world's own, the public ones, and sets of `negguide mine`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from negguide.vlm.suites.base import Suite
from negguide.vlm.suites.mined import mined
from negguide.vlm.suites.public import aro, negbench, sugarcrepe, winoground

PUBLIC: dict[str, Callable[[Path, Path | None, int | None], Suite]] = {
    "winoground": winoground,
    "sugarcrepe": sugarcrepe,
    "aro": aro,
    "negbench": negbench,
}
SPECS = (
    "toyworld, "
    + ", ".join(f"{name}:PATH[,images=FOLDER]" for name in PUBLIC)
    + ", or the folder of a mined set"
)
IMAGES = ",images="


def make_suite(spec: str, *, limit: int | None = None) -> Suite:
    """The suite that ``spec`` names.

    Args:
        spec: "toyworld", "winoground:PATH", "sugarcrepe:PATH", "aro:PATH", "negbench:PATH", each with
            ",images=FOLDER" where the images are elsewhere, or the folder of a set that `negguide mine` wrote.
        limit: the most items of a category (of images, in retrieval); None = all.

    Raises:
        ValueError: no such suite, no such folder, files or images that are missing or of another form.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1; leave it out to ask everything")
    if spec == "toyworld":
        from negguide.vlm.suites.toyworld import toyworld

        return toyworld(limit)
    name, colon, rest = spec.partition(":")
    if colon and name in PUBLIC:
        place, _, images = rest.partition(IMAGES)
        path = Path(place).expanduser()
        if not place or not path.exists():
            raise ValueError(f"suite={spec!r}: there is no {place or 'path after the colon'}")
        return PUBLIC[name](path, Path(images).expanduser() if images else None, limit)
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise ValueError(f"suite={spec!r} is unknown; use one of: {SPECS}")
    return mined(folder, limit)
