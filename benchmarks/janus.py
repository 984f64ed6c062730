"""Faces at the back: what view words, the classic negative prompt and Perp-Neg do about them.

    python benchmarks/janus.py --part strip      # one picture for each of 12 azimuths
    python benchmarks/janus.py --part solids     # voxels fitted to denoised targets, as `negguide views --object` does

Rows: `no words`, the prompt alone at every camera; `words`, the nearest view in the prompt; `negative prompt`, besides
"KIND in front view" as the classic negative prompt where the embedded world's curve has it as a negative; and Perp-Neg
by each preset. Of a strip, `right` is the share of pictures in which the judge sees one character of that kind from the
camera's side. Of solids, judged at 24 azimuths: `back_faces` is the share of solids with a face anywhere from 135 to
225 degrees; `front`, `side` and `back` are the shares of views within 30 degrees of these that are read as such, `kind`
and `fur` those of the right kind and of the solid's commonest fur, and `profile` is the share of solids whose profiles
at 90 and 270 degrees look forwards, by the comparison that turned their targets. The world's curve was found on other
seeds. A run that is stopped goes on where it was; `--sheets` keeps the solids' pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from report import STEPS, arguments, models, plot_rates, print_table, rows_so_far, write_json
from tqdm import tqdm

from negguide.models import TOYWORLD, TOYWORLD_DEFAULTS
from negguide.pictures import grid
from negguide.toyworld import KINDS, Scene
from negguide.toyworld.judge import Judge
from negguide.toyworld.measure import Rate, share
from negguide.views import (
    PRESETS,
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
from negguide.views.embedded import Stage, as_image
from negguide.views.solid import TURNTABLE

AZIMUTHS = tuple(range(0, 360, 30))
FIRST_SEED = 10_000
NO_WORDS, WORDS, CLASSIC = "no words", "words", "negative prompt"
CURVES = tuple(f"Perp-Neg, {name}" for name in PRESETS)
NEAREST = PRESETS[TOYWORLD]
GUIDANCE_SCALE = TOYWORLD_DEFAULTS.guidance_scale
ROUNDS, NOISE = 30, (1.0, 0.2)


def preset_of(row: str) -> Preset:
    """Whose words and curves a row has; rows without Perp-Neg have the nearest word."""
    return PRESETS[row.removeprefix("Perp-Neg, ")] if row in CURVES else NEAREST


def cameras_of(row: str, azimuths: Sequence[float]) -> list[ViewPrompt]:
    cameras = list(view_prompts(azimuths, preset=preset_of(row)))
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
        cameras = cameras_of(row, AZIMUTHS)
        # without words nothing tells the cameras apart
        asked = cameras[:1] * len(cameras) if row == NO_WORDS else cameras
        seen = {
            camera: judge.read(draw(pipe, row, f"a {kind}", camera, own)) for camera in dict.fromkeys(asked)
        }
        for camera, view in zip(asked, wanted, strict=True):
            right += [scene.count == 1 and _is(scene, kind, view) for scene in seen[camera]]
    return {"right": share(right)}


def _is(scene: Scene, kind: str, view: str | None = None) -> bool:
    one = scene.characters[0] if scene.characters else None
    return one is not None and one.kind == kind and view in (None, one.view)


def solid(pipe: Any, row: str, prompt: str, seed: int) -> tuple[Stage, SolidFit]:
    stage = Stage(prompt, preset_of(row))

    def views(azimuths: Sequence[float], _: Sequence[float]) -> ViewPrompts:
        cameras = cameras_of(row, azimuths)
        words = [view_text(stage.prompt, camera.view, model=TOYWORLD) for camera in cameras]
        prompts = [stage.prompt] * len(cameras) if row == NO_WORDS else words
        if row == CLASSIC:
            front = view_text(stage.prompt, "front", model=TOYWORLD)
            return ViewPrompts(
                prompts, [[] for _ in cameras], [front if one.negatives else "" for one in cameras]
            )
        return ViewPrompts(
            prompts, [view_negatives(stage.prompt, camera, model=TOYWORLD) for camera in cameras]
        )

    distill = ScoreDistillation(
        pipe,
        stage.prompt,
        schedule=Schedule(ROUNDS, *NOISE),
        views=views,
        loss="denoise",
        guidance_scale=GUIDANCE_SCALE,
        seed=seed,
    )
    fit = SolidFit(distill, stage.backdrop, Fit(seed=seed), straighten=stage.straighten())
    while fit.done < ROUNDS:
        fit.round()
    return stage, fit


def solids(
    pipe: Any, judge: Judge, row: str, prompts: Sequence[str], seeds: int, sheets: Path | None
) -> dict[str, Rate]:
    """The figures of a row over `seeds` solids of each prompt."""
    found: dict[str, list[bool]] = {
        name: [] for name in ("back_faces", "front", "side", "back", "kind", "fur", "profile")
    }
    for number, prompt in enumerate(prompts):
        kind = prompt.split()[-1]
        for i in range(seeds):
            seed = FIRST_SEED + 1000 * number + i
            stage, fit = solid(pipe, row, prompt, seed)
            pictures = fit.turntable()
            images = [as_image(picture) for picture in pictures]
            scenes = judge.read(images)
            views = [scene.characters[0].view if scene.characters else None for scene in scenes]
            furs = Counter(scene.characters[0].fur for scene in scenes if scene.characters)
            by_azimuth = dict(zip(TURNTABLE, views, strict=True))
            found["back_faces"].append(
                any(view == "front" for at, view in by_azimuth.items() if 135 <= at <= 225)
            )
            for name, middles in (("front", (0, 360)), ("side", (90, 270)), ("back", (180,))):
                near = [v for at, v in by_azimuth.items() if min(abs(at - m) for m in middles) <= 30]
                found[name] += [view == name for view in near]
            found["kind"] += [_is(scene, kind) for scene in scenes]
            common = furs.most_common(1)[0][0] if furs else None
            found["fur"] += [bool(scene.characters) and scene.characters[0].fur == common for scene in scenes]
            right, left = (pictures[TURNTABLE.index(at)] for at in (90, 270))
            found["profile"].append(stage.looks_right(right) and not stage.looks_right(left))
            if sheets is not None:
                sheets.mkdir(parents=True, exist_ok=True)
                captions = [[f"{at}: {view}" for at, view in by_azimuth.items()][k : k + 12] for k in (0, 12)]
                sheet = grid([images[:12], images[12:]], title=f"{prompt}, {row}", captions=captions)
                sheet.save(sheets / f"{row}-{prompt}-{i}.png".replace(" ", "-").replace(",", ""))
    return {name: share(values) for name, values in found.items()}


def main() -> None:
    args = arguments(
        "Faces at the back, in strips and in solids.", part="strip", seeds=8, rows="", sheets="", fur="orange"
    )
    if args.part not in ("strip", "solids"):
        raise SystemExit(f"--part must be strip or solids, got {args.part!r}")
    # a solid's views are prompts, not mixed embeddings
    possible = [NO_WORDS, WORDS, CLASSIC, *CURVES]
    if args.part == "solids":
        possible = [row for row in possible if preset_of(row).positive == "nearest"]
    wanted = args.rows.split(";") if args.rows else possible
    if unknown := [row for row in wanted if row not in possible]:
        raise SystemExit(f"--rows: {unknown[0]!r} is none of {'; '.join(possible)}")
    pipe, judge = models()
    prompts = [text for kind in KINDS for text in (f"a {kind}", f"a {args.fur} {kind}")]
    settings = {
        "part": args.part,
        "seeds": args.seeds,
        "first_seed": FIRST_SEED,
        "guidance_scale": GUIDANCE_SCALE,
        **(
            {"steps": STEPS}
            if args.part == "strip"
            else {"rounds": ROUNDS, "noise": NOISE, "prompts": prompts}
        ),
    }
    path = args.out / f"janus-{args.part}.json"
    rows = rows_so_far(path, settings)
    done = {row["name"] for row in rows}
    for name in tqdm([name for name in wanted if name not in done], desc=f"janus {args.part}"):
        if args.part == "strip":
            figures = strip(pipe, judge, name, args.seeds)
        else:
            sheets = Path(args.sheets) if args.sheets else None
            figures = solids(pipe, judge, name, prompts, args.seeds, sheets)
        rows.append({"name": name} | {figure: rate.to_dict() for figure, rate in figures.items()})
        write_json(path, settings, rows)
    bars = {
        row["name"]: {figure: Rate(**rate) for figure, rate in row.items() if figure != "name"}
        for row in rows
    }
    figures_of = list(next(iter(bars.values())))
    title = "The camera's view, 12 azimuths" if args.part == "strip" else "Solids from all around"
    print_table(title, ("row", *figures_of), [(name, *bars[name].values()) for name in bars])
    plot_rates(path.with_suffix(".png"), title, bars)


if __name__ == "__main__":
    main()
