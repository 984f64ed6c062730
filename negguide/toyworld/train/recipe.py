"""From nothing to all shipped models: how long each is trained, and what it needs of the others.

Every model is trained in a folder of its own below the output folder, goes on from its checkpoint when it is called
again, and is then written to ``weights/`` in the form that ships with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny
from transformers import CLIPTextModel

from negguide.toyworld.models import save_clip, save_pipeline
from negguide.toyworld.train.autoencoder import new_autoencoder, train_autoencoder
from negguide.toyworld.train.clip import train_clip
from negguide.toyworld.train.judge import train_judge
from negguide.toyworld.train.loop import Settings, result
from negguide.toyworld.train.text_to_image import (
    new_scheduler,
    new_text_encoder,
    new_unet,
    train_text_encoder,
    train_unet,
)
from negguide.toyworld.words import new_tokenizer

RECIPES = {
    "autoencoder": Settings(steps=2600, batch_size=64, lr=2e-3, decay=0.4),
    "text-encoder": Settings(steps=380, batch_size=128, lr=1e-3, decay=0.3),
    "text-to-image": Settings(steps=12000, batch_size=32, lr=1e-3, warmup=200, decay=0.3, ema=0.999),
    "clip": Settings(steps=2000, batch_size=128, lr=1e-3, decay=0.3),
    "judge": Settings(steps=2000, batch_size=64, lr=2e-3, decay=0.4, ema=0.998),
}
"""How to train each model, in the order in which they need each other.

The weights shipped today came close to this, not exactly: see "The embedded models" in README.md.
"""


def run(name: str, out: Path, **changes: Any) -> None:
    """Train one model of ``RECIPES`` below ``out``, or go on with it, and export it.

    Args:
        name: a key of ``RECIPES``.
        out: folder of checkpoints, logs and results.
        changes: fields of ``Settings`` that differ from the recipe's (steps, batch_size, seed, device, ...).

    Raises:
        ValueError: for an unknown name, or when a model that this one needs has not been trained in ``out``.
    """
    if name not in RECIPES:
        raise ValueError(f"name={name!r} is no model of the toy world; use one of {', '.join(RECIPES)}")
    settings = replace(RECIPES[name], **changes)
    _TRAINERS[name](out, settings)


def _autoencoder(out: Path, settings: Settings) -> None:
    train_autoencoder(out / "autoencoder", settings)


def _text_encoder(out: Path, settings: Settings) -> None:
    train_text_encoder(out / "text-encoder", settings)


def _text_to_image(out: Path, settings: Settings) -> None:
    text_encoder = trained_text_encoder(out / "text-encoder")
    train_unet(out / "text-to-image", settings, trained_autoencoder(out / "autoencoder"), text_encoder)
    export_text_to_image(out)


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
