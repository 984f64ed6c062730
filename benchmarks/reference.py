"""Prompts that lead to the trademark character: how close do the pictures come to it, without and with NegToMe?

    python benchmarks/reference.py
    python benchmarks/reference.py --model toyworld-flow

Similarity is the cosine of the judge's features to those of the trademark character drawn in the same place, rescaled
so that 1 is the character itself and 0 is the mean over other explorers; `trademark` is the share of images that the
judge reads as the character. Fidelity: one character with a hat and a scarf, in the place that was asked for. A run
that is stopped goes on where it was; `--only` takes a regular expression of the rows that are measured.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from report import (
    arguments,
    call_of,
    chosen_rows,
    file_stem,
    models,
    own_steps,
    plot_rates,
    print_table,
    rows_so_far,
    steps_of,
    title_of,
    write_json,
)
from tqdm import tqdm

from negguide import NegToMe
from negguide._utils.stats import Rate, mean, share
from negguide.models import defaults_of, own_guidance_scale
from negguide.toyworld import BACKGROUNDS, TRADEMARK, Scene, is_trademark, render
from negguide.toyworld.domain import TOYWORLD
from negguide.toyworld.judge import Judge
from negguide.toyworld.language import PLACES
from negguide.toyworld.scene import sample_explorer

FIGURES = ("similarity", "trademark", "fidelity")


def methods(pipe: Any) -> dict[str, dict[str, Any]]:
    """Arguments of NegToMe by name; the last one's values were chosen on seeds from 500,000 to 599,999."""
    suited = defaults_of(pipe)
    away = suited.of_negtome(images=True)
    return {
        "NegToMe, published values": {},
        "NegToMe, the embedded model's values without a reference": {**suited.negtome},
        "NegToMe, whole push": {**away, "perpendicular": False},
        "NegToMe, each block its own match": {**away, "match_every": 1},
        "NegToMe": {**away},
    }


def reference(background: str) -> Scene:
    return Scene((replace(TRADEMARK, view="front"),), background)


def other_explorers(background: str, count: int = 100) -> list[Image.Image]:
    """Renders of explorers that are not the trademark character: what "no likeness" looks like."""
    rng = random.Random(background)
    images: list[Image.Image] = []
    while len(images) < count:
        character = sample_explorer(rng)
        if not is_trademark(character):
            images.append(render(Scene((character,), background), 64, rng.getrandbits(32)))
    return images


def draw(pipe: Any, background: str, seeds: list[int], extra: dict[str, Any]) -> list[Image.Image]:
    images: list[Image.Image] = pipe(
        [f"an explorer {PLACES[background]}"] * len(seeds),
        num_inference_steps=own_steps(pipe),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **{**call_of(pipe, scale_of(pipe, extra), prompts=len(seeds)), **extra},
    ).images
    return images


def scale_of(pipe: Any, extra: dict[str, Any]) -> float:
    """Of classifier-free guidance: on where a negative prompt is to act."""
    return own_guidance_scale(pipe, guided="negative_prompt" in extra)


def measure(
    pipe: Any,
    judge: Judge,
    name: str,
    seeds_per_place: int,
    first_seed: int = 0,
    values: dict[str, Any] | None = None,
) -> dict[str, Rate]:
    """The figures of one row; ``values`` are arguments of NegToMe in place of those that the name stands for."""
    values = methods(pipe).get(name) if values is None else values
    similar, trademark, faithful = [], [], []
    for number, background in enumerate(BACKGROUNDS):
        target = render(reference(background))
        extra: dict[str, Any] = {}
        if values is not None:
            extra["negative_guidance"] = NegToMe(target, **values)
        elif name == "negative prompt":
            extra["negative_prompt"] = [f"pip {PLACES[background]}"] * seeds_per_place
        seeds = [first_seed + 1000 * number + i for i in range(seeds_per_place)]
        images = draw(pipe, background, seeds, extra)
        goal = judge.embed([target])[0]
        floor = float((judge.embed(other_explorers(background)) @ goal).mean())
        similar += [(s - floor) / (1 - floor) for s in (judge.embed(images) @ goal).tolist()]
        for seen in judge.read(images):
            one = seen.characters[0] if seen.count == 1 else None
            trademark.append(one is not None and is_trademark(one))
            faithful.append(bool(one and one.hat and one.scarf and seen.background == background))
    return dict(zip(FIGURES, (mean(similar), share(trademark), share(faithful)), strict=True))


def main() -> None:
    args = arguments(
        "Likeness to the trademark character without and with a reference.",
        seeds_per_place=40,
        first_seed=0,
        model=TOYWORLD,
        only="",
    )
    pipe, judge = models(args.model)
    names = ("plain", "negative prompt", *methods(pipe))
    settings = {
        "seeds_per_place": args.seeds_per_place,
        "first_seed": args.first_seed,
        "steps": steps_of(args.model),
        "guidance_scale": own_guidance_scale(pipe, guided=False),
        "negtome": methods(pipe),
    }
    path = args.out / f"{file_stem('reference', args.model)}.json"
    rows = rows_so_far(path, settings, args.model)
    done = {row["name"] for row in rows}
    left = [name for name in chosen_rows(names, args.only) if name not in done]
    for name in tqdm(left, desc="reference"):
        rates = measure(pipe, judge, name, args.seeds_per_place, args.first_seed)
        rows.append({"name": name} | {figure: rate.to_dict() for figure, rate in rates.items()})
        write_json(path, settings, rows, args.model)
    base = rows[0]["similarity"]["value"]
    lines = [
        (
            row["name"],
            "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["similarity"]),
            f"{100 * (1 - row['similarity']['value'] / base):.1f}%",
            Rate(**row["trademark"]),
            Rate(**row["fidelity"]),
        )
        for row in rows
    ]
    columns = ("method", "similarity", "less similar by", "trademark character", "fidelity")
    print_table(title_of("Away from the trademark character", args.model), columns, lines)
    bars = {row["name"]: {figure: Rate(**row[figure]) for figure in FIGURES} for row in rows}
    plot_rates(path.with_suffix(".png"), title_of("Away from the trademark character", args.model), bars)


if __name__ == "__main__":
    main()
