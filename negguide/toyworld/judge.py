"""The judge: reads a scene back from an image. It sees renders only in training and never takes part in generation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from negguide.toyworld.labels import decode, fields
from negguide.toyworld.scene import Scene

SIZE = 64


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


class Judge(nn.Module):
    """A small residual network with one classifier for every field of a scene.

    The features keep a 4x4 map of the picture, so that the judge can tell the left character from the right one.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.rows = fields()
        stages: list[nn.Module] = [nn.Conv2d(3, width, 5, stride=2, padding=2)]
        for previous, following in ((width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width)):
            stages += [_Block(previous), nn.Conv2d(previous, following, 3, stride=2, padding=1), nn.ReLU()]
        self.trunk = nn.Sequential(*stages, _Block(4 * width))
        self.squeeze = nn.Linear(16 * 4 * width, 256)
        self.head = nn.Linear(256, sum(len(row.options) for row in self.rows))

    def features(self, pixels: Tensor) -> Tensor:
        """[B, 3, 64, 64] in [-1, 1] to [B, 256]."""
        return F.relu(self.squeeze(self.trunk(pixels).flatten(1)))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Logits, one tensor [B, options] for every field."""
        logits: Tensor = self.head(self.features(pixels))
        return list(logits.split([len(row.options) for row in self.rows], dim=1))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.head.weight.device

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image], batch_size: int = 64) -> list[Scene]:
        """The most likely scene in each image."""
        scenes: list[Scene] = []
        for start in range(0, len(images), batch_size):
            logits = self(to_pixels(images[start : start + batch_size]).to(self.device))
            classes = torch.stack([part.argmax(dim=1) for part in logits], dim=1)
            scenes += decode(classes, self.rows)
        return scenes

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image], batch_size: int = 64) -> Tensor:
        """Unit feature vectors, float32 [len(images), 256]; their cosine says how alike two images are to the judge."""
        parts = [
            self.features(to_pixels(images[start : start + batch_size]).to(self.device))
            for start in range(0, len(images), batch_size)
        ]
        return F.normalize(torch.cat(parts).cpu(), dim=1)

    def save(self, folder: Path) -> None:
        """Write weights in half precision, and the config, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"width": self.width}) + "\n")
        halves = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in halves.items()}, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read what `save` wrote."""
        model = cls(**json.loads((folder / "config.json").read_text()))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """PIL images of any size to float32 [B, 3, 64, 64] in [-1, 1].

    Raises:
        ValueError: when there is no image.
    """
    if not images:
        raise ValueError("images is empty; the judge needs at least one image")
    resized = [image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for image in images]
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1
