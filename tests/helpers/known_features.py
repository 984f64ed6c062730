"""A two-tower model whose features a test names."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from zlib import crc32

import torch
from PIL import Image
from torch import Tensor


class Known:
    """Features as they are given: of an image by how red its first pixel is, 0 to 255, and of a text by itself."""

    name, revision, max_tokens = "known", "1", 5

    def __init__(self, images: Mapping[int, Sequence[float]], texts: Mapping[str, Sequence[float]]) -> None:
        self.images = {red: torch.tensor(v, dtype=torch.float32) for red, v in images.items()}
        self.texts = {text: torch.tensor(v, dtype=torch.float32) for text, v in texts.items()}
        self.model = SimpleNamespace(training=True, eval=lambda: None, train=lambda mode: None)
        self.asked: list[str] = []

    def encode_images(self, images: Sequence[Image.Image], batch_size: int) -> Tensor:
        pixels = [images[i].convert("RGB").tobytes() for i in range(len(images))]
        return torch.stack([self.images[pixel[0]] for pixel in pixels])

    def encode_texts(self, texts: Sequence[str], batch_size: int) -> Tensor:
        self.asked += texts
        return torch.stack([self.texts[text] for text in texts])

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """A number for every word, whatever its case, up to the longest text that it reads."""
        ids = torch.zeros(len(texts), self.max_tokens, dtype=torch.int64)
        for line, text in enumerate(texts):
            words = text.lower().split()[: self.max_tokens]
            ids[line, : len(words)] = torch.tensor([crc32(word.encode()) for word in words])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [len(text.split()) > self.max_tokens for text in texts]
