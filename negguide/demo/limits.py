"""How much one visitor may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Upper bounds of the demo; what is above one is refused with the bound in the message.

    Args:
        max_size: pixels along an edge of a drawn image.
        max_steps: denoising steps of one image.
        max_images: images of one method in one go.
        max_evaluations: evaluations of the denoiser in one go: images x steps x predictions a step, summed over all
            that is drawn beside each other.
        max_queue: requests that wait for the device; the next one is asked to come back.
        max_waiting: those of them that may come from one address.
        max_upload_mb: megabytes of an uploaded picture.
        keep_seconds: age at which outputs and uploads are deleted.

    Raises:
        TypeError, ValueError: for a bound that is no whole number, or is too small.
    """

    max_size: int = 1024
    max_steps: int = 50
    max_images: int = 8
    max_evaluations: int = 2000
    max_queue: int = 20
    max_waiting: int = 4
    max_upload_mb: int = 10
    keep_seconds: int = 3600

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{field.name} must be a whole number, got {value!r}")
            least = _LEAST.get(field.name, 1)
            if value < least:
                raise ValueError(f"{field.name} must be at least {least}, got {value}")


GRAIN = 32
"""Pixels of which the edges of a picture are a multiple; every family can draw such sizes."""
# a batch of one has nothing to be pushed away from
_LEAST = {"max_images": 2, "max_size": GRAIN}
MAX_TEXT = 300
"""Characters of a prompt or a negative."""
MAX_PIXELS = 4096 * 4096
"""Pixels of an uploaded picture, whatever its file weighs."""


def whole(name: str, value: float, low: int, high: int) -> int:
    """`value` as a whole number from `low` to `high`.

    Raises:
        TypeError, ValueError: with the name, the value and the bounds.
    """
    # here, for it takes a while and the help of the command line shows the limits
    from negguide.methods.validation import number

    result = number(name, value)
    if not (low <= result <= high and result == int(result)):
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value}")
    return int(result)


def text(name: str, value: str | None) -> str:
    """`value` without the blanks around it; None is empty.

    Raises:
        ValueError: when it is longer than `MAX_TEXT`.
    """
    stripped = (value or "").strip()
    if len(stripped) > MAX_TEXT:
        raise ValueError(f"{name} is {len(stripped)} characters long; at most {MAX_TEXT} are read")
    return stripped
