"""From the options that say how negatives act to methods: what `generate` and `compare` share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negguide._utils.text import listed
from negguide.cli.options import METHOD
from negguide.cli.output import remark
from negguide.cli.syntax import flag, parse_negative, parse_timesteps, parse_window
from negguide.domain import Defaults, domain_models

if TYPE_CHECKING:
    from negguide.cli.attachments import Attachments
    from negguide.methods import NegativesMethod, NegToMe


def guidance_scale(given: float | None, model: str) -> float | None:
    """What `--guidance-scale` says, or else what suits the model; None where its pipeline knows, once it is loaded."""
    embedded = domain_models().get(model)
    if given is None and embedded is not None and embedded.always_guided:
        return embedded.defaults.guidance_scale
    return given


def said_of_method(
    joint: bool, refresh_every: int | None, adaptive: bool, economy: bool, max_sequence_length: int | None
) -> dict[str, Any]:
    """What was said of a method's own arguments; empty when everything is as it is without saying."""
    from negguide.methods import ScoreMethod

    said = {
        "joint": joint,
        "refresh_every": refresh_every,
        "adaptive": adaptive,
        "economy": economy,
        "max_sequence_length": max_sequence_length,
    }
    return {
        name: value
        for name, value in said.items()
        if value is not None and value != (ScoreMethod.refresh_every if name == "refresh_every" else False)
    }


def flags(said: Iterable[str]) -> str:
    """How arguments are called on the command line."""
    return ", ".join(flag(name) for name in said)


def in_words(
    values: Sequence[str] | None,
    said: Mapping[str, Any],
    method: str,
    scale: float | None,
    suited: Defaults,
) -> NegativesMethod | None:
    """The method that takes the negatives of `--negative`; None without one.

    Args:
        said: from `said_of_method`.
        suited: the model's defaults.

    Raises:
        ValueError: for a wrong negative or method, and for options that act on nothing.
    """
    from negguide.methods.choices import methods_in_words, options_of

    kinds = methods_in_words()
    if method not in kinds:
        raise ValueError(f"--method must be one of {', '.join(kinds)}, got {method!r}")
    arguments = dict(said) if scale is None else {**said, "scale": scale}
    for name in arguments:
        if name in options_of(kinds[method]):
            continue
        owners = [key for key, kind in kinds.items() if name in options_of(kind)]
        cure = "give weights, --negative 'text:1.5'" if name == "scale" else "leave it out"
        raise ValueError(f"{flags([name])} is of {listed(owners)}; with --method {method} {cure}")
    if not values:
        lost = {
            flags(said): bool(said),
            "--scale": scale is not None,
            f"--method {method}": method != METHOD,
        }
        for name, given in lost.items():
            if given:
                raise ValueError(f"{name} acts on --negative; give at least one")
        return None
    usual = suited.negative if method == METHOD else {}
    arguments = {**suited.arguments(method), **arguments}
    return kinds[method](*(parse_negative(value, usual) for value in values), **arguments)


def negtome(
    mode: str | None,
    references: Sequence[Path] | None,
    given: Mapping[str, Any],
    window: str | None,
    mask: Path | None,
    reference_mask: Path | None,
    suited: Defaults,
    attachments: Attachments,
) -> NegToMe | None:
    """The NegToMe method that the options name; None without `--negtome` and `--reference`.

    Args:
        mode: of `--negtome`: "others", "first", "" when it stands alone, or None.
        given: `NegToMe`'s number, pattern and flag arguments; None = not given, the model's default.
        suited: the model's defaults.
        attachments: opens and remembers the images.

    Raises:
        ValueError: for wrong values, and for options of NegToMe without it.
    """
    from negguide.methods import NegToMe

    said = {name: value for name, value in given.items() if value is not None}
    if mode is None and not references:
        files = {"negtome-window": window, "mask": mask, "reference-mask": reference_mask}
        lost = [*said, *(name for name, value in files.items() if value is not None)]
        if lost:
            raise ValueError(f"{flags(lost)}: acts only with --negtome or --reference; give one of them")
        return None
    if mode not in (None, "", "others", "first"):
        raise ValueError(f"--negtome must be others or first, or stand alone, got {mode!r}")
    if mode and references:
        raise ValueError(
            f"--negtome {mode} and --reference are two kinds of references; give --reference alone, or leave it out"
        )
    try:
        if window is not None:
            said["start"], said["stop"] = parse_window(window)
        if mask is not None:
            said["mask"] = attachments.open(mask, "--mask", "L")
        if reference_mask is not None:
            said["reference_mask"] = attachments.open(reference_mask, "--reference-mask", "L")
        images = [attachments.open(path, "--reference") for path in references or ()]
        suiting = suited.of_negtome(bool(references))
        unsaid = {name: value for name, value in suiting.items() if name not in said}
        return NegToMe(images or mode or "others", **unsaid, **said, default_values=unsaid)
    except ValueError as error:
        raise ValueError(f"NegToMe: {error}") from error


def in_timesteps(
    minus: Mapping[str, NegativesMethod], apart: NegToMe | None, value: str | None, negtome_window: str | None
) -> tuple[dict[str, NegativesMethod], NegToMe | None]:
    """The methods with the window of `--timestep-window`: NegToMe, and negatives without one of their own.

    Raises:
        ValueError: for a wrong value, for two windows of NegToMe, and when nothing takes it.
    """
    if value is None:
        return dict(minus), apart
    if negtome_window is not None:
        raise ValueError(
            "--timestep-window and --negtome-window both say when NegToMe acts; give one of them"
        )
    start, stop = parse_timesteps(value)
    open_ones = [n for method in minus.values() for n in method.negatives if n.stop is None]
    if apart is None and not open_ones:
        raise ValueError(
            "--timestep-window acts on NegToMe and on each --negative without a window of its own, and there is none"
        )
    changed = {
        key: method.with_negatives(
            *(n if n.stop is not None else replace(n, start=start, stop=stop) for n in method.negatives)
        )
        for key, method in minus.items()
    }
    return changed, None if apart is None else replace(apart, start=start, stop=stop)


def say_negatives(values: Sequence[str] | None, method: NegativesMethod | None) -> None:
    """Say what was read as a weight or a window, so that a text that ends like one is noticed."""
    for value, negative in zip(values or (), method.negatives if method else (), strict=True):
        if value.strip() != negative.prompt:
            weight = f"weight {negative.weight_in_words}"
            window = (
                f", {value.rpartition('@')[2].strip()}" if negative.stop is not None and "@" in value else ""
            )
            remark(f"leaving out “{negative.prompt}”, {weight}{window}")


def pictures(attachments: Attachments, **paths: Path | None) -> dict[str, Any]:
    """The pictures of `--image`, `--mask-image` and `--control-image`, by these names."""
    return {
        name: None if path is None else attachments.open(path, flag(name), "L" if "mask" in name else "RGB")
        for name, path in paths.items()
    }
