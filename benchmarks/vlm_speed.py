"""Images a second of `negguide finetune` over those of another loop with the same model, batch and data.

    python benchmarks/vlm_speed.py                   # over open_clip's; needs pip install "open_clip_torch[training]"
    python benchmarks/vlm_speed.py --against plain   # over what people write with transformers and accelerate

open_clip's loop is that of its package: its data set, its `train_one_epoch`, its loss, its schedule, on its own model
of the embedded CLIP's shape, whose context is as long as the longest caption. Both train on plain pairs (`--loss clip`)
from one TSV file, without augmentation.

The plain loop is `CLIPModel(..., return_loss=True)` on the images and captions of a batch, AdamW, clipped gradients,
against `--loss triplet`. Its batch has the negatives as further pairs, so both loops see the same images.

The loops run in alternation in one process; the ratio is the median over the pairs. Steps are timed from the files on
disk to the new weights; loading the model, validation and checkpoints are not in it.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
OPEN_CLIP, PLAIN = "open_clip", "plain"
LOOPS = {OPEN_CLIP: "open_clip's loop", PLAIN: "plain transformers and accelerate, negatives as pairs"}


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


def write_table(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """The originals of a set alone, as open_clip reads pairs."""
    path = folder / "pairs.tsv"
    rows = [f"{folder / line['image']}\t{line['caption']}\n" for line in lines]
    path.write_text("filepath\ttitle\n" + "".join(rows))
    return path


def ours(train_data: Path, out: Path, batch_size: int, loss: str) -> float:
    """Images a second of one epoch of `finetune`."""
    settings = Settings(str(train_data), loss=loss, batch_size=batch_size, epochs=1, val_fraction=0.0)
    finetune(settings, out, cpu=True)
    rates: list[float] = [line["images_per_second"] for line in Log(out / "log.jsonl").lines()[SKIPPED:]]
    return statistics.harmonic_mean(rates)


def open_clip_packages() -> tuple[Any, Any, Any, Any]:
    """`open_clip`, and of its training loop the data, the schedule and the steps."""
    try:
        import open_clip
        from open_clip_train import data, scheduler, train
    except ImportError as error:
        raise SystemExit(
            f"--against open_clip needs open_clip and its training loop ({error}); "
            'pip install "open_clip_torch[training]", or take --against plain'
        ) from error
    return open_clip, data, scheduler, train


def open_clip_loop(table: Path, captions: list[str], batch_size: int) -> float:
    """Images a second of one epoch of open_clip's loop."""
    open_clip, data, scheduler, train = open_clip_packages()
    embedded, processor = load_clip()
    length = max(len(ids) for ids in processor.tokenizer(captions).input_ids)
    model = open_clip_model(open_clip, embedded.config, length)
    args = SimpleNamespace(
        device="cpu",
        precision="fp32",
        rank=0,
        world_size=1,
        distributed=False,
        workers=0,
        train_data=str(table),
        csv_img_key="filepath",
        csv_caption_key="title",
        csv_separator="\t",
        batch_size=batch_size,
        accum_freq=1,
        grad_clip_norm=1.0,
        skip_scheduler=False,
        distill=False,
        log_every_n_steps=100,
        wandb=False,
        horovod=False,
    )

    def tokens(texts: list[str]) -> torch.Tensor:
        given: torch.Tensor = processor.tokenizer(
            texts, padding="max_length", max_length=length, return_tensors="pt"
        ).input_ids
        return given

    transform = open_clip.image_transform(embedded.config.vision_config.image_size, is_train=False)
    pairs = data.get_csv_dataset(args, transform, is_train=True, tokenizer=tokens)
    small = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    large = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": small, "weight_decay": 0.0}, {"params": large, "weight_decay": 0.1}],
        lr=1e-5,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    steps = pairs.dataloader.num_batches
    cosine = scheduler.cosine_lr(optimizer, 1e-5, 1, steps)
    times: list[float] = []

    def timed(step: int) -> None:
        # its loop asks for the rate once a step, when the batch is there
        times.append(time.perf_counter())
        cosine(step)

    train.train_one_epoch(
        model, {"train": pairs}, open_clip.ClipLoss(), 0, optimizer, None, timed, None, args
    )
    return batch_size * (len(times) - 1 - SKIPPED) / (times[-1] - times[SKIPPED])


def open_clip_model(open_clip: Any, config: Any, length: int) -> Any:
    """A random model of open_clip of a CLIP's shape.

    Args:
        open_clip: the package.
        config: of the CLIP, as transformers has it.
        length: of its texts, in tokens.
    """
    vision, text = config.vision_config, config.text_config
    return open_clip.CLIP(
        config.projection_dim,
        open_clip.CLIPVisionCfg(
            layers=vision.num_hidden_layers,
            width=vision.hidden_size,
            head_width=vision.hidden_size // vision.num_attention_heads,
            mlp_ratio=vision.intermediate_size / vision.hidden_size,
            patch_size=vision.patch_size,
            image_size=vision.image_size,
        ),
        open_clip.CLIPTextCfg(
            context_length=length,
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            layers=text.num_hidden_layers,
            mlp_ratio=text.intermediate_size / text.hidden_size,
            pool_type="eos",
            eos_id=text.eos_token_id,
        ),
        quick_gelu=True,
        output_dict=True,
    )


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
    args = arguments(
        "Speed of finetune over another loop.", against=OPEN_CLIP, pairs=7, steps=12, batch_size=32
    )
    if args.against not in (OPEN_CLIP, PLAIN):
        raise SystemExit(f"--against must be {OPEN_CLIP} or {PLAIN}, got {args.against!r}")
    if args.against == OPEN_CLIP:
        open_clip_packages()
    loss = "clip" if args.against == OPEN_CLIP else "triplet"
    rates: dict[str, list[float]] = {"finetune": [], args.against: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        folder.mkdir()
        lines = write_set(folder, args.batch_size * (args.steps + SKIPPED))
        table = write_table(folder, lines)
        captions = [line["caption"] for line in lines]
        for i in tqdm(range(args.pairs), desc="pairs"):
            # The order alternates, so that a drift of the machine's speed falls on both.
            for name in list(rates) if i % 2 else reversed(list(rates)):
                if name == "finetune":
                    train_data = table if args.against == OPEN_CLIP else folder
                    rate = ours(train_data, Path(temporary) / f"out{i}", args.batch_size, loss)
                elif name == OPEN_CLIP:
                    rate = open_clip_loop(table, captions, args.batch_size)
                else:
                    rate = plain(folder, lines, args.batch_size)
                rates[name].append(rate)
    ratios = [a / b for a, b in zip(rates["finetune"], rates[args.against], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    rows = [
        {"name": name, "images_per_second": values, "median": statistics.median(values)}
        for name, values in rates.items()
    ]
    rows.append({"name": "ratio", "values": ratios, "median": median, "quartiles": [low, high]})
    print_table(
        f"Training the embedded CLIP, batches of {args.batch_size} pairs, {args.threads} threads",
        ("loop", "images a second (median)", f"over {args.against} (median, quartiles)"),
        [
            (LOOPS[args.against], f"{statistics.median(rates[args.against]):.0f}", "1"),
            (
                f"negguide finetune, loss {loss}",
                f"{statistics.median(rates['finetune']):.0f}",
                f"{median:.2f} [{low:.2f}, {high:.2f}]",
            ),
        ],
    )
    settings = {name: getattr(args, name) for name in ("against", "pairs", "steps", "batch_size", "threads")}
    stem = "vlm-speed" if args.against == PLAIN else "vlm-speed-open-clip"
    write_json(args.out / f"{stem}.json", settings, rows)


if __name__ == "__main__":
    main()
