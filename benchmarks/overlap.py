"""A negative that overlaps the prompt: is the unwanted part gone, and is the rest still there?

    python benchmarks/overlap.py
    python benchmarks/overlap.py --name few-steps --methods perp-neg,nag,ong,vsf --steps 6 --guidance-scale 1.5

Twenty pairs like "a bear wearing glasses" minus "black glasses". For every method and weight, `kept` is the share of
images that still show everything the prompt asks for, `removed` the share in which the unwanted attribute is gone.
The classic negative prompt is weighted as user interfaces do it: its text embedding is moved that many times as far
from the embedding of the empty prompt. Subtraction takes the whole negative away where Perp-Neg takes its
perpendicular part (arXiv 2206.01714). The second call shows the methods that act in attention, on few steps with
hardly any guidance. A run that is stopped goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from report import (
    STEPS,
    Subtraction,
    arguments,
    models,
    print_table,
    rows_so_far,
    write_json,
)
from tqdm import tqdm

from negguide import NAG, VSF, Negative, PerpNeg
from negguide.methods.choices import methods_in_words, options_of
from negguide.models import TOYWORLD_DEFAULTS
from negguide.toyworld import KINDS, Scene, parse
from negguide.toyworld.judge import Judge
from negguide.toyworld.measure import Rate, agreement, share

matplotlib.use("Agg")
import matplotlib.pyplot as plt

USUAL = (0.5, 1.0, 2.0)
"""The weights of a method that is not in `SWEEPS`."""
SWEEPS = {
    PerpNeg.key: (1.0, 2.0, 3.0),
    # its scale 1 is off
    NAG.key: (2.0, 3.0, 4.0),
    VSF.key: (2.0, 3.0, 4.0),
}
OPTIONS = {
    key: {name: value for name, value in arguments.items() if name != "scale"}
    for key, arguments in TOYWORLD_DEFAULTS.attention.items()
}
"""What suits the embedded model, but for the scale."""
LABELS = {
    "negative-prompt": "negative prompt",
    "subtraction": "subtraction",
    **{key: method.label for key, method in methods_in_words().items()},
}
WEIGHTS = {name: SWEEPS.get(name, USUAL) for name in LABELS}
"""By method: its `scale` where it has one, and otherwise the weights of a negative."""
COLORS = ("#8a8f98", "#d9822b", "#1f6feb", "#2da44e", "#bf3989", "#8250df", "#0a7ea4", "#9a6700")
STYLES = dict(zip(LABELS, zip(cycle(COLORS), cycle("s^oDvPX*"), strict=False), strict=False))


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


def negative_guidance(method: str, negative: str, weight: float) -> Any:
    """The method object of a name of `WEIGHTS`; subtraction is Perp-Neg with another rule."""
    kind = Subtraction if method == "subtraction" else methods_in_words()[method]
    if "scale" in options_of(kind):
        return kind(negative, scale=weight, **OPTIONS.get(method, {}))
    return kind(Negative(negative, weight=weight, start=0.0, stop=1.0))


def draw(
    pipe: Any,
    method: str,
    pair: Pair,
    weight: float,
    seeds: list[int],
    steps: int = STEPS,
    guidance_scale: float = TOYWORLD_DEFAULTS.guidance_scale,
) -> list[Image.Image]:
    """One image a seed."""
    extra: dict[str, Any] = {"prompt": [pair.prompt] * len(seeds)}
    if method == "negative-prompt":
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
        extra["negative_guidance"] = negative_guidance(method, pair.negative, weight)
    images: list[Image.Image] = pipe(
        **extra,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return images


def measure(
    pipe: Any,
    judge: Judge,
    method: str,
    weight: float,
    seeds_per_pair: int,
    steps: int,
    guidance_scale: float,
) -> tuple[Rate, Rate]:
    """(kept, removed) over all pairs."""
    kept, removed = [], []
    for number, pair in enumerate(pairs()):
        seeds = [1000 * number + i for i in range(seeds_per_pair)]
        seen = judge.read(draw(pipe, method, pair, weight, seeds, steps, guidance_scale))
        kept += [pair.kept(scene) for scene in seen]
        removed += [pair.removed(scene) for scene in seen]
    return share(kept), share(removed)


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.6))
    start = next(row for row in rows if row["method"] == "plain")
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "plain"):
        color, marker = STYLES[method]
        points = [start] + [row for row in rows if row["method"] == method]
        x = [100 * row["removed"]["value"] for row in points]
        y = [100 * row["kept"]["value"] for row in points]
        bars = [
            [100 * abs(row["kept"]["value"] - row["kept"][end]) for row in points] for end in ("low", "high")
        ]
        axes.errorbar(
            x, y, yerr=bars, color=color, marker=marker, label=LABELS[method], capsize=2, elinewidth=0.8
        )
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
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def main() -> None:
    args = arguments(
        "Removed against kept, for negatives that overlap the prompt.",
        seeds_per_pair=10,
        methods="negative-prompt,subtraction,perp-neg",
        steps=STEPS,
        guidance_scale=TOYWORLD_DEFAULTS.guidance_scale,
        name="overlap",
    )
    methods = args.methods.split(",")
    unknown = sorted(set(methods) - set(WEIGHTS))
    if unknown:
        raise SystemExit(f"--methods: {', '.join(unknown)} is none of {', '.join(WEIGHTS)}")
    pipe, judge = models()
    settings = {
        "pairs": 20,
        "seeds_per_pair": args.seeds_per_pair,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
    }
    path = args.out / f"{args.name}.json"
    rows = rows_so_far(path, settings)
    cells = [("plain", 0.0), *((method, weight) for method in methods for weight in WEIGHTS[method])]
    done = {(row["method"], row["weight"]) for row in rows}
    for method, weight in tqdm([cell for cell in cells if cell not in done], desc="overlap"):
        kept, removed = measure(
            pipe, judge, method, weight, args.seeds_per_pair, args.steps, args.guidance_scale
        )
        rows.append(
            {"method": method, "weight": weight, "kept": kept.to_dict(), "removed": removed.to_dict()}
        )
        write_json(path, settings, rows)
    columns = ("method", "weight", "kept", "removed")
    lines = [
        [LABELS.get(r["method"], r["method"]), f"{r['weight']:g}", Rate(**r["kept"]), Rate(**r["removed"])]
        for r in rows
    ]
    print_table("Negatives that overlap the prompt", columns, lines)
    scale, steps = args.guidance_scale, args.steps
    plot(
        rows,
        path.with_suffix(".png"),
        f"Negatives that overlap the prompt ({steps} steps, guidance {scale:g})",
    )


if __name__ == "__main__":
    main()
