"""What a training leaves for people to look at: sample grids as it goes, curves of the losses, and a model card."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from negguide.pictures import grid, save_png, versions
from negguide.storage import write_whole
from negguide.toyworld.train.settings import Settings

SAMPLES = (
    "a bear",
    "a white cat wearing a red hat",
    "a grey rabbit wearing blue glasses in the snow",
    "an orange dog in side view wearing a green scarf",
    "a robot in back view at night",
    "a brown bear to the left of a white rabbit",
    "a black cat wearing a yellow hat to the right of a grey robot",
    "three orange dogs on a beach",
)
"""Prompts of the sample grids: from what is learned first to what is learned last."""
SEEDS = 3


def draw_samples(pipe: DiffusionPipeline, path: Path, title: str, *, steps: int, **arguments: object) -> None:
    """A grid of ``SAMPLES``, the same seeds each time, so that the grids of a training can be laid side by side.

    ``arguments`` are further ones of the pipeline's call, each of whose batches is one prompt ``SEEDS`` times.
    """
    pipe.set_progress_bar_config(disable=True)
    rows = [
        pipe(
            [prompt] * SEEDS,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in range(SEEDS)],
            **arguments,
        ).images
        for prompt in SAMPLES
    ]
    rows = [[image.resize((128, 128), 0) for image in row] for row in rows]
    sheet = grid(rows, row_labels=SAMPLES, title=title)
    save_png(sheet, path, {"prompts": list(SAMPLES), "steps": steps, "versions": versions()})


def draw_curves(out: Path, names: Sequence[str]) -> Path:
    """The losses that the trainings ``names`` below ``out`` have logged, a panel each; the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(names), squeeze=False, figsize=(3.4 * len(names), 3.0))
    for panel, name in zip(panels[0], names, strict=True):
        lines = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines]
        for term in lines[0].keys() - {"step", "seconds"}:
            panel.plot(steps, _smooth([line[term] for line in lines]), label=term, linewidth=1.2)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("step", fontsize=8)
        panel.set_yscale("log")
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.tight_layout()
    path = out / "weights" / "training.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _smooth(values: Sequence[float], keep: float = 0.8) -> list[float]:
    smooth, so_far = [], values[0]
    for value in values:
        so_far = keep * so_far + (1 - keep) * value
        smooth.append(so_far)
    return smooth


def note_training(out: Path, name: str, settings: Settings) -> None:
    """Keep how model ``name`` was trained, for the card: its settings, the device, and what it took."""
    lines = (out / name / "log.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    device = torch.device(settings.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    record = {
        "settings": asdict(settings),
        "steps": last["step"] + 1,
        "images": (last["step"] + 1) * settings.batch_size,
        "minutes": round(last["seconds"] / 60, 1),
        "on": where,
        "versions": versions(),
    }
    path = out / "weights" / "training.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    write_whole(path, (json.dumps(records | {name: record}, indent=1) + "\n").encode())


def write_card(out: Path, names: Sequence[str]) -> Path:
    """``weights/README.md``: what the models are, how each was trained, and the curves."""
    records = json.loads((out / "weights" / "training.json").read_text())
    rows = [
        f"| {name} | {r['steps']:,} | {r['settings']['batch_size']} | {r['images']:,} | {r['minutes']} | {r['on']} |"
        for name in names
        if (r := records.get(name)) is not None
    ]
    path = out / "weights" / "README.md"
    write_whole(path, _CARD.format(rows="\n".join(rows)).encode())
    return path


_CARD = """# The embedded models of negguide's toy world

`text-to-image` is a `StableDiffusionPipeline` (AutoencoderTiny, UNet2DConditionModel, CLIPTextModel) for 64x64
pictures, `flow` a flow-matching transformer for the same pictures as a `FluxPipeline` (FluxTransformer2DModel and a T5
encoder of its own; autoencoder and CLIPTextModel of `text-to-image`), `flow-distilled` the same with guidance inside,
one evaluation a step, `flow-turbo` the same in four steps, `clip` a `CLIPModel` with its processor, `judge`
a classifier that reads a scene back from a picture. All were trained on nothing but pictures that
`negguide.toyworld.render` draws and captions that `negguide.toyworld.language` writes, from random weights; no other
data took part. Licence: Apache-2.0, as the package.

| model | steps | batch | pictures or captions | minutes | on |
|---|---|---|---|---|---|
{rows}

`training.json` holds every setting; `negguide toyworld train` trains them again and `negguide toyworld evaluate`
measures them. A tenth of all scenes, by a hash of their content, is held out of every training.

![Curves of the losses](training.png)

Limits: a closed vocabulary of 56 words, pictures of 64x64 pixels, and the biases of that world on purpose (brown fur,
black glasses, front views, wrong captions of back views, one character behind the words "an explorer").
"""
