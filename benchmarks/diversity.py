"""Prompts that leave the fur colour open, in batches of four: how varied are the batches, and still what was asked for?

    python benchmarks/diversity.py
    python benchmarks/diversity.py --model toyworld-flow

Entropy is that of the fur colours in a batch of four over its maximum (four different colours); distance is the mean
pairwise 1 - cosine of the judge's features; fidelity is the share of images that show what the prompt says. A run that
is stopped goes on where it was; `--only` takes a regular expression of the rows that are measured.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
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
from negguide.models import own_guidance_scale
from negguide.toyworld import FURS, KINDS, Scene, parse
from negguide.toyworld.domain import EMBEDDED, TOYWORLD
from negguide.toyworld.judge import Judge
from negguide.toyworld.measure import agreement

BATCH = 4
FIGURES = ("entropy", "distance", "fidelity")
PROMPTS = tuple(
    f"a {kind}{rest}" for kind in KINDS for rest in ("", " wearing glasses", " wearing a hat", " in the snow")
)


def entropy(scenes: Sequence[Scene]) -> float:
    """Normalised entropy of the fur colours: 0 when all are equal, 1 when all differ."""
    furs = Counter(scene.characters[0].fur if scene.characters else None for scene in scenes)
    n = len(scenes)
    return -sum(c / n * math.log(c / n) for c in furs.values()) / math.log(n)


def distance(features: torch.Tensor) -> float:
    """Mean of 1 - cosine over all pairs of unit vectors [n, D]."""
    n = len(features)
    similar = features @ features.T
    return float(1 - (similar.sum() - similar.diagonal().sum()) / (n * (n - 1)))


def draw(pipe: Any, prompts: list[str], seeds: list[int], method: NegToMe | None) -> list[Image.Image]:
    """A batch of four for every prompt, in order; batches are independent of each other."""
    images: list[Image.Image] = pipe(
        prompts,
        num_images_per_prompt=BATCH,
        num_inference_steps=own_steps(pipe),
        **call_of(pipe, prompts=len(prompts)),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        negative_guidance=method,
    ).images
    return images


def measure(
    pipe: Any, judge: Judge, prompts: Sequence[str], asked: Sequence[str], seed: int, method: NegToMe | None
) -> Any:
    """(entropy, distance, fidelity) over the batches; ``asked`` is drawn where ``prompts`` is what counts as right."""
    entropies, distances, faithful = [], [], []
    for start in range(0, len(asked), 8 * BATCH):
        texts = list(asked[start : start + 8 * BATCH])
        seeds = [seed + start + i for i in range(len(texts))]
        if method is None:
            images = pipe(
                texts,
                num_inference_steps=own_steps(pipe),
                **call_of(pipe, prompts=len(texts)),
                generator=[torch.Generator().manual_seed(s) for s in seeds],
            ).images
        else:
            images = draw(pipe, texts[::BATCH], seeds, method)
        seen, features = judge.read(images), judge.embed(images)
        for i in range(0, len(images), BATCH):
            entropies.append(entropy(seen[i : i + BATCH]))
            distances.append(distance(features[i : i + BATCH]))
        said = prompts[start : start + 8 * BATCH]
        faithful += [all(agreement(parse(p), s).values()) for p, s in zip(said, seen, strict=True)]
    return mean(entropies), mean(distances), share(faithful)


def main() -> None:
    args = arguments(
        "Diversity of batches of four with and without NegToMe.",
        batches_per_prompt=3,
        first_seed=0,
        model=TOYWORLD,
        only="",
    )
    pipe, judge = models(args.model)
    own = EMBEDDED[args.model].defaults.negtome
    prompts = [p for p in PROMPTS for _ in range(args.batches_per_prompt * BATCH)]
    rng = random.Random(0)
    furry = [_with_fur(p, rng.choice(FURS)) for p in prompts]
    cells: list[tuple[str, list[str], int, NegToMe | None]] = [
        ("plain", prompts, 0, None),
        ("other seeds", prompts, 10_000, None),
        ("random fur colour in the prompt", furry, 0, None),
        ("NegToMe, published values", prompts, 0, NegToMe("others")),
        ("NegToMe, first", prompts, 0, NegToMe("first", **own)),
        ("NegToMe, others", prompts, 0, NegToMe("others", **own)),
        (
            "NegToMe, others, one match for four blocks",
            prompts,
            0,
            NegToMe("others", match_every=4, **own),
        ),
    ]
    settings = {
        "batches": len(prompts) // BATCH,
        "first_seed": args.first_seed,
        "steps": steps_of(args.model),
        "guidance_scale": own_guidance_scale(pipe, guided=False),
        "negtome": dict(own),
    }
    path = args.out / f"{file_stem('diversity', args.model)}.json"
    rows = rows_so_far(path, settings, args.model)
    done = {row["name"] for row in rows}
    wanted = chosen_rows([cell[0] for cell in cells], args.only)
    left = [cell for cell in cells if cell[0] in wanted and cell[0] not in done]
    for name, asked, seed, method in tqdm(left, desc="diversity"):
        rates = zip(
            FIGURES, measure(pipe, judge, prompts, asked, args.first_seed + seed, method), strict=True
        )
        rows.append({"name": name} | {figure: rate.to_dict() for figure, rate in rates})
        write_json(path, settings, rows, args.model)
    bars = {row["name"]: {figure: Rate(**row[figure]) for figure in FIGURES} for row in rows}
    lines = [
        (
            name,
            f["entropy"],
            "{value:.3f} [{low:.3f}, {high:.3f}]".format(**f["distance"].to_dict()),
            f["fidelity"],
        )
        for name, f in bars.items()
    ]
    title = title_of("Batches of four", args.model)
    print_table(title, ("batch", "entropy of fur", "mean pairwise distance", "fidelity"), lines)
    plot_rates(path.with_suffix(".png"), title, bars)


def _with_fur(prompt: str, fur: str) -> str:
    article, rest = prompt.split(" ", 1)
    return f"{'an' if fur == 'orange' else article} {fur} {rest}"


if __name__ == "__main__":
    main()
