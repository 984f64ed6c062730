"""`negguide toyworld train` and `evaluate`: make the embedded models again, and measure them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from negguide.toyworld.evaluate import Bar


def train(
    part: Annotated[
        str,
        typer.Option(
            help="autoencoder, diffusion (a text encoder that reads, then the UNet with it), clip, judge, or all "
            "of them in this order. diffusion needs an autoencoder trained in the same folder."
        ),
    ] = "all",
    out: Annotated[
        Path, typer.Option(help="Folder of checkpoints and results; training goes on from there.")
    ] = Path("runs/toyworld"),
    minutes: Annotated[
        float | None,
        typer.Option(help="Train for so long in all, earlier runs included, instead of the recipe's steps."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's own number of steps.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
    device: Annotated[str, typer.Option(help="A torch device; auto: a GPU where there is one.")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile (needs a C++ compiler).")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw batches ahead of time.")] = 0,
) -> None:
    """Train the embedded models from nothing, or go on where an earlier run stopped.

    It may be killed at any time: a checkpoint is written every two minutes, and the same command goes on from it.
    With --part diffusion, --minutes, --steps and --batch-size are those of the UNet.
    """
    import torch

    from negguide.toyworld.train.recipe import run_part

    own = {"minutes": minutes, "steps": steps, "batch_size": batch_size}
    changes = {key: value for key, value in own.items() if value is not None}
    if part == "all" and changes:
        raise ValueError(f"{', '.join(changes)}: these need --part with one part, got --part all")
    if minutes is not None and steps is not None:
        raise ValueError(f"--minutes={minutes} and --steps={steps} both say when to stop; give one of them")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    run_part(part, out, changes, seed=seed, device=device, compile=compile, workers=workers)
    typer.echo(f"results are in {out / 'weights'}")


def evaluate(
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder with text-to-image, clip and judge; default: the shipped ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=20, help="Images per figure of the text-to-image model.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Measure the embedded models on held-out scenes and print every figure beside its bar."""
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPProcessor

    from negguide.cli.errors import quiet_libraries
    from negguide.toyworld import evaluate as measured
    from negguide.toyworld.judge import Judge
    from negguide.toyworld.models import WEIGHTS

    quiet_libraries()
    folder = weights or WEIGHTS
    for name in ("text-to-image", "clip", "judge"):
        if not (folder / name).is_dir():
            raise ValueError(f"weights={str(folder)!r} has no folder {name!r}; train it first")
    judge = Judge.load(folder / "judge")
    bars = measured.judge_bars(judge)
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    bars += measured.clip_bars(clip, CLIPProcessor.from_pretrained(folder / "clip"))
    pipe = StableDiffusionPipeline.from_pretrained(folder / "text-to-image", dtype=torch.float32)
    bars += measured.autoencoder_bars(pipe.vae)
    bars += measured.text_to_image_bars(pipe, judge, count)
    _print(bars)
    if out is not None:
        rows = [{"model": b.model, "name": b.name, "at_least": b.at_least, **b.rate.to_dict()} for b in bars]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n")


def _print(bars: list[Bar]) -> None:
    table = Table(title="The embedded models on held-out scenes", title_justify="left")
    for column in ("model", "figure", "measured [95%]", "bar", ""):
        table.add_column(column, justify="right" if column.startswith(("measured", "bar")) else "left")
    for bar in bars:
        rate = bar.rate
        if bar.unit == "dB":
            text, goal = f"{rate.value:.1f} dB [{rate.low:.1f}, {rate.high:.1f}]", f"{bar.at_least:.0f} dB"
        else:
            text = str(rate)
            goal = "" if bar.at_least is None else f"{100 * bar.at_least:.0f}%"
        verdict = "" if bar.passed is None else ("passed" if bar.passed else "missed")
        table.add_row(bar.model, bar.name, text, goal, verdict)
    Console(width=120).print(table)
