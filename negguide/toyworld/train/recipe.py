"""From nothing to all shipped models: how long each is trained, and what it needs of the others.

Every model is trained in a folder of its own below the output folder, goes on from its checkpoint when it is called
again, and is then written to ``weights/`` in the form that ships with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPTextModel

from negguide.toyworld.models import save_clip, save_pipeline
from negguide.toyworld.train.autoencoder import new_autoencoder, train_autoencoder
from negguide.toyworld.train.clip import train_clip
from negguide.toyworld.train.judge import train_judge
from negguide.toyworld.train.loop import Settings, result
from negguide.toyworld.train.record import draw_curves, draw_samples, note_training, write_card
from negguide.toyworld.train.text_to_image import (
    new_scheduler,
    new_text_encoder,
    new_unet,
    train_text_encoder,
    train_unet,
)
from negguide.toyworld.words import new_tokenizer

RECIPES = {
    "autoencoder": Settings(steps=4300, batch_size=256, lr=2e-3, decay=0.4),
    "text-encoder": Settings(steps=920, batch_size=1024, lr=1e-3, decay=0.3),
    "text-to-image": Settings(steps=3600, batch_size=512, lr=1e-3, warmup=200, decay=0.3, ema=0.999),
    "clip": Settings(steps=2000, batch_size=128, lr=1e-3, decay=0.3),
    "judge": Settings(steps=2000, batch_size=64, lr=2e-3, decay=0.4, ema=0.998),
}
"""How to train each model, in the order in which they need each other: minutes on a large GPU, days on two cores.

On a CPU, smaller batches learn more in the same time (`--batch-size 32`). How the weights that ship today came to be
stands in ``weights/training.json``.
"""

PARTS = {
    "autoencoder": ("autoencoder",),
    "diffusion": ("text-encoder", "text-to-image"),
    "clip": ("clip",),
    "judge": ("judge",),
    "all": tuple(RECIPES),
}
"""What `negguide toyworld train --part` can name, and the models of ``RECIPES`` that it trains."""


def run(name: str, out: Path, **changes: Any) -> None:
    """Train one model of ``RECIPES`` below ``out``, or go on with it, and export it.

    Args:
        name: a key of ``RECIPES``.
        out: folder of checkpoints, logs and results.
        changes: fields of ``Settings`` that differ from the recipe's (steps, batch_size, seed, device, ...).

    Raises:
        ValueError: for an unknown name, or when a model that this one needs has not been trained in ``out``.

    Beside the weights it leaves what a person looks at: sample grids in ``out``/NAME/samples, and in ``out``/weights
    the curves, the settings and a model card.
    """
    if name not in RECIPES:
        raise ValueError(f"name={name!r} is no model of the toy world; use one of {', '.join(RECIPES)}")
    settings = replace(RECIPES[name], **changes)
    _TRAINERS[name](out, settings)
    note_training(out, name, settings)
    trained = [each for each in RECIPES if (out / each / "log.jsonl").exists()]
    draw_curves(out, trained)
    write_card(out, trained)


def run_part(part: str, out: Path, changes: Mapping[str, Any], **machine: Any) -> None:
    """Train the models of a part, in the order in which they need each other.

    Args:
        part: a key of ``PARTS``.
        out: as in `run`.
        changes: fields of ``Settings`` for the part's last model; those before it prepare it, by their recipes.
        machine: fields of ``Settings`` for all of them (seed, device, compile, workers).

    Raises:
        ValueError: for an unknown part, or when a model that it needs has not been trained in ``out``.
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r} is no part of the toy world's models; use one of {', '.join(PARTS)}")
    names = PARTS[part]
    for need in [need for name in names for need in _NEEDS.get(name, ()) if need not in names]:
        result(out / need, "model")  # read before hours of training, and not after
    for name in names:
        run(name, out, **(changes if name == names[-1] else {}), **machine)


_NEEDS = {"text-to-image": ("autoencoder",)}


def _autoencoder(out: Path, settings: Settings) -> None:
    train_autoencoder(out / "autoencoder", settings)


def _text_encoder(out: Path, settings: Settings) -> None:
    train_text_encoder(out / "text-encoder", settings)


def _text_to_image(out: Path, settings: Settings) -> None:
    text_encoder = trained_text_encoder(out / "text-encoder")
    vae = trained_autoencoder(out / "autoencoder")

    def sample(step: int) -> None:
        pipe = StableDiffusionPipeline.from_pretrained(export_text_to_image(out), dtype=torch.float32)
        path = out / "text-to-image" / "samples" / f"{step:06}.png"
        draw_samples(
            pipe.to(settings.device), path, f"after {step:,} steps of {settings.batch_size} pictures"
        )

    train_unet(out / "text-to-image", settings, vae, text_encoder, sample)


def export_text_to_image(out: Path) -> Path:
    """Write what ``text-to-image`` has learned so far as a pipeline; its folder is returned."""
    tokenizer, unet = new_tokenizer(), new_unet()
    unet.load_state_dict(result(out / "text-to-image", "unet"))
    text_encoder = trained_text_encoder(out / "text-to-image")
    folder = out / "weights" / "text-to-image"
    vae = trained_autoencoder(out / "autoencoder")
    save_pipeline(folder, vae, text_encoder, tokenizer, unet, new_scheduler())
    return folder


def _clip(out: Path, settings: Settings) -> None:
    save_clip(out / "weights" / "clip", train_clip(out / "clip", settings), new_tokenizer(negation=True))


def _judge(out: Path, settings: Settings) -> None:
    train_judge(out / "judge", settings).save(out / "weights" / "judge")


def trained_autoencoder(folder: Path) -> AutoencoderTiny:
    """The autoencoder that was trained in ``folder``."""
    model = new_autoencoder()
    model.load_state_dict(result(folder, "model"))
    return model.eval()


def trained_text_encoder(folder: Path) -> CLIPTextModel:
    """The text encoder that was trained in ``folder``, alone or together with the UNet."""
    model = new_text_encoder(new_tokenizer())
    model.load_state_dict(result(folder, "text_encoder"))
    return model.eval()


_TRAINERS: dict[str, Callable[[Path, Settings], None]] = {
    "autoencoder": _autoencoder,
    "text-encoder": _text_encoder,
    "text-to-image": _text_to_image,
    "clip": _clip,
    "judge": _judge,
}
