"""`negguide toyworld train` and `evaluate`: make the embedded models again, and measure them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from negguide.cli import options
from negguide.cli.output import check_file, check_folder, console, show
from negguide.storage import write_whole
from negguide.toyworld.domain import EMBEDDED, TOYWORLD
from negguide.toyworld.train.settings import Settings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from negguide.toyworld.bars import Bar
    from negguide.toyworld.judge import Judge


def train(
    part: Annotated[
        str,
        typer.Option(
            help="autoencoder, diffusion (a text encoder that reads, then the UNet with it), clip, judge, flow "
            "(another text encoder, then the flow-matching transformer with it), distill (guidance into one "
            "evaluation), turbo (four steps), or all of them in this order. diffusion needs an autoencoder trained in "
            "the same folder, distill flow, and turbo distill."
        ),
    ] = "all",
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="For checkpoints and results; training goes on from what is there."
        ),
    ] = Path("runs/toyworld"),
    minutes: Annotated[
        float | None,
        typer.Option(help="Train for so long in all, earlier runs included, instead of the recipe's steps."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's own number of steps.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = Settings.seed,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps; auto: cuda where there is one, else cpu.")
    ] = options.DEVICE,
    compile: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile (needs a C++ compiler).")
    ] = Settings.compile,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw batches ahead of time.")
    ] = Settings.workers,
) -> None:
    """Train the embedded models from nothing, or go on where an earlier run stopped.

    It may be killed at any time: a checkpoint is written every two minutes, and the same command goes on from it.
    --minutes, --steps and --batch-size need one --part; with --part diffusion or flow they are not those of
    the text encoder.
    """
    import torch
    from safetensors import SafetensorError

    from negguide.cli.job import choose_device
    from negguide.toyworld.train.recipe import run_part

    own = {"minutes": minutes, "steps": steps, "batch_size": batch_size}
    changes = {key: value for key, value in own.items() if value is not None}
    check_folder(out)
    if part == "all" and changes:
        raise ValueError(f"{', '.join(changes)}: these need --part with one part, got --part all")
    if minutes is not None and steps is not None:
        raise ValueError(f"--minutes={minutes} and --steps={steps} both say when to stop; give one of them")
    if device == "auto":  # not mps, which was never tried
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = choose_device(device)
    try:
        run_part(part, out, changes, seed=seed, device=device, compile=compile, workers=workers)
    except (SafetensorError, FloatingPointError) as error:
        # a damaged checkpoint, or a loss that is no number
        raise ValueError(f"--out {out}: {error}") from error
    show(f"results are in {out / 'weights'}")


def evaluate(
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With the models in it, such as runs/toyworld/weights; default: the shipped ones.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help=f"Which text-to-image model: {', '.join(EMBEDDED)}; with the first, the judge, CLIP and the "
            "autoencoder too."
        ),
    ] = TOYWORLD,
    count: Annotated[int, typer.Option(min=20, help="Images per figure of the text-to-image model.")] = 300,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Also write the figures to this JSON file.")
    ] = None,
) -> None:
    """Measure the embedded models on held-out scenes and print every figure beside its bar.

    What is drawn is read by the judge: unless --count is small it takes long on a CPU (--count 20 for a first look).
    """
    from negguide.cli.errors import quiet_libraries
    from negguide.toyworld.drawing import drawing_bars
    from negguide.toyworld.judge import Judge
    from negguide.toyworld.models import WEIGHTS

    if model not in EMBEDDED:
        raise ValueError(f"--model must be one of {', '.join(EMBEDDED)}, got {model!r}")
    if out is not None:
        check_file(out)
    quiet_libraries()
    folder = weights or WEIGHTS
    with _loading(folder, "judge") as path:
        judge = Judge.load(path)
    bars: list[Bar] = []
    if model == TOYWORLD:
        bars += _reading_bars(folder, judge)
    bars += drawing_bars(_pipeline(weights, model), model, judge, count)
    if out is not None:
        rows = [{"model": b.model, "name": b.name, **b.goal, **b.rate.to_dict()} for b in bars]
        write_whole(out, (json.dumps(rows, indent=1) + "\n").encode())
    _print(bars)


def _reading_bars(folder: Path, judge: Judge) -> list[Bar]:
    """The judge, the CLIP, and the autoencoder of the UNet's pipeline in a folder."""
    import torch
    from diffusers import AutoencoderTiny

    from negguide.toyworld import evaluate as measured
    from negguide.toyworld.models import load_clip

    with _loading(folder, "clip") as path:
        clip, processor = load_clip(folder=path)
    with _loading(folder, EMBEDDED[TOYWORLD].folder) as path:
        vae = AutoencoderTiny.from_pretrained(path / "vae", dtype=torch.float32, local_files_only=True)
    bars = measured.judge_bars(judge)
    bars += measured.clip_bars(clip, processor)
    bars += measured.autoencoder_bars(vae)
    return bars


def _pipeline(weights: Path | None, model: str) -> DiffusionPipeline:
    """A text-to-image model as it ships, or whole in a folder of weights, as training leaves it."""
    import diffusers
    import torch

    from negguide.toyworld.models import WEIGHTS, load_pipeline

    chosen = EMBEDDED[model]
    with _loading(weights or WEIGHTS, chosen.folder) as path:
        if weights is None:
            return load_pipeline(model)
        kind = getattr(diffusers, chosen.pipeline)
        return kind.from_pretrained(path, dtype=torch.float32, local_files_only=True)


@contextmanager
def _loading(folder: Path, name: str) -> Iterator[Path]:
    """The folder of a model to load, of whose damage the user is told in one line."""
    from negguide.models import first_sentence

    if not (folder / name).is_dir():
        raise ValueError(f"--weights {folder} has no folder {name!r}; train it first")
    try:
        yield folder / name
    except Exception as error:
        raise ValueError(f"--weights {folder}: {name} cannot be loaded: {first_sentence(error)}") from error


def _print(bars: list[Bar]) -> None:
    table = Table(title="The embedded models on held-out scenes", title_justify="left")
    for column in ("model", "figure", "measured [95%]", "bar", ""):
        table.add_column(column, justify="right" if column.startswith(("measured", "bar")) else "left")
    for bar in bars:
        rate = bar.rate
        text = f"{rate.value:.1f} dB [{rate.low:.1f}, {rate.high:.1f}]" if bar.unit == "dB" else str(rate)
        verdict = "" if bar.passed is None else ("passed" if bar.passed else "missed")
        table.add_row(bar.model, bar.name, text, bar.bar_in_words, verdict)
    console(width=120).print(table)
