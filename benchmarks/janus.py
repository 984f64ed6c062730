"""Faces at the back: what view words, the classic negative prompt and Perp-Neg do about them.

    python benchmarks/janus.py --part strip                  # one picture for each of 12 azimuths
    python benchmarks/janus.py --part solids --loss denoise  # voxels, as `negguide views --object` makes them
    python benchmarks/janus.py --part solids --loss image    # voxels by the gradient of a score distillation
    python benchmarks/janus.py --part solids --loss image --guidance-scale 5

Rows: `no words`, the prompt alone at every camera; `words`, the nearest view in the prompt; `negative prompt`, besides
"KIND in front view" as the classic negative prompt where the embedded world's curve has it as a negative; and Perp-Neg
by each preset, with the nearest word in solids. Of a strip, `right` is the fraction of pictures in which the judge sees
one character of that kind from the camera's side. Of solids, judged at 24 azimuths: `back_faces` is the fraction of
solids with a face anywhere from 135 to 225 degrees; `front`, `side` and `back` are the fractions of views within 30
degrees of these that are read as such, `kind` and `fur` those of the right kind and of the solid's commonest fur, and
`profile` is the fraction of solids whose profiles at 90 and 270 degrees look forwards, by the comparison that turned
their targets. Views of one solid are not independent, so that their intervals are too narrow. Curves and rates were
found on other seeds. A run that is stopped goes on where it was; `--sheets` keeps the solids' pictures.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from report import STEPS, arguments, models, plot_rates, print_table, rows_so_far, write_json
from tqdm import tqdm

from negguide._utils.stats import Rate, share
from negguide.pictures import grid
from negguide.toyworld import KINDS, Character, Scene
from negguide.toyworld.domain import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.toyworld.judge import Judge
from negguide.toyworld.scene import FURS
from negguide.toyworld.stage import VIEWS_STOP, Stage, as_image
from negguide.views import (
    PRESETS,
    Descent,
    Fit,
    Preset,
    Schedule,
    ScoreDistillation,
    SolidFit,
    ViewPrompt,
    ViewPrompts,
    mixed_embeds,
    view_negatives,
    view_perp_neg,
    view_prompts,
    view_text,
)
from negguide.views.distillation import Loss
from negguide.views.solid import TURNTABLE

AZIMUTHS = tuple(range(0, 360, 30))
FIRST_SEED = 10_000
NO_WORDS, WORDS, CLASSIC = "no words", "words", "negative prompt"
CURVES = tuple(f"Perp-Neg, {name}" for name in PRESETS)
NEAREST = PRESETS[TOYWORLD]
GUIDANCE_SCALE = TOYWORLD_DEFAULTS.guidance_scale


class Settings(NamedTuple):
    """How a loss makes solids.

    Attributes:
        schedule: its noise levels.
        guidance_scale: of the predictions.
        stop: where the negatives end, as in `view_negatives`.
    """

    schedule: Schedule
    guidance_scale: float
    stop: float


SOLIDS: dict[Loss, Settings] = {
    "denoise": Settings(Schedule(26, 1.0, 0.2), GUIDANCE_SCALE, VIEWS_STOP),
    "image": Settings(Schedule(250, 1.0, 0.4), 2.0, 1.0),
    "sds": Settings(Schedule(250, 1.0, 0.2), 7.5, 1.0),
}
"""Found on seeds from 500,000 on. A gradient follows one estimate at a time, which a scale of 5 with a weight of 3 puts
far beyond any drawing."""


def preset_of(row: str) -> Preset:
    """Whose words and curves a row has; rows without Perp-Neg have the nearest word."""
    return PRESETS[row.removeprefix("Perp-Neg, ")] if row in CURVES else NEAREST


def cameras_of(row: str, azimuths: Sequence[float], preset: Preset) -> list[ViewPrompt]:
    cameras = list(view_prompts(azimuths, preset=preset))
    return cameras if row in (*CURVES, CLASSIC) else [replace(camera, negatives=()) for camera in cameras]


def draw(pipe: Any, row: str, prompt: str, camera: ViewPrompt, seeds: Sequence[int]) -> list[Image.Image]:
    """One picture a seed."""
    extra: dict[str, Any] = {"prompt": [prompt] * len(seeds)}
    if row != NO_WORDS and len(camera.positive) == 1:
        extra["prompt"] = [view_text(prompt, camera.view, model=TOYWORLD)] * len(seeds)
    elif row != NO_WORDS:
        extra = mixed_embeds(pipe, prompt, [camera] * len(seeds), model=TOYWORLD)
    if row == CLASSIC and camera.negatives:
        extra["negative_prompt"] = [view_text(prompt, "front", model=TOYWORLD)] * len(seeds)
    elif camera.negatives:
        extra["negative_guidance"] = view_perp_neg(prompt, [camera] * len(seeds), model=TOYWORLD)
    images: list[Image.Image] = pipe(
        **extra,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return images


def strip(pipe: Any, judge: Judge, row: str, seeds: int) -> dict[str, Rate]:
    """The figures of a row over all kinds and azimuths; cameras that differ in nothing share their pictures."""
    wanted = [camera.view for camera in view_prompts(AZIMUTHS, preset=NEAREST)]
    right = []
    for number, kind in enumerate(KINDS):
        own = [FIRST_SEED + 1000 * number + i for i in range(seeds)]
        cameras = cameras_of(row, AZIMUTHS, preset_of(row))
        # without words nothing tells the cameras apart
        drawn = cameras[:1] * len(cameras) if row == NO_WORDS else cameras
        seen = {
            camera: judge.read(draw(pipe, row, f"a {kind}", camera, own)) for camera in dict.fromkeys(drawn)
        }
        for camera, view in zip(drawn, wanted, strict=True):
            right += [scene.count == 1 and _is(scene, kind, view) for scene in seen[camera]]
    return {"right": share(right)}


def _is(scene: Scene, kind: str, view: str | None = None) -> bool:
    one = scene.characters[0] if scene.characters else None
    return one is not None and one.kind == kind and view in (None, one.view)


def _prompt(fur: str, kind: str) -> str:
    article = "an" if fur[:1] in ("a", "e", "i", "o", "u") else "a"
    return " ".join(word for word in (article, fur, kind) if word)


def solid(pipe: Any, row: str, prompt: str, seed: int, loss: Loss, how: Settings) -> tuple[Stage, SolidFit]:
    preset = replace(preset_of(row), positive="nearest")
    stage = Stage(prompt, preset)

    def views(azimuths: Sequence[float], _: Sequence[float]) -> ViewPrompts:
        cameras = cameras_of(row, azimuths, preset)
        words = [view_text(stage.prompt, camera.view, model=TOYWORLD) for camera in cameras]
        prompts = [stage.prompt] * len(cameras) if row == NO_WORDS else words
        if row == CLASSIC:
            front = view_text(stage.prompt, "front", model=TOYWORLD)
            return ViewPrompts(
                prompts, [[] for _ in cameras], [front if one.negatives else "" for one in cameras]
            )
        return ViewPrompts(
            prompts,
            [view_negatives(stage.prompt, camera, model=TOYWORLD, stop=how.stop) for camera in cameras],
        )

    distill = ScoreDistillation(
        pipe,
        stage.prompt,
        schedule=how.schedule,
        views=views,
        loss=loss,
        guidance_scale=how.guidance_scale,
        seed=seed,
    )
    fit = SolidFit(
        distill,
        stage.backdrop,
        Fit(seed=seed) if loss == "denoise" else Descent(seed=seed),
        # the published loss in latents has no targets that could be turned
        straighten=None if loss == "sds" else stage.straighten(),
    )
    while fit.done < fit.rounds:
        fit.round()
    return stage, fit


def readings(judge: Judge, stage: Stage, fit: SolidFit, title: str, sheet: Path | None) -> dict[str, object]:
    """What the judge reads all around one solid, a word for each azimuth of the turntable."""
    pictures = fit.turntable()
    images = [as_image(picture) for picture in pictures]
    seen = [scene.characters[0] if scene.characters else Character() for scene in judge.read(images)]
    right, left = (pictures[TURNTABLE.index(at)] for at in (90, 270))
    if sheet is not None:
        captions = [f"{at}: {one.view}" for at, one in zip(TURNTABLE, seen, strict=True)]
        half = len(captions) // 2
        sheet.parent.mkdir(parents=True, exist_ok=True)
        grid([images[:half], images[half:]], title=title, captions=[captions[:half], captions[half:]]).save(
            sheet
        )
    return {
        **{name: " ".join(str(getattr(one, name)) for one in seen) for name in ("view", "kind", "fur")},
        "profile": stage.looks_right(right) and not stage.looks_right(left),
    }


def figures(solids: Sequence[Mapping[str, Any]]) -> dict[str, Rate]:
    """Those of a row, over its solids."""
    found: dict[str, list[bool]] = {
        name: [] for name in ("back_faces", "front", "side", "back", "kind", "fur", "profile")
    }
    for one in solids:
        views, kinds, furs = (one[name].split() for name in ("view", "kind", "fur"))
        by_azimuth = dict(zip(TURNTABLE, views, strict=True))
        found["back_faces"].append(
            any(view == "front" for at, view in by_azimuth.items() if 135 <= at <= 225)
        )
        for name, middles in (("front", (0, 360)), ("side", (90, 270)), ("back", (180,))):
            near = [v for at, v in by_azimuth.items() if min(abs(at - m) for m in middles) <= 30]
            found[name] += [view == name for view in near]
        found["kind"] += [kind == one["prompt"].split()[-1] for kind in kinds]
        common, _ = Counter(furs).most_common(1)[0]
        found["fur"] += [fur == common != "None" for fur in furs]
        found["profile"].append(one["profile"])
    return {name: share(values) for name, values in found.items()}


def strips(args: argparse.Namespace, wanted: Sequence[str]) -> tuple[Path, dict[str, dict[str, Rate]]]:
    pipe, judge = models()
    settings = {
        "part": "strip",
        "seeds": args.seeds,
        "first_seed": FIRST_SEED,
        "guidance_scale": GUIDANCE_SCALE,
        "steps": STEPS,
    }
    path = args.out / "janus-strip.json"
    rows = rows_so_far(path, settings)
    done = {row["name"] for row in rows}
    for name in tqdm([name for name in wanted if name not in done], desc="janus strip"):
        rates = strip(pipe, judge, name, args.seeds)
        rows.append({"name": name} | {figure: rate.to_dict() for figure, rate in rates.items()})
        write_json(path, settings, rows)
    return path, {
        row["name"]: {figure: Rate(**rate) for figure, rate in row.items() if figure != "name"}
        for row in rows
    }


def solids(args: argparse.Namespace, wanted: Sequence[str]) -> tuple[Path, dict[str, dict[str, Rate]]]:
    """Seed by seed, so that a run that is stopped has every row and prompt alike."""
    pipe, judge = models()
    how, stem = SOLIDS[args.loss], f"janus-{args.loss}"
    if args.guidance_scale:
        how, stem = how._replace(guidance_scale=args.guidance_scale), f"{stem}-{args.guidance_scale:g}"
    settings = {
        "part": "solids",
        "loss": args.loss,
        "first_seed": FIRST_SEED,
        "guidance_scale": how.guidance_scale,
        "schedule": asdict(how.schedule),
        "negatives_stop": how.stop,
    }
    path = args.out / f"{stem}.json"
    rows = rows_so_far(path, settings)
    done = {(row["name"], row["prompt"], row["seed"]) for row in rows}
    prompts = [_prompt(fur, kind) for fur in args.furs.split(",") for kind in KINDS]
    if args.kinds:
        prompts = [prompt for prompt in prompts if prompt.split()[-1] in args.kinds.split(",")]
    cells = [(name, prompt, i) for i in range(args.seeds) for prompt in prompts for name in wanted]
    for row_name, prompt, i in tqdm(cells, desc=f"janus {args.loss}"):
        seed = FIRST_SEED + 1000 * KINDS.index(prompt.split()[-1]) + i
        if (row_name, prompt, seed) in done:
            continue
        stage, fit = solid(pipe, row_name, prompt, seed, args.loss, how)
        file = f"{args.loss}-{row_name}-{prompt}-{i}.png".replace(" ", "-").replace(",", "")
        sheet = Path(args.sheets) / file if args.sheets else None
        row = readings(judge, stage, fit, f"{prompt}, {row_name}, {args.loss}", sheet)
        rows.append({"name": row_name, "prompt": prompt, "seed": seed, **row})
        write_json(path, settings, rows)
    return path, {
        name: figures([row for row in rows if row["name"] == name])
        for name in dict.fromkeys(row["name"] for row in rows)
    }


def main() -> None:
    args = arguments(
        "Faces at the back, in strips and in solids.",
        part="strip",
        loss="denoise",
        guidance_scale=0.0,
        seeds=8,
        rows="",
        furs=",orange",
        kinds="",
        sheets="",
    )
    if args.part not in ("strip", "solids"):
        raise SystemExit(f"--part must be strip or solids, got {args.part!r}")
    if args.guidance_scale and args.part == "strip":
        raise SystemExit("--guidance-scale is that of solids; a strip has the model's own")
    if args.loss not in SOLIDS:
        raise SystemExit(f"--loss must be one of {', '.join(SOLIDS)}, got {args.loss!r}")
    for name, possible in (
        ("rows", [NO_WORDS, WORDS, CLASSIC, *CURVES]),
        ("furs", ["", *FURS]),
        ("kinds", ["", *KINDS]),
    ):
        given = getattr(args, name).split(";" if name == "rows" else ",")
        if unknown := [one for one in given if one not in ("", *possible)]:
            raise SystemExit(f"--{name}: {unknown[0]!r} is none of {'; '.join(possible)}")
    wanted = args.rows.split(";") if args.rows else [NO_WORDS, WORDS, CLASSIC, *CURVES]
    path, rates = (strips if args.part == "strip" else solids)(args, wanted)
    figure_names = list(next(iter(rates.values())))
    title = (
        "The camera's view, 12 azimuths" if args.part == "strip" else f"Solids from all around, {args.loss}"
    )
    print_table(title, ("row", *figure_names), [(name, *rates[name].values()) for name in rates])
    plot_rates(path.with_suffix(".png"), title, rates)


if __name__ == "__main__":
    main()
