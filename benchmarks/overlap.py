"""A negative that overlaps the prompt: is the unwanted part gone, and is the rest still there?

    python benchmarks/overlap.py

Twenty pairs like "a bear wearing glasses" minus "black glasses". For every method and weight, `kept` is the share of
images that still show everything the prompt asks for, `removed` the share in which the unwanted attribute is gone.
The classic negative prompt is weighted as user interfaces do it: its text embedding is moved that many times as far
from the embedding of the empty prompt. Subtraction takes the whole negative away where Perp-Neg takes its
perpendicular part (arXiv 2206.01714).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from report import arguments, models, print_table, score_rule, subtraction, write_json
from tqdm import tqdm

from negguide import Negative, PerpNeg
from negguide.models import TOYWORLD_DEFAULTS
from negguide.toyworld import KINDS, Scene, parse
from negguide.toyworld.judge import Judge
from negguide.toyworld.measure import Rate, agreement, share

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0)
GUIDANCE_SCALE = TOYWORLD_DEFAULTS.guidance_scale
STEPS = 25
METHODS = ("negative prompt", "subtraction", "Perp-Neg")


@dataclass(frozen=True)
class Pair:
    """A prompt, a negative that overlaps it, and the attribute that nobody wants."""

    prompt: str
    negative: str
    attribute: str
    value: str

    def kept(self, seen: Scene) -> bool:
        return all(agreement(parse(self.prompt), seen).values())

    def removed(self, seen: Scene) -> bool:
        return all(getattr(character, self.attribute) != self.value for character in seen.characters)


def pairs() -> list[Pair]:
    """Four ways of overlapping for each of the five kinds."""
    rows = []
    for kind in KINDS:
        rows += [
            Pair(f"a {kind} wearing glasses", "black glasses", "glasses", "black"),
            Pair(f"a {kind} wearing glasses", f"a {kind} wearing black glasses", "glasses", "black"),
            Pair(f"a {kind}", f"a brown {kind}", "fur", "brown"),
            Pair(f"a {kind} wearing a hat", f"a brown {kind} wearing a hat", "fur", "brown"),
        ]
    return rows


def draw(pipe: Any, method: str, pair: Pair, weight: float, seeds: list[int]) -> list[Image.Image]:
    """One image a seed."""
    extra: dict[str, Any] = {"prompt": [pair.prompt] * len(seeds)}
    rule = score_rule(subtraction) if method == "subtraction" else nullcontext()
    if method == "negative prompt":
        (embedding, empty), (negative, _) = (
            pipe.encode_prompt([text], pipe.device, 1, True, negative_prompt=[""])
            for text in (pair.prompt, pair.negative)
        )
        weighted = empty + weight * (negative - empty)
        extra = {
            "prompt_embeds": embedding.expand(len(seeds), -1, -1),
            "negative_prompt_embeds": weighted.expand(len(seeds), -1, -1),
        }
    elif method != "plain":
        extra["negative_guidance"] = PerpNeg(Negative(pair.negative, weight=weight, start=0.0, stop=1.0))
    with rule:
        images: list[Image.Image] = pipe(
            **extra,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images
    return images


def measure(pipe: Any, judge: Judge, method: str, weight: float, seeds_per_pair: int) -> tuple[Rate, Rate]:
    """(kept, removed) over all pairs."""
    kept, removed = [], []
    for number, pair in enumerate(pairs()):
        seeds = [1000 * number + i for i in range(seeds_per_pair)]
        seen = judge.read(draw(pipe, method, pair, weight, seeds))
        kept += [pair.kept(scene) for scene in seen]
        removed += [pair.removed(scene) for scene in seen]
    return share(kept), share(removed)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.6))
    start = next(row for row in rows if row["method"] == "plain")
    styles = dict(zip(METHODS, (("#8a8f98", "s"), ("#d9822b", "^"), ("#1f6feb", "o")), strict=True))
    for method, (color, marker) in styles.items():
        points = [start] + [row for row in rows if row["method"] == method]
        x = [100 * row["removed"]["value"] for row in points]
        y = [100 * row["kept"]["value"] for row in points]
        bars = [
            [100 * abs(row["kept"]["value"] - row["kept"][end]) for row in points] for end in ("low", "high")
        ]
        axes.errorbar(x, y, yerr=bars, color=color, marker=marker, label=method, capsize=2, elinewidth=0.8)
        for row, a, b in list(zip(points, x, y, strict=True))[1:]:
            axes.annotate(
                f"{row['weight']:g}",
                (a, b),
                textcoords="offset points",
                xytext=(4, 5),
                fontsize=8,
                color=color,
            )
    axes.set_xlabel("unwanted attribute removed (% of images)")
    axes.set_ylabel("everything in the prompt kept (%)")
    axes.set_title("Negatives that overlap the prompt (numbers: weight)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def main() -> None:
    args = arguments("Removed against kept, for negatives that overlap the prompt.", seeds_per_pair=10)
    pipe, judge = models()
    cells = [("plain", 0.0), *((method, weight) for method in METHODS for weight in WEIGHTS)]
    rows: list[dict[str, Any]] = []
    for method, weight in tqdm(cells, desc="overlap"):
        kept, removed = measure(pipe, judge, method, weight, args.seeds_per_pair)
        rows.append(
            {"method": method, "weight": weight, "kept": kept.to_dict(), "removed": removed.to_dict()}
        )
        rows[-1]["text"] = [method, f"{weight:g}", str(kept), str(removed)]
    print_table(
        "Negatives that overlap the prompt",
        ("method", "weight", "kept", "removed"),
        [r.pop("text") for r in rows],
    )
    settings = {
        "pairs": 20,
        "seeds_per_pair": args.seeds_per_pair,
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
    }
    write_json(args.out / "overlap.json", settings, rows)
    plot(rows, args.out / "overlap.png")


if __name__ == "__main__":
    main()
