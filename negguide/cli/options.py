"""From the words of the command line to methods: what `generate` and `compare` share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from negguide._utils.text import listed
from negguide.models import TOYWORLD, TOYWORLD_DEFAULTS, Defaults

if TYPE_CHECKING:
    from negguide.cli.attachments import Attachments
    from negguide.methods import Negative, NegativesMethod, NegToMe

METHOD = "perp-neg"
"""How `--negative` acts unless told."""
NEGATIVE_FORM = "text:weight@start-stop"
WINDOW_FORM = "start-stop, fractions of the steps such as 0-0.5"

PROMPT_HELP = (
    "What to draw, e.g. 'a bear wearing glasses'. toyworld knows few words; a word that it does not know is answered "
    "with all of them."
)

_WORDS, _NEGTOME, _MODEL = "Negatives in words", "NegToMe", "Model and sampling"
_TOY = TOYWORLD_DEFAULTS.negtome

NegativeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--negative",
        metavar=NEGATIVE_FORM.upper(),
        help=r'What to leave out, e.g. "black glasses:1.5@0-0.6": weight 1.5 in the first 60% of the steps. Weight '
        "(1) and window (as in `negguide methods`) may be left out. Repeatable.",
        rich_help_panel=_WORDS,
    ),
]
JointOption = Annotated[
    bool,
    typer.Option("--joint", help="Two wordings of one thing do not count twice.", rich_help_panel=_WORDS),
]
RefreshOption = Annotated[
    int,
    typer.Option(
        "--refresh-every",
        metavar="STEPS",
        help="Ask the model for the negatives only every so many steps: less time for nearly the same picture.",
        rich_help_panel=_WORDS,
    ),
]
AdaptiveOption = Annotated[
    bool,
    typer.Option("--adaptive", help="Stop asking for what no longer changes much.", rich_help_panel=_WORDS),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="KEY",
        # not the keys themselves: methods are found by importing them, which takes seconds
        help="How --negative acts, one of `negguide methods`. Those in attention space act at --guidance-scale 1 too, "
        "and with few steps.",
        rich_help_panel=_WORDS,
    ),
]
ScaleOption = Annotated[
    float | None,
    typer.Option(
        "--scale", help="Strength of a --method that has one, see `negguide methods`.", rich_help_panel=_WORDS
    ),
]
NegToMeOption = Annotated[
    str | None,
    typer.Option(
        "--negtome",
        metavar="[others|first]",
        help="Push the images of one call apart: each from all others (others, what --negtome alone means), or all "
        "from the first (first).",
        rich_help_panel=_NEGTOME,
    ),
]
ReferenceOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference",
        metavar="IMAGE",
        help="Push the images away from this one. Repeatable.",
        rich_help_panel=_NEGTOME,
    ),
]
AlphaOption = Annotated[
    float | None,
    typer.Option(
        "--alpha", help=f"Strength (toyworld {_TOY['alpha']:g}, others 0.9).", rich_help_panel=_NEGTOME
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help=f"Least cosine of a match (toyworld {_TOY['threshold']:g}, others as in `negguide models`).",
        rich_help_panel=_NEGTOME,
    ),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--negtome-window",
        metavar="START-STOP",
        help=f"When it acts, in fractions of the steps (toyworld 0-{_TOY['stop']:g}, others as in `negguide models`).",
        rich_help_panel=_NEGTOME,
    ),
]
BlocksOption = Annotated[
    str | None,
    typer.Option(
        "--blocks",
        metavar="REGEX",
        help="Which self-attention modules, by name.",
        rich_help_panel=_NEGTOME,
    ),
]
CenterOption = Annotated[
    bool | None,
    typer.Option(
        "--center/--no-center", help="Subtract the mean token before matching.", rich_help_panel=_NEGTOME
    ),
]
MaxPushOption = Annotated[
    float | None,
    typer.Option(
        "--max-push", help="Longest push relative to the token's norm (no limit).", rich_help_panel=_NEGTOME
    ),
]
MaskOption = Annotated[
    Path | None,
    typer.Option("--mask", metavar="IMAGE", help="Push only where this is white.", rich_help_panel=_NEGTOME),
]
ReferenceMaskOption = Annotated[
    Path | None,
    typer.Option(
        "--reference-mask",
        metavar="IMAGE",
        help="Only this part of the reference counts, where it is white.",
        rich_help_panel=_NEGTOME,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="toyworld (embedded), a folder that save_pretrained wrote, or a Hugging Face hub id; see `negguide "
        "models`.",
        rich_help_panel=_MODEL,
    ),
]
StepsOption = Annotated[int, typer.Option(help="Denoising steps.", rich_help_panel=_MODEL)]
GuidanceScaleOption = Annotated[
    float | None,
    typer.Option(
        help=f"Strength of the prompt (toyworld {TOYWORLD_DEFAULTS.guidance_scale:g}, others as in `negguide models`).",
        rich_help_panel=_MODEL,
    ),
]
SeedOption = Annotated[
    int, typer.Option(help="Seed of the first image; image i has seed + i.", rich_help_panel=_MODEL)
]
DeviceOption = Annotated[
    str,
    typer.Option(help="cpu, cuda, cuda:1 or mps; auto: a GPU where there is one.", rich_help_panel=_MODEL),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        help="float32, float16 or bfloat16; auto: float16 on a GPU, except toyworld.", rich_help_panel=_MODEL
    ),
]
OutOption = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")]


class NegToMeCommand(TyperCommand):
    """A command whose `--negtome` may stand alone: a word after it is its value only if it is one of its values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        alone = [
            arg == "--negtome" and args[i + 1 : i + 2] not in (["others"], ["first"])
            for i, arg in enumerate(args)
        ]
        args = [f"{arg}=" if bare else arg for arg, bare in zip(args, alone, strict=True)]
        return super().parse_args(ctx, args)


def check_folder(out: Path) -> None:
    """Refuse a `--out` that can be no folder, before anything is drawn.

    Raises:
        ValueError: when it is a file, or lies below one.
    """
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"--out {out}: {path} is a file; give a folder")


def guidance_scale(given: float | None, model: str) -> float | None:
    """What `--guidance-scale` says, or else what suits the model; None where its pipeline knows, once it is loaded."""
    return TOYWORLD_DEFAULTS.guidance_scale if given is None and model == TOYWORLD else given


def parse_negative(value: str) -> Negative:
    """The negative that `text:weight@start-stop` names; weight and window may be left out.

    The last colon and the last at sign count, so a text may hold them when a weight and a window follow.

    Raises:
        ValueError: with the value and the form.
    """
    from negguide.methods import Negative

    rest, at, window = value.rpartition("@") if "@" in value else (value, "", "")
    text, colon, weight = rest.rpartition(":") if ":" in rest else (rest, "", "")
    try:
        negative = Negative(text.strip())
        if colon:
            negative = replace(negative, weight=_number(weight, "the weight"))
        if at:
            start, stop = parse_window(window)
            negative = replace(negative, start=start, stop=stop)
        return negative
    except ValueError as error:
        raise ValueError(
            f"--negative {value!r}: {error}; write {NEGATIVE_FORM}, e.g. 'hat:1.5@0-0.6'"
        ) from error


def parse_window(value: str) -> tuple[float, float]:
    """Start and stop from "0-0.6".

    Raises:
        ValueError: when it is not two numbers with a hyphen between them.
    """
    match = re.fullmatch(r"\s*(-?[\d.]+)\s*-\s*(-?[\d.]+)\s*", value)
    if match is None:
        raise ValueError(f"the window must be {WINDOW_FORM}, got {value!r}")
    return _number(match[1], "start"), _number(match[2], "stop")


def said_of_method(joint: bool, refresh_every: int, adaptive: bool) -> dict[str, Any]:
    """What was said of a method's own arguments; empty when everything is as it is without saying."""
    said = {"joint": joint, "refresh_every": refresh_every, "adaptive": adaptive}
    return {name: value for name, value in said.items() if value != (1 if name == "refresh_every" else False)}


def flags(said: Iterable[str]) -> str:
    """How arguments are called on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in said)


def in_words(
    values: Sequence[str] | None, said: Mapping[str, Any], method: str, scale: float | None
) -> NegativesMethod | None:
    """The method that takes the negatives of `--negative`; None without one.

    Args:
        said: from `said_of_method`.

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
    return kinds[method](*(parse_negative(value) for value in values), **arguments)


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
    arguments: dict[str, Any] = {**suited.negtome, **said}
    try:
        if window is not None:
            arguments["start"], arguments["stop"] = parse_window(window)
        if mask is not None:
            arguments["mask"] = attachments.open(mask, "--mask", "L")
        if reference_mask is not None:
            arguments["reference_mask"] = attachments.open(reference_mask, "--reference-mask", "L")
        images = [attachments.open(path, "--reference") for path in references or ()]
        return NegToMe(reference=images or mode or "others", **arguments)
    except ValueError as error:
        raise ValueError(f"NegToMe: {error}") from error


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text.strip()!r}") from None
