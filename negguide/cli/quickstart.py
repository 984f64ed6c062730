"""`negguide quickstart`: the first pictures, on the embedded models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negguide._utils.text import listed
from negguide.cli import options
from negguide.cli.compare import CLASSIC, PLAIN
from negguide.cli.output import check_folder, remark, show
from negguide.cli.views import AZIMUTHS
from negguide.cli.views_object import ROUNDS, check_state, draw_turntable
from negguide.cli.views_strip import PERP_NEG, draw_strip

if TYPE_CHECKING:
    from PIL import Image

    from negguide.cli.job import Job
    from negguide.methods import Negative

SEEDS, STEPS = 4, 25
"""Images per method, and denoising steps. The seeds are 0, 1, ...: nothing is picked."""
QUICK_SEEDS, QUICK_STEPS = 2, 4

# Perp-Neg: what is drawn, what is left out, and how.
GLASSES_PROMPT, GLASSES_NEGATIVES = "a cat wearing a hat and glasses", ("black glasses", "brown fur")
GLASSES_WINDOW = (0.0, 0.5)
FUR_PROMPT, FUR_NEGATIVE = "a bear wearing a hat", "a brown bear wearing a hat"
FUR_WEIGHT, FUR_WINDOW = 1.0, (0.0, 0.6)
VIEW_PROMPT, VIEW_NEGATIVE = "a bear in back view", "front view"
VIEW_WEIGHT, VIEW_WINDOW = 3.0, (0.0, 1.0)
# NAG, without guidance: how is said by the defaults of the model.
TURBO_PROMPT, TURBO_NEGATIVE = FUR_PROMPT, FUR_NEGATIVE
# NegToMe: how is said by negguide.toyworld.domain.TOYWORLD_DEFAULTS.
BATCH_PROMPT = "a bear"
REFERENCE_PROMPT = "an explorer"
# Perp-Neg by view: a strip of one seed, and a solid.
AROUND_PROMPT = "a bear"
STRIP_ROWS = (PLAIN, CLASSIC, PERP_NEG)
SOLID_FILE = "bear.gif"
QUICK_ROUNDS = 2

GLASSES_LOOK = (
    "the glasses and the fur. In this world most glasses are black and most fur is brown. Which column takes both away "
    "and still has a cat with a hat and glasses?"
)
FUR_LOOK = (
    "bear and hat. The negative says nearly the same as the prompt, and only adds that bears are mostly brown. Which "
    "column takes the brown away and keeps a bear with a hat?"
)
VIEW_LOOK = (
    "who turns round. In this world most bears face you, and captions that say “back view” are often wrong, as many "
    "captions are. Which column shows backs?"
)
TURBO_LOOK = (
    "the fur again. This model is of another kind: a transformer distilled to four steps, without classifier-free "
    "guidance, where a negative prompt does nothing. Which column has bears that are not brown, and hats?"
)
BATCH_LOOK = (
    "fur, clothes and places, which the prompt leaves open. Both rows have the same seeds; in the lower one each "
    "image keeps away from the others. Are they still bears, and less alike?"
)
REFERENCE_LOOK = (
    "how much the explorers look like Pip in the upper row: orange cat, green hat, purple scarf. In this world an "
    "explorer is mostly Pip; the last row keeps away from those drawings."
)
STRIP_LOOK = (
    "the middle columns, which ask for its back. Each camera says its view in words; the two lower rows also say that "
    "the front is not wanted where the camera cannot see it. Which row turns all the way round?"
)
SOLID_LOOK = (
    "the bear that turns: voxels, fitted to what the model draws from each side with Perp-Neg. The sheet beside it "
    "says what the judge reads. Is there a face at the back?"
)


@dataclass(frozen=True)
class Sheet:
    """One picture of the quickstart: jobs side by side (columns) or one below the other (rows)."""

    file: str
    title: str
    look: str
    labels: tuple[str, ...]
    jobs: tuple[Job, ...]
    as_rows: bool = False
    above: tuple[Image.Image, ...] = ()


def quickstart(
    out: options.OutOption = options.OUT,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer images and steps: only to see that it runs.")
    ] = False,
) -> None:
    """Draw the first pictures on the embedded models: Perp-Neg, NegToMe and NAG beside plain prompting, and a solid.

    Writes labelled PNGs and a turntable, and says what to look at; some minutes on two CPU cores. Nothing is
    downloaded.
    """
    from negguide.cli.draw import draw
    from negguide.cli.job import Job
    from negguide.methods import AUTO, Negative
    from negguide.models import defaults
    from negguide.toyworld.domain import TOYWORLD

    check_folder(out)
    solid = _solid_settings(QUICK_ROUNDS if quick else ROUNDS)
    # drawn last
    check_state(AROUND_PROMPT, out / SOLID_FILE, **solid)
    began = time.monotonic()
    plain = Job(
        prompt=BATCH_PROMPT,
        model=TOYWORLD,
        steps=QUICK_STEPS if quick else STEPS,
        guidance_scale=defaults(TOYWORLD).guidance_scale,
        seeds=tuple(range(QUICK_SEEDS if quick else SEEDS)),
    )
    sheets = [
        _minus(
            plain,
            "perp-neg.png",
            GLASSES_PROMPT,
            [Negative(text, AUTO, *GLASSES_WINDOW) for text in GLASSES_NEGATIVES],
            GLASSES_LOOK,
        ),
        _minus(
            plain,
            "perp-neg-fur.png",
            FUR_PROMPT,
            [Negative(FUR_NEGATIVE, FUR_WEIGHT, *FUR_WINDOW)],
            FUR_LOOK,
        ),
        _minus(
            plain,
            "perp-neg-view.png",
            VIEW_PROMPT,
            [Negative(VIEW_NEGATIVE, VIEW_WEIGHT, *VIEW_WINDOW)],
            VIEW_LOOK,
        ),
        _batch(plain),
        _reference(plain),
    ]
    turbo = _turbo(plain)
    # one model at a time
    drawn = draw([job for sheet in sheets for job in sheet.jobs]) + draw(turbo.jobs)
    sheets.append(turbo)
    pictures = iter([one.images for one in drawn])
    for sheet in sheets:
        _write(sheet, [next(pictures) for _ in sheet.jobs], out)
    lines = [(out / sheet.file, sheet.title, sheet.look) for sheet in sheets]
    lines += [_strip(plain, out), _solid(out, solid)]
    show(*(f"{path}\n    {title}\n    Look at {look}" for path, title, look in lines))
    remark(f"{len(lines)} pictures in {time.monotonic() - began:.0f} seconds")


def _strip(plain: Job, out: Path) -> tuple[Path, str, str]:
    from negguide.models import revision
    from negguide.pictures import save_png, versions
    from negguide.toyworld.domain import TOYWORLD
    from negguide.views import find_preset

    base = replace(plain, prompt=AROUND_PROMPT, seeds=plain.seeds[:1])
    azimuths = [float(degrees) for degrees in AZIMUTHS.split(",")]
    strip = draw_strip(base, AROUND_PROMPT, find_preset(TOYWORLD), azimuths, 0.0, STRIP_ROWS)
    path = out / "views.png"
    save_png(strip.sheet, path, {**strip.settings, "revision": revision(TOYWORLD), "versions": versions()})
    return path, f"“{AROUND_PROMPT}” from all around", STRIP_LOOK


def _solid_settings(rounds: int) -> dict[str, Any]:
    from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
    from negguide.views import find_preset

    return {
        "preset": find_preset(TOYWORLD),
        "guidance_scale": TOYWORLD_DEFAULTS.guidance_scale,
        "seed": 0,
        "rounds": rounds,
    }


def _solid(out: Path, settings: dict[str, Any]) -> tuple[Path, str, str]:
    drawn = draw_turntable(AROUND_PROMPT, out / SOLID_FILE, **settings)
    drawn.state.unlink()
    return drawn.turntable, f"“{AROUND_PROMPT}” as a solid", SOLID_LOOK


def _minus(plain: Job, file: str, prompt: str, negatives: Sequence[Negative], look: str) -> Sheet:
    from negguide.methods import PerpNeg

    plain = replace(plain, prompt=prompt)
    texts = [negative.prompt for negative in negatives]
    return Sheet(
        file=file,
        title=f"“{prompt}” minus {listed(f'“{text}”' for text in texts)}",
        look=look,
        labels=("plain", "classic negative prompt", PerpNeg.label),
        jobs=(
            plain,
            # "and" stands between fragments in this world's grammar
            replace(plain, negative_prompt=" and ".join(texts)),
            replace(plain, methods=(PerpNeg(*negatives),)),
        ),
    )


def _turbo(plain: Job) -> Sheet:
    from negguide.methods import NAG
    from negguide.models import defaults, usual_steps
    from negguide.toyworld.domain import TOYWORLD_TURBO

    turbo = replace(
        plain,
        prompt=TURBO_PROMPT,
        model=TOYWORLD_TURBO,
        steps=usual_steps(TOYWORLD_TURBO),
        # off
        guidance_scale=1.0,
    )
    method = NAG(TURBO_NEGATIVE, **defaults(TOYWORLD_TURBO).arguments(NAG.key))
    return Sheet(
        file="nag-turbo.png",
        title=f"“{TURBO_PROMPT}” minus “{TURBO_NEGATIVE}”, in four steps without guidance",
        look=TURBO_LOOK,
        labels=("plain", NAG.label),
        jobs=(turbo, replace(turbo, methods=(method,))),
    )


def _batch(plain: Job) -> Sheet:
    from negguide.methods import NegToMe
    from negguide.toyworld.domain import TOYWORLD_DEFAULTS

    return Sheet(
        file="negtome.png",
        title=f"“{plain.prompt}”, each image pushed away from the others",
        look=BATCH_LOOK,
        labels=("plain", NegToMe.label),
        jobs=(plain, replace(plain, methods=(NegToMe(**TOYWORLD_DEFAULTS.negtome),))),
        as_rows=True,
    )


def _reference(plain: Job) -> Sheet:
    from negguide.methods import NegToMe
    from negguide.toyworld.domain import TOYWORLD_DEFAULTS
    from negguide.toyworld.render import render
    from negguide.toyworld.scene import BACKGROUNDS, TRADEMARK, Scene

    pip = replace(TRADEMARK, view="front")
    references = tuple(
        render(Scene((pip,), place), seed=i) for i, place in enumerate(BACKGROUNDS[: len(plain.seeds)])
    )
    plain = replace(plain, prompt=REFERENCE_PROMPT)
    method = NegToMe(reference=references, **TOYWORLD_DEFAULTS.of_negtome(images=True))
    return Sheet(
        file="negtome-reference.png",
        title=f"“{plain.prompt}”, pushed away from Pip",
        look=REFERENCE_LOOK,
        labels=("Pip, as reference", "plain", NegToMe.label),
        jobs=(plain, replace(plain, methods=(method,))),
        as_rows=True,
        above=references,
    )


def _write(sheet: Sheet, pictures: list[list[Image.Image]], out: Path) -> None:
    from negguide.cli.draw import describe
    from negguide.models import revision
    from negguide.pictures import grid, save_png, versions

    rows = [list(sheet.above), *pictures] if sheet.above else pictures
    labels = list(sheet.labels)
    seeds = [f"seed {seed}" for seed in sheet.jobs[0].seeds]
    if not sheet.as_rows:
        rows = [list(row) for row in zip(*rows, strict=True)]
        labels, seeds = seeds, labels
    picture = grid(
        rows, row_labels=labels, column_labels=seeds, title=sheet.title, footer=describe(sheet.jobs[-1])
    )
    settings = {
        "command": "quickstart",
        "jobs": [job.to_dict() for job in sheet.jobs],
        "revision": revision(sheet.jobs[0].model),
        "versions": versions(),
    }
    save_png(picture, out / sheet.file, settings)
