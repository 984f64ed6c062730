"""Train the autoencoder: 64x64 pixels to 16x16 latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from negguide.toyworld.train.data import batch_of_scenes, centred, detail_weights, pixels
from negguide.toyworld.train.loop import Batch, train
from negguide.toyworld.train.settings import Settings

LATENT_CHANNELS = 8
"""Three hold a flat colour; the others hold what happens inside a patch of 4x4 pixels."""
WIDTH = 64
"""Channels of every layer."""
LATENT_NOISE = 0.1
"""Noise on the latents in training, so that a slightly wrong latent still decodes to a clean picture."""


def new_autoencoder() -> AutoencoderTiny:
    """A fresh `AutoencoderTiny` with a reduction of four."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(0, 1, 3),
        num_decoder_blocks=(3, 2, 1),
        scaling_factor=1.0,
    )


def train_autoencoder(folder: Path, settings: Settings) -> AutoencoderTiny:
    """Minimise L1 + squared error + the error of image gradients, places of detail counting more (`detail_weights`).

    Latents are held near mean 0 and deviation 1.
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    model = new_autoencoder().to(device, memory_format=torch.channels_last)

    def make_batch(step: int) -> Batch:
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size)
        return {"images": pixels(scenes, rng)}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        x = centred(batch["images"])
        with torch.autocast(device.type, torch.bfloat16):
            latents = model.encoder(x).float()
            noise = torch.randn(latents.shape, generator=generator, device=device)
            y = model.decoder(latents + LATENT_NOISE * noise).float()
        mean = latents.mean(dim=(0, 2, 3))
        deviation = latents.std(dim=(0, 2, 3))
        error, weights = y - x, detail_weights(x, 1)
        return {
            "l1": (weights * error.abs()).mean(),
            "l2": 2 * (weights * error.square()).mean(),
            "edges": error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean(),
            "latents": 0.02 * (mean.square().mean() + (deviation - 1).square().mean()),
        }

    train({"model": model}, make_batch, loss, settings, folder, name="autoencoder")
    return model


def psnr(model: AutoencoderTiny, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of the reconstruction in dB, one value an image; ``x`` [B, 3, H, W] in [-1, 1]."""
    with torch.no_grad():
        y = model.decode(model.encode(x).latents).sample.clamp(-1, 1)
    error = F.mse_loss(y, x, reduction="none").mean(dim=(1, 2, 3))
    return 10 * torch.log10(4.0 / error.clamp(min=1e-12))
