"""Images a second of `negguide finetune` over those of a plain loop with the same model, batch and data.

The plain loop is what people write with transformers and accelerate: `CLIPModel(..., return_loss=True)` on the images
and captions of a batch, AdamW, clipped gradients. Its batch has the negatives as further pairs, so both loops see the
same images. They run in alternation in one process; the ratio is the median over the pairs. Steps are timed from the
files on disk to the new weights; loading the model, validation and checkpoints are not in it.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from report import arguments, print_table, write_json
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import CLIPProcessor

from negguide.toyworld.language import caption
from negguide.toyworld.models import load_clip
from negguide.toyworld.render import render
from negguide.toyworld.scene import COLORS, sample_character, sample_scene
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log
from negguide.vlm.training.loop import finetune

SKIPPED = 2
"""Steps at the start that are not timed."""


def write_set(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Scenes with one character whose hat changes its colour, as an imagefolder."""
    rng = random.Random(0)
    lines = []
    for i in range(rows):
        scene = sample_scene(rng)
        color, other = rng.sample(COLORS, 2)
        character = sample_character(rng, max_accessories=0)
        pair = [
            replace(scene, characters=(replace(character, hat=c),), relation=None, explorer=False)
            for c in (color, other)
        ]
        files = [f"{i}.png", f"{i}-negative.png"]
        for one, file in zip(pair, files, strict=True):
            render(one, 64, i).save(folder / file)
        texts = [caption(one) for one in pair]
        lines.append(
            {
                "id": str(i),
                "image": files[0],
                "negative_image": files[1],
                "caption": texts[0],
                "negative_caption": texts[1],
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def ours(folder: Path, out: Path, batch_size: int) -> float:
    """Images a second of one epoch of `finetune`."""
    settings = Settings(str(folder), batch_size=batch_size, epochs=1, val_fraction=0.0)
    finetune(settings, out, cpu=True)
    rates: list[float] = [line["images_per_second"] for line in Log(out / "log.jsonl").lines()[SKIPPED:]]
    return statistics.harmonic_mean(rates)


def plain(folder: Path, lines: list[dict[str, Any]], batch_size: int) -> float:
    """Images a second of one epoch of a plain loop."""
    accelerator = Accelerator(cpu=True)
    model, processor = load_clip()
    pairs = [
        (line["image"], line["caption"], line["negative_image"], line["negative_caption"]) for line in lines
    ]

    def collate(rows: list[tuple[str, str, str, str]]) -> Any:
        files = [row[0] for row in rows] + [row[2] for row in rows]
        texts = [row[1] for row in rows] + [row[3] for row in rows]
        return _inputs(processor, [Image.open(folder / file).convert("RGB") for file in files], texts)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    loader: Any = DataLoader(pairs, batch_size=batch_size, shuffle=True, drop_last=True, collate_fn=collate)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    seconds, began = [], time.perf_counter()
    for batch in loader:
        loss = model(**batch, return_loss=True).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
    return 2 * batch_size * len(seconds[SKIPPED:]) / sum(seconds[SKIPPED:])


def _inputs(processor: CLIPProcessor, images: list[Image.Image], texts: list[str]) -> Any:
    return processor(text=texts, images=images, padding=True, return_tensors="pt")


def main() -> None:
    args = arguments("Speed of finetune over a plain loop.", pairs=5, steps=12, batch_size=32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        folder.mkdir()
        lines = write_set(folder, args.batch_size * (args.steps + SKIPPED))
        rates: dict[str, list[float]] = {"finetune": [], "plain": []}
        for i in tqdm(range(args.pairs), desc="pairs"):
            # The order alternates, so that a drift of the machine's speed falls on both.
            for name in ("finetune", "plain") if i % 2 else ("plain", "finetune"):
                out = Path(temporary) / f"out{i}"
                rate = (
                    ours(folder, out, args.batch_size)
                    if name == "finetune"
                    else plain(folder, lines, args.batch_size)
                )
                rates[name].append(rate)
    ratios = [a / b for a, b in zip(rates["finetune"], rates["plain"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    rows = [
        {"name": name, "images_per_second": values, "median": statistics.median(values)}
        for name, values in rates.items()
    ]
    rows.append(
        {"name": "ratio", "values": ratios, "median": quartiles[1], "quartiles": [quartiles[0], quartiles[2]]}
    )
    print_table(
        f"Training the embedded CLIP, batches of {args.batch_size} pairs with negatives, {args.threads} threads",
        ("loop", "images a second (median)", "over plain (median, quartiles)"),
        [
            ("plain transformers and accelerate", f"{statistics.median(rates['plain']):.0f}", "1"),
            (
                "negguide finetune, loss triplet",
                f"{statistics.median(rates['finetune']):.0f}",
                f"{quartiles[1]:.2f} [{quartiles[0]:.2f}, {quartiles[2]:.2f}]",
            ),
        ],
    )
    settings = {
        "pairs": args.pairs,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "threads": args.threads,
    }
    write_json(args.out / "vlm-speed.json", settings, rows)


if __name__ == "__main__":
    main()
