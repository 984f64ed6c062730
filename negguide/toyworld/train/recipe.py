"""From nothing to all shipped models: how long each is trained, and what it needs of the others.

Every model is trained in a folder of its own below the output folder, goes on from its checkpoint when it is called
again, and is then written to ``weights/`` in the form that ships with the package.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline
from transformers import CLIPTextModel, T5EncoderModel

from negguide.toyworld.models import TEXT_TO_IMAGE, has_guidance, save_clip, save_pipeline
from negguide.toyworld.train.autoencoder import new_autoencoder, train_autoencoder
from negguide.toyworld.train.clip import train_clip
from negguide.toyworld.train.distill import TURBO_GUIDANCE, TURBO_STEPS, train_distilled, train_turbo
from negguide.toyworld.train.flow import (
    new_t5_encoder,
    new_t5_tokenizer,
    new_transformer,
    save_flow_pipeline,
    train_flow,
    train_t5_encoder,
)
from negguide.toyworld.train.judge import train_judge
from negguide.toyworld.train.loop import result
from negguide.toyworld.train.record import SEEDS, draw_curves, draw_samples, note_training, write_card
from negguide.toyworld.train.settings import Settings
from negguide.toyworld.train.text_to_image import (
    new_scheduler,
    new_text_encoder,
    new_unet,
    train_text_encoder,
    train_unet,
)
from negguide.toyworld.words import MAX_TOKENS, new_tokenizer

RECIPES = {
    "autoencoder": Settings(steps=4300, batch_size=256, lr=2e-3, decay=0.4),
    "text-encoder": Settings(steps=920, batch_size=1024, lr=1e-3, decay=0.3),
    "text-to-image": Settings(steps=3600, batch_size=512, lr=1e-3, warmup=200, decay=0.3, ema=0.999),
    "clip": Settings(steps=2000, batch_size=128, lr=1e-3, decay=0.3),
    "judge": Settings(steps=2000, batch_size=64, lr=2e-3, decay=0.4, ema=0.998),
    "flow-text-encoder": Settings(steps=4000, batch_size=256, lr=1e-3, decay=0.5),
    "flow": Settings(steps=20_000, batch_size=64, lr=1e-3, warmup=200, decay=0.5, ema=0.999),
    "flow-distilled": Settings(steps=4000, batch_size=64, lr=3e-4, warmup=100, decay=0.5, ema=0.998),
    "flow-turbo": Settings(steps=2000, batch_size=32, lr=3e-4, warmup=100, decay=0.5, ema=0.998),
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
    "flow": ("flow-text-encoder", "flow"),
    "distill": ("flow-distilled",),
    "turbo": ("flow-turbo",),
    "all": tuple(RECIPES),
}
"""What `negguide toyworld train --part` can name, and the models of ``RECIPES`` that it trains."""

SAMPLE_EVERY_SECONDS = 600.0
"""How far apart the sample grids of the flow-matching models are."""


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


_NEEDS = {
    "text-to-image": ("autoencoder",),
    "flow-distilled": ("flow",),
    "flow-turbo": ("flow", "flow-distilled"),
}


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
        title = f"after {step:,} steps of {settings.batch_size} pictures"
        draw_samples(pipe.to(settings.device), path, title, steps=12, guidance_scale=4.0)

    train_unet(out / "text-to-image", settings, vae, text_encoder, sample)
    export_text_to_image(out)  # a run that was killed right after its last checkpoint has not written it


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


def _flow_text_encoder(out: Path, settings: Settings) -> None:
    train_t5_encoder(out / "flow-text-encoder", settings)


def _flow(out: Path, settings: Settings) -> None:
    def training(sample: Callable[[int], None]) -> None:
        text_encoder_2 = trained_t5_encoder(out)
        train_flow(out / "flow", settings, *frozen_parts(out), text_encoder_2, sample)

    _with_grids(out, "flow", settings, training, steps=12, true_cfg_scale=4.0, negative_prompt=[""] * SEEDS)


def _flow_distilled(out: Path, settings: Settings) -> None:
    def training(sample: Callable[[int], None]) -> None:
        text_encoder_2 = trained_t5_encoder(out)
        base = trained_transformer(out / "flow")
        train_distilled(out / "flow-distilled", settings, *frozen_parts(out), text_encoder_2, base, sample)

    _with_grids(out, "flow-distilled", settings, training, steps=12, guidance_scale=TURBO_GUIDANCE)


def _flow_turbo(out: Path, settings: Settings) -> None:
    def training(sample: Callable[[int], None]) -> None:
        text_encoder_2 = trained_t5_encoder(out)
        distilled = trained_transformer(out / "flow-distilled")
        train_turbo(out / "flow-turbo", settings, *frozen_parts(out), text_encoder_2, distilled, sample)

    _with_grids(out, "flow-turbo", settings, training, steps=TURBO_STEPS)


def _with_grids(
    out: Path,
    name: str,
    settings: Settings,
    training: Callable[[Callable[[int], None]], None],
    **arguments: Any,
) -> None:
    """Run the ``training`` of a flow-matching model, which draws as it goes; ``arguments`` are of `draw_samples`."""
    drawn = time.monotonic()

    def draw(step: int) -> None:
        pipe = FluxPipeline.from_pretrained(export_flow(out, name), dtype=torch.float32).to(settings.device)
        draw_samples(
            pipe,
            out / name / "samples" / f"{step:06}.png",
            f"after {step:,} steps of {settings.batch_size} pictures",
            height=64,
            width=64,
            max_sequence_length=MAX_TOKENS,
            **arguments,
        )

    def sample(step: int) -> None:
        # a grid takes as long as some steps: on a CPU not with every checkpoint
        nonlocal drawn
        if time.monotonic() - drawn > SAMPLE_EVERY_SECONDS:
            draw(step)
            drawn = time.monotonic()

    training(sample)
    lines = (out / name / "log.jsonl").read_text().splitlines()
    draw(json.loads(lines[-1])["step"] + 1)


def export_flow(out: Path, name: str = "flow") -> Path:
    """Write what a flow-matching model has learned so far as a pipeline; its folder is returned."""
    folder = out / "weights" / name
    text_encoder_2 = trained_t5_encoder(out)
    save_flow_pipeline(folder, *frozen_parts(out), text_encoder_2, trained_transformer(out / name))
    return folder


def trained_transformer(folder: Path) -> FluxTransformer2DModel:
    """The flow-matching transformer that was trained in ``folder``, with a guidance embedding where it has one."""
    state = result(folder, "transformer")
    model = new_transformer(guidance=has_guidance(state))
    model.load_state_dict(state)
    return model.eval()


def frozen_parts(out: Path) -> tuple[AutoencoderTiny, CLIPTextModel]:
    """The autoencoder and the CLIP text encoder that ``flow`` uses: those trained in ``out``, or else the shipped."""
    trained = out / "weights" / "text-to-image"
    folder = trained if trained.exists() else TEXT_TO_IMAGE
    # into fresh models, whose configurations do not name the folder that the weights came from
    vae, text_encoder = new_autoencoder(), new_text_encoder(new_tokenizer())
    vae.load_state_dict(AutoencoderTiny.from_pretrained(folder / "vae", dtype=torch.float32).state_dict())
    text_encoder.load_state_dict(
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).state_dict()
    )
    return vae.eval(), text_encoder.eval()


def trained_t5_encoder(out: Path) -> T5EncoderModel:
    """The T5 encoder that was trained in ``out``, for all flow-matching models."""
    model = new_t5_encoder(new_t5_tokenizer())
    model.load_state_dict(result(out / "flow-text-encoder", "text_encoder_2"))
    return model.eval()


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
    "flow-text-encoder": _flow_text_encoder,
    "flow": _flow,
    "flow-distilled": _flow_distilled,
    "flow-turbo": _flow_turbo,
}
