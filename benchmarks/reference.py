"""Prompts that lead to the trademark character: how close do the pictures come to it, without and with NegToMe?

    python benchmarks/reference.py

Similarity is the cosine of the judge's features to those of the trademark character drawn in the same place, rescaled
so that 1 is the character itself and 0 is the mean over other explorers; `trademark` is the share of images that the
judge reads as the character. Fidelity: one character with a hat and a scarf, in the place that was asked for.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from report import STEPS, arguments, models, plot_rates, print_table, write_json
from tqdm import tqdm

from negguide import NegToMe
from negguide.models import TOYWORLD_DEFAULTS
from negguide.toyworld import BACKGROUNDS, TRADEMARK, Scene, is_trademark, render
from negguide.toyworld.judge import Judge
from negguide.toyworld.language import PLACES
from negguide.toyworld.measure import mean, share
from negguide.toyworld.scene import sample_explorer

GUIDANCE_SCALE = TOYWORLD_DEFAULTS.guidance_scale


CENTRED = {"blocks": "attn1$", "alpha": 4.0, "threshold": 0.0, "center": True, "stop": 0.5}
"""What went furthest from the reference, among fourteen settings on 60 images each, at a fidelity of 95% or more."""


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
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **extra,
    ).images
    return images


def measure(pipe: Any, judge: Judge, name: str, seeds_per_place: int) -> dict[str, Any]:
    similar, trademark, faithful = [], [], []
    for number, background in enumerate(BACKGROUNDS):
        target = render(reference(background))
        extra: dict[str, Any] = {}
        if name == "NegToMe, reference":
            extra["negative_guidance"] = NegToMe(target, **TOYWORLD_DEFAULTS.negtome)
        elif name == "NegToMe, reference, centred":
            extra["negative_guidance"] = NegToMe(target, **CENTRED)
        elif name == "NegToMe, published values":
            extra["negative_guidance"] = NegToMe(target)
        elif name == "negative prompt":
            extra["negative_prompt"] = [f"pip {PLACES[background]}"] * seeds_per_place
        images = draw(pipe, background, [1000 * number + i for i in range(seeds_per_place)], extra)
        goal = judge.embed([target])[0]
        floor = float((judge.embed(other_explorers(background)) @ goal).mean())
        similar += [(s - floor) / (1 - floor) for s in (judge.embed(images) @ goal).tolist()]
        for seen in judge.read(images):
            one = seen.characters[0] if seen.count == 1 else None
            trademark.append(one is not None and is_trademark(one))
            faithful.append(bool(one and one.hat and one.scarf and seen.background == background))
    return {
        "name": name,
        "similarity": mean(similar),
        "trademark": share(trademark),
        "fidelity": share(faithful),
    }


def main() -> None:
    args = arguments("Likeness to the trademark character without and with a reference.", seeds_per_place=40)
    pipe, judge = models()
    names = (
        "plain",
        "negative prompt",
        "NegToMe, published values",
        "NegToMe, reference",
        "NegToMe, reference, centred",
    )
    results = [measure(pipe, judge, name, args.seeds_per_place) for name in tqdm(names, desc="reference")]
    base = results[0]["similarity"].value
    lines = [
        (
            r["name"],
            f"{r['similarity'].value:.3f} [{r['similarity'].low:.3f}, {r['similarity'].high:.3f}]",
            f"{100 * (1 - r['similarity'].value / base):.1f}%",
            r["trademark"],
            r["fidelity"],
        )
        for r in results
    ]
    columns = ("method", "similarity", "less similar by", "trademark character", "fidelity")
    print_table("Away from the trademark character", columns, lines)
    settings = {"seeds_per_place": args.seeds_per_place, "steps": STEPS, "guidance_scale": GUIDANCE_SCALE}
    rows = [{k: v if isinstance(v, str) else v.to_dict() for k, v in r.items()} for r in results]
    write_json(args.out / "reference.json", settings | {"negtome": dict(TOYWORLD_DEFAULTS.negtome)}, rows)
    figures = ("similarity", "trademark", "fidelity")
    bars = {r["name"]: {figure: r[figure] for figure in figures} for r in results}
    plot_rates(args.out / "reference.png", "Away from the trademark character", bars)


if __name__ == "__main__":
    main()
