"""Image-only probes: what tells a negative image from its original without any caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from negguide.domain import registered_domains
from negguide.image_files import read_image
from negguide.mining.audit.looks import Look
from negguide.mining.audit.pairs import Pair
from negguide.mining.audit.probes import Probe
from negguide.storage import ImageFile

if TYPE_CHECKING:
    import torch

STATISTICS = ("colour", "detail", "frequency")
COMPARISONS = {
    "original and negative": ("image", "negative_image"),
    "control and negative": ("control", "negative_image"),
    "original and control": ("image", "control"),
}
"""What is compared. Where the first is told but the second is not, what was told is "synthetic", not "negative"; the
third says how well "synthetic" alone is told."""


def image_probes(
    pairs: Sequence[Pair],
    looks: Mapping[ImageFile, Look],
    comparison: str,
    features: Mapping[ImageFile, np.ndarray] | None = None,
) -> list[Probe]:
    """The probes of one of ``COMPARISONS`` over ``pairs``; none where no pair has both images.

    - colour: histograms with 8 bins, means and deviations of the channels and of the saturation.
    - detail: energy of gradients and second differences.
    - frequency: power in rings of the Fourier spectrum, cosine transform of 8x8 blocks, size as JPEG.
    - all statistics: these three together.
    - file: width, height, bytes a pixel and format, which a model never sees unless it reads them.
    - features: those of a vision model.

    A pair takes part when both of its images are in ``looks`` (and ``features``), and are not one and the same.
    """
    first, second = COMPARISONS[comparison]
    sides = [(getattr(pair, first), getattr(pair, second)) for pair in pairs]

    def has(known: Mapping[ImageFile, object]) -> np.ndarray:
        return np.asarray([a != b and a in known and b in known for a, b in sides], dtype=bool)

    rows = has(looks)
    if not rows.any():
        return []

    def difference(rows: np.ndarray, vectors: Mapping[ImageFile, np.ndarray]) -> np.ndarray:
        found = [vectors[b] - vectors[a] for (a, b), present in zip(sides, rows, strict=True) if present]
        full = np.zeros((len(sides), len(found[0])))
        full[rows] = found
        return full

    def statistics(*kinds: str) -> dict[ImageFile, np.ndarray]:
        return {path: np.concatenate([look.statistics[k] for k in kinds]) for path, look in looks.items()}

    probes = [Probe(kind, difference(rows, statistics(kind)), "linear", rows) for kind in STATISTICS]
    probes.append(Probe("all statistics", difference(rows, statistics(*STATISTICS)), "linear", rows))
    probes.append(Probe("file", difference(rows, statistics("file")), "linear", rows))
    if features is not None and (rows := has(features)).any():
        probes.append(Probe("features", difference(rows, features), "linear", rows))
    return probes


def vision_features(
    paths: Sequence[ImageFile], name: str, *, device: str | torch.device = "cpu", batch_size: int = 32
) -> dict[ImageFile, np.ndarray]:
    """Feature vectors of images by the vision model ``name``: "toyworld" (its judge), a folder, or a hub id.

    CLIP and SigLIP give their image embedding, other models their pooled output, or the mean of their tokens.

    Raises:
        ValueError: the model cannot be loaded or takes no images.
        OSError, UnreadableImageError: an image cannot be read.
    """
    import torch

    domain = registered_domains().get(name)
    embed = _model_features(name, device) if domain is None else domain.judge("cpu").features
    result: dict[ImageFile, np.ndarray] = {}
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        images = [read_image(path) for path in batch]
        with torch.inference_mode():
            vectors = embed(images).float().cpu().numpy()
        result.update(zip(batch, vectors.astype(np.float64), strict=True))
    return result


def _model_features(name: str, device: str | torch.device) -> Any:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor = AutoImageProcessor.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True).to(device).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"features={name!r} cannot be loaded: {str(error).splitlines()[0]}") from error

    def embed(images: list[PIL.Image.Image]) -> Any:
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
        get = getattr(model, "get_image_features", model)
        output = get(pixel_values=pixels)
        if not hasattr(output, "last_hidden_state"):
            return output
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state.mean(dim=1) if pooled is None else pooled.flatten(1)

    return embed
