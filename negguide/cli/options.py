"""The options of the command line: what `generate`, `compare` and others share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from negguide.cli.syntax import LORA_FORM, NEGATIVE_FORM, TIMESTEPS_FORM
from negguide.domain import USUAL_STEPS, default_domain

METHOD = "perp-neg"
"""How `--negative` acts unless told."""
# the help names this one alone: what installed packages bring is found by importing them, which takes seconds
_WORLD = default_domain()
MODEL = _WORLD.model.name
SEED = 0
DEVICE = DTYPE = "auto"
OFFLOADS = ("none", "model", "sequential", "group")
OFFLOAD = OFFLOADS[0]
OUT = Path("out")

PROMPT_HELP = (
    f"What to draw, e.g. 'a bear wearing glasses'. {MODEL} knows few words; a word that it does not know is answered "
    "with all of them."
)

_WORDS, _NEGTOME, _MODEL = "Negatives in words", "NegToMe", "Model and sampling"
_PICTURE = "Pictures, where the model takes them"
_OTHER_STEPS = ", ".join(
    f"{one.name} {one.steps}" for one in _WORLD.models.values() if one.steps != USUAL_STEPS
)
_SUITED = _WORLD.model.defaults
_TOY = _SUITED.negtome
_TOY_IMAGES = _SUITED.of_negtome(images=True)

NegativeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--negative",
        metavar=NEGATIVE_FORM.upper(),
        help='What to leave out, e.g. "black glasses:1.5@0-0.6": weight 1.5 in the first 60% of the steps; '
        '"@1000t-900t" are timesteps. Weight (1) and window (as in `negguide methods`) may be left out. What could '
        'also be part of the text ("clock showing 10:30", "mail me@0-1") is refused: ":weight=1" behind a text takes '
        'all of it as the text, ":weight=2@0-0.5" adds a weight and a window. Repeatable.',
        rich_help_panel=_WORDS,
    ),
]
JointOption = Annotated[
    bool,
    typer.Option("--joint", help="Two wordings of one thing do not count twice.", rich_help_panel=_WORDS),
]
RefreshOption = Annotated[
    int | None,
    typer.Option(
        "--refresh-every",
        metavar="STEPS",
        help="Ask the model for the negatives only every so many steps (1): less time for nearly the same picture.",
        rich_help_panel=_WORDS,
    ),
]
EconomyOption = Annotated[
    bool,
    typer.Option(
        "--economy",
        help="Ask the model in few steps only, so that negatives cost about what guidance alone costs.",
        rich_help_panel=_WORDS,
    ),
]
LengthOption = Annotated[
    int | None,
    typer.Option(
        "--max-sequence-length",
        metavar="TOKENS",
        help="To how many tokens at most a negative's text is encoded; fewer take less time, with methods in attention "
        "on models that fill texts up (FLUX, SD3, Wan). As many as the prompt's unless told.",
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
        "--alpha",
        help=f"Strength ({MODEL} {_TOY['alpha']:g}, with --reference {_TOY_IMAGES['alpha']:g}; others 0.9).",
        rich_help_panel=_NEGTOME,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help=f"Least cosine of a match ({MODEL} {_TOY['threshold']:g}, with --reference "
        f"{_TOY_IMAGES['threshold']:g}; others as in `negguide models`).",
        rich_help_panel=_NEGTOME,
    ),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--negtome-window",
        metavar="START-STOP",
        help=f"When it acts, in fractions of the steps ({MODEL} 0-{_TOY['stop']:g}, others as in `negguide models`).",
        rich_help_panel=_NEGTOME,
    ),
]
TimestepWindowOption = Annotated[
    str | None,
    typer.Option(
        "--timestep-window",
        metavar="START:STOP",
        help=f"When NegToMe acts, and each --negative without a window of its own: {TIMESTEPS_FORM}.",
        rich_help_panel=_MODEL,
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
PerpendicularOption = Annotated[
    bool | None,
    typer.Option(
        "--perpendicular/--no-perpendicular",
        help="Push without the component along the token itself.",
        rich_help_panel=_NEGTOME,
    ),
]
MatchEveryOption = Annotated[
    int | None,
    typer.Option(
        "--match-every",
        help="How many modules in a row share one match (each has its own).",
        rich_help_panel=_NEGTOME,
        show_default=False,
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
        help=f"{', '.join(_WORLD.models)} (embedded), a folder that save_pretrained wrote, or a Hugging Face hub id; "
        "see `negguide models`.",
        rich_help_panel=_MODEL,
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        help=f"Denoising steps ({USUAL_STEPS}; {_OTHER_STEPS}).",
        rich_help_panel=_MODEL,
    ),
]
GuidanceScaleOption = Annotated[
    float | None,
    typer.Option(
        help=f"Strength of the prompt ({MODEL} {_SUITED.guidance_scale:g}, others as in `negguide models`).",
        rich_help_panel=_MODEL,
    ),
]
SeedOption = Annotated[
    int, typer.Option(help="Seed of the first image; image i has seed + i.", rich_help_panel=_MODEL)
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:1 or mps; auto: a GPU where there is one.",
        autocompletion=lambda: ["auto", "cpu", "cuda", "mps"],
        rich_help_panel=_MODEL,
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        help="float32, float16 or bfloat16; auto: on a GPU what the model's family was published in (bfloat16, older "
        "ones such as Stable Diffusion XL float16; see `negguide models`), except the embedded ones.",
        autocompletion=lambda: ["auto", "float32", "float16", "bfloat16"],
        rich_help_panel=_MODEL,
    ),
]
PipelineOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Load the model as this pipeline of `negguide models` instead of the one that it names, e.g. "
        "StableDiffusionXLImg2ImgPipeline.",
        rich_help_panel=_MODEL,
    ),
]
HeightOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="In pixels (the model's own, or that of --image).",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
WidthOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="In pixels (the model's own, or that of --image).",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
OffloadOption = Annotated[
    str,
    typer.Option(
        metavar="[none|model|sequential|group]",
        help="Keep on the CPU what does not compute: whole models, single layers, or groups of layers that are "
        "fetched ahead. Less of the GPU's memory, more time.",
        autocompletion=lambda: list(OFFLOADS),
        rich_help_panel=_MODEL,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar=LORA_FORM.upper(),
        help='Low-rank weights: a .safetensors file or a hub id, e.g. "style.safetensors:0.8"; behind a digit the '
        'scale is ":scale=0.8". Repeatable.',
        rich_help_panel=_MODEL,
    ),
]
ImageOption = Annotated[
    Path | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="The picture to start from or to edit; for image-to-image, inpainting and editing models.",
        rich_help_panel=_PICTURE,
    ),
]
StrengthOption = Annotated[
    float | None,
    typer.Option(help="How much of --image may change, 0 to 1 (the model's own).", rich_help_panel=_PICTURE),
]
MaskImageOption = Annotated[
    Path | None,
    typer.Option(
        "--mask-image",
        metavar="IMAGE",
        help="Where an inpainting model draws: where this is white.",
        rich_help_panel=_PICTURE,
    ),
]
ControlModeOption = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER", help="Of a union ControlNet: what --control-image is.", rich_help_panel=_PICTURE
    ),
]
ControlImageOption = Annotated[
    Path | None,
    typer.Option(
        "--control-image",
        metavar="IMAGE",
        help="What a ControlNet or an adapter follows: edges, depth, a pose, as the model was trained.",
        rich_help_panel=_PICTURE,
    ),
]
OutOption = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")]


class NegToMeCommand(TyperCommand):
    """A command whose `--negtome` may stand alone: a word after it is its value only if it is one of its values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a `--negtome` that stands alone an empty value."""
        alone = [
            arg == "--negtome" and args[i + 1 : i + 2] not in (["others"], ["first"])
            for i, arg in enumerate(args)
        ]
        args = [f"{arg}=" if bare else arg for arg, bare in zip(args, alone, strict=True)]
        return super().parse_args(ctx, args)
