"""How a value says more than one thing: a negative with its weight and window, a LoRA with its scale.

A text may hold colons and at signs of its own ("clock showing 10:30", "mail me@0-1"), so what could be either is
refused, with both ways to say it. `:weight=` (`:scale=` of a LoRA) is never part of a text: what stands before it is
the text, whatever it holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negguide.cli.lora import Lora
    from negguide.methods import Edge, Negative

NEGATIVE_FORM = "text:weight@start-stop"
WINDOW_FORM = "start-stop, fractions of the steps such as 0-0.5, or timesteps such as 1000t-900t"
TIMESTEPS_FORM = "start:stop, timesteps from 1000, noise, to 0, the image, such as 1000:900"
LORA_FORM = "file:scale"

_PLACE = r"(-?[\d.]+)(t?)"
_WINDOW = re.compile(rf"\s*{_PLACE}\s*-\s*{_PLACE}\s*")


def flag(name: str) -> str:
    """How an option is called on the command line."""
    return f"--{name.replace('_', '-')}"


class _AmbiguousError(ValueError):
    """What could be part of the text or not."""


def parse_negative(value: str, usual: Mapping[str, Any] | None = None) -> Negative:
    """The negative that `text:weight@start-stop` names; weight and window may be left out.

    A colon that directly follows a word or a sign, and is directly followed by a number, begins a weight; behind a
    digit (10:30) or beside a space (total: 5) it could be the text's, and is refused. So is a window without a weight
    in which nothing is a fraction or a timestep (me@0-1). `text:weight=1` takes the text as it is. The weight may be
    `auto`.

    Args:
        usual: weight and window of a negative that does not say them.

    Raises:
        ValueError: with the value and the form.
    """
    from negguide.methods import AUTO, Negative

    told = re.fullmatch(r"(.*):weight=([^:@]*)(?:@([^:@]*))?", value, re.DOTALL)
    try:
        text, weight, window = told.groups() if told else _short_form(value)
        negative = Negative(text.strip(), **(usual or {}))
        if weight is not None:
            automatic = weight.strip() == AUTO
            negative = replace(negative, weight=AUTO if automatic else _number(weight, "the weight"))
        if window is not None:
            start, stop = parse_window(window)
            negative = replace(negative, start=start, stop=stop)
        return negative
    except _AmbiguousError as error:
        raise ValueError(f"--negative {value!r}: {error} (the form is {NEGATIVE_FORM})") from error
    except ValueError as error:
        # only a value with signs of its own can be a text that was taken for something else
        whole = (
            f"; {f'{value}:weight=1'!r} takes it all as the text" if told is None and value.strip() else ""
        )
        raise ValueError(
            f"--negative {value!r}: {error}; write {NEGATIVE_FORM}, e.g. 'hat:1.5@0-0.6'{whole}"
        ) from error


def _short_form(value: str) -> tuple[str, str | None, str | None]:
    """Text, weight and window of `text:weight@start-stop`.

    Raises:
        ValueError: a sign may belong to the text.
    """
    rest, at, window = value.rpartition("@") if "@" in value else (value, "", "")
    behind = f"@{window}" if at else ""
    text, weight = _numbered(rest, "text", "weight", behind, spaces=bool(at))
    if (
        at
        and weight is None
        and rest.strip()
        and _WINDOW.fullmatch(window)
        and not re.search(r"[.t]", window)
    ):
        raise _AmbiguousError(
            f"{behind!r} may be a window or part of the text; write {f'{value}:weight=1'!r} for the text, "
            f"{f'{rest}:weight=1{behind}'!r} for the window"
        )
    return text, weight, window if at else None


def _numbered(
    value: str, what: str, name: str, behind: str = "", *, spaces: bool = False
) -> tuple[str, str | None]:
    """`value` without the number behind its last colon, and that number; None without a colon.

    Args:
        what, name: what the value and the number are, for the message.
        behind: what followed the value, for the message.
        spaces: whether they may stand beside the colon.

    Raises:
        _AmbiguousError: the number may be part of the text.
    """
    from negguide.methods import AUTO

    text, colon, number = value.rpartition(":")
    if not colon:
        return value, None
    apart = not spaces and (text[-1:].isspace() or number[:1].isspace())
    if (_is_number(number) or number.strip() == AUTO) and (text.rstrip()[-1:].isnumeric() or apart):
        raise _AmbiguousError(
            f"{f':{number}'!r} may be a {name} or part of the {what}; write {f'{value}:{name}=1{behind}'!r} for the "
            f"{what}, {f'{text.rstrip()}:{name}={number.strip()}{behind}'!r} for the {name}"
        )
    return text, number


def parse_window(value: str) -> tuple[Edge, Edge]:
    """Start and stop from "0-0.6", or from "1000t-900t".

    Raises:
        ValueError: when it is not two numbers with a hyphen between them.
    """
    match = _WINDOW.fullmatch(value)
    if match is None:
        raise ValueError(f"the window must be {WINDOW_FORM}, got {value!r}")
    return _place(match[1], match[2], "start"), _place(match[3], match[4], "stop")


def parse_timesteps(value: str) -> tuple[Edge, Edge]:
    """Start and stop from "1000:900".

    Raises:
        ValueError: when it is not two timesteps, the noisier one first.
    """
    from negguide.methods.window import check_window

    match = re.fullmatch(r"\s*(-?[\d.]+)\s*:\s*(-?[\d.]+)\s*", value)
    if match is None:
        raise ValueError(f"--timestep-window must be {TIMESTEPS_FORM}, got {value!r}")
    try:
        return check_window(_place(match[1], "t", "start"), _place(match[2], "t", "stop"))
    except ValueError as error:
        raise ValueError(f"--timestep-window {value!r}: {error}") from error


def parse_lora(value: str) -> Lora:
    """The LoRA that `file:scale` names; the scale may be left out.

    Raises:
        ValueError: with the value and the form.
    """
    from negguide.cli.lora import find_lora

    told = re.fullmatch(r"(.*):scale=([^:]*)", value, re.DOTALL)
    try:
        if told:
            place, scale = told[1], told[2]
        elif Path(value).expanduser().exists():
            # also one whose name holds a colon (C:\..)
            return find_lora(value, 1.0)
        else:
            place, given = _numbered(value, "name", "scale")
            scale = "1" if given is None else given
        number = _number(scale, "the scale")
        if not math.isfinite(number):
            raise ValueError(f"the scale must be finite, got {number}")
        return find_lora(place, number)
    except ValueError as error:
        raise ValueError(
            f"--lora {value!r}: {error}; write {LORA_FORM}, e.g. 'style.safetensors:0.8'"
        ) from error


def _place(text: str, unit: str, name: str) -> Edge:
    from negguide.methods import Timestep

    number = _number(text, name)
    return Timestep(number) if unit else number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text.strip()!r}") from None
