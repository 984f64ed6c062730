"""Features of images and texts, where whatever is equal to the model has one row, so that ties are exact.

A model gives the same text in two rows of a batch, or the same image in two batches, features that differ in their last
bits. Of two equal options one would then win by rounding. So each is encoded once, and each similarity of a text and an
image is worked out once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from negguide.vlm.evaluation.suites.fingerprint import pixel_digest
from negguide.vlm.models import VisionLanguageModel

KeyT = TypeVar("KeyT")
AT_ONCE = 4096
"""Similarities that are worked out together, which bounds the memory."""


@dataclass(frozen=True)
class Features(Generic[KeyT]):
    """Features of unit length.

    Attributes:
        distinct: float32 [U, D], a row for everything that differs to the model.
        places: which of the rows an image (by its place in the suite) or a text has.
    """

    distinct: Tensor
    places: Mapping[KeyT, int]

    def rows(self, keys: Iterable[KeyT]) -> Tensor:
        """The rows of images or texts, int64 [len(keys)]."""
        return torch.tensor([self.places[key] for key in keys], dtype=torch.int64)


def image_features(
    model: VisionLanguageModel, images: Sequence[Image.Image], batch_size: int, suite: str
) -> Features[int]:
    """Features of images by their places; those of the same size and pixels share a row.

    A lazy sequence is opened image by image, each once, and no more than a batch is held.

    Raises:
        ValueError: features are not finite.
    """
    places: list[int] = []
    known: dict[str, int] = {}
    batch: list[Image.Image] = []
    features: list[Tensor] = []
    for place in range(len(images)):
        image = images[place].convert("RGB")
        digest = pixel_digest(image)
        if digest not in known:
            known[digest] = len(known)
            batch.append(image)
        places.append(known[digest])
        if len(batch) >= batch_size:
            features.append(model.encode_images(batch, batch_size))
            batch = []
    if batch or not features:
        features.append(model.encode_images(batch, batch_size))
    return Features(_finite(torch.cat(features), model.name, suite, "images"), dict(enumerate(places)))


def text_features(
    model: VisionLanguageModel, texts: Sequence[str], batch_size: int, suite: str
) -> Features[str]:
    """Features of texts; those that are cut into the same tokens, as far as the model reads them, share a row.

    Raises:
        ValueError: the tokenizer cannot read a text, or features are not finite.
    """
    distinct = list(dict.fromkeys(texts))
    known: dict[bytes, int] = {}
    places: dict[str, int] = {}
    chosen: list[str] = []
    for text, tokens in zip(distinct, _tokens(model, distinct, batch_size), strict=True):
        if tokens not in known:
            known[tokens] = len(known)
            chosen.append(text)
        places[text] = known[tokens]
    return Features(_finite(model.encode_texts(chosen, batch_size), model.name, suite, "texts"), places)


def cosines(
    texts: Features[str], of_texts: Iterable[str], images: Features[int], of_images: Iterable[int]
) -> Tensor:
    """The similarity of each text with the image beside it, float32 [N].

    Args:
        texts: of the model.
        of_texts: N texts.
        images: of the model.
        of_images: the places of N images.
    """
    count = len(images.distinct)
    pairs, places = (texts.rows(of_texts) * count + images.rows(of_images)).unique(return_inverse=True)
    # row by row: a matrix product works out its rows in several ways, which differ in their last bits
    found = [
        (texts.distinct[some // count] * images.distinct[some % count]).sum(dim=1)
        for some in pairs.split(AT_ONCE)
    ]
    return torch.cat(found)[places]


def _tokens(model: VisionLanguageModel, texts: Sequence[str], batch_size: int) -> list[bytes]:
    """What the model reads of each text: its tokens, without those that are cut off or masked."""
    found = []
    for start in range(0, len(texts), batch_size):
        inputs = model.text_inputs(texts[start : start + batch_size])
        ids = inputs["input_ids"]
        # a SigLIP reads its padding, and has no mask
        read = inputs.get("attention_mask", torch.ones_like(ids)).bool().numpy()
        found += [row[mask].tobytes() for row, mask in zip(ids.numpy(), read, strict=True)]
    return found


def _finite(features: Tensor, model: str, suite: str, what: str) -> Tensor:
    """The features [N, D], which must be numbers: comparisons with NaN would count as right or wrong by chance."""
    broken = int((~features.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"model={model!r} gives features that are not finite (NaN or infinite) for {broken} of {len(features)} "
            f"{what} of {suite}; its weights are broken, or its precision is too low"
        )
    return features
