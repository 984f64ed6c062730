"""Train the judge on renders."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from negguide.toyworld.judge import Judge
from negguide.toyworld.labels import encode
from negguide.toyworld.train.data import batch_of_scenes, centred, pixels
from negguide.toyworld.train.loop import Batch, train
from negguide.toyworld.train.settings import Settings


def train_judge(folder: Path, settings: Settings) -> Judge:
    """Cross-entropy on every field, half of the scenes drawn evenly so that rare things are seen often enough.

    Renders are slightly blurred, shifted in brightness and made noisy, as decoded pictures are.
    """
    torch.manual_seed(settings.seed)
    device = torch.device(settings.device)
    model: Judge = Judge().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def make_batch(step: int) -> Batch:
        half = settings.batch_size // 2
        scenes, rng = batch_of_scenes(settings.seed, step, settings.batch_size - half)
        scenes += batch_of_scenes(settings.seed + 1, step, half, biased=False)[0]
        return {"images": pixels(scenes, rng), "labels": encode(scenes, model.rows)}

    def loss(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        x, labels = degrade(centred(batch["images"]), generator), batch["labels"]
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(x)
        errors = [F.cross_entropy(part.float(), labels[:, i]) for i, part in enumerate(logits)]
        return {"loss": torch.stack(errors).mean()}

    model.train()
    train({"judge": model}, make_batch, loss, settings, folder, name="judge")
    return model.eval()


def degrade(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, brightness and noise of random strength, each image its own; [B, 3, H, W] in [-1, 1]."""

    def draw() -> Tensor:
        return torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)

    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, 0.7 * draw())
    x = x * (0.9 + 0.15 * draw()) + 0.1 * (draw() - 0.5)
    return x + 0.08 * draw() * torch.randn(x.shape, generator=generator, device=x.device)
