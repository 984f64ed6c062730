"""What the audit keeps of an image: a few statistics, a perceptual hash, a thumbnail."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import PIL.Image

from negguide.image_files import read_image
from negguide.storage import ImageFile

BLOCK = 8
"""Side of the blocks of JPEG."""
CROP = 512
"""Statistics are those of the middle of an image: resizing would change the very detail that they are about."""
HASH_BITS = 64
_STEP = 4
"""Grey levels by which cells must differ for the hash: in a flat sky, noise would decide."""
_BANDS = 8


@dataclass(frozen=True, eq=False)
class Look:
    """An image, as far as the audit needs it.

    Attributes:
        statistics: by kind ("colour", "detail", "frequency", "file"), each a vector of fixed length.
        hash: [64] bool, the difference hash: is a cell of a 9x8 grey thumbnail clearly brighter than the next?
        thumbnail: [384] uint8, brightness on a grid of 16x16, and two channels of colour on 8x8: JPEG stores colour at
            half the resolution, and what it does there must not count.
    """

    statistics: dict[str, np.ndarray]
    hash: np.ndarray
    thumbnail: np.ndarray


def look_at(path: ImageFile) -> Look:
    """Open the image ``path`` once and keep what is needed.

    Raises:
        OSError: it is missing.
        UnreadableImageError: it cannot be decoded.
    """
    content = path.read_bytes()
    image = read_image(content, name=str(path))
    with PIL.Image.open(io.BytesIO(content)) as header:
        kind = header.format or ""
    middle = _middle(image)
    pixels = np.asarray(middle, dtype=np.float64)
    grey = pixels @ (0.299, 0.587, 0.114)
    statistics = {
        "colour": _colour(pixels),
        "detail": _detail(grey),
        "frequency": np.concatenate([_bands(grey), _blocks(grey), [_jpeg_size(middle)]]),
        "file": np.asarray(
            [
                math.log(image.width),
                math.log(image.height),
                math.log(len(content) / (image.width * image.height)),
                float(kind == "JPEG"),
                float(kind == "PNG"),
            ]
        ),
    }
    small = np.asarray(image.convert("L").resize((9, 8), PIL.Image.Resampling.BOX), dtype=np.int16)
    luminance, *colours = image.convert("YCbCr").split()
    parts = [luminance.resize((16, 16), PIL.Image.Resampling.BOX)]
    parts += [colour.resize((8, 8), PIL.Image.Resampling.BOX) for colour in colours]
    thumbnail = np.concatenate([np.asarray(part).ravel() for part in parts])
    return Look(statistics, (small[:, :-1] > small[:, 1:] + _STEP).ravel(), thumbnail)


def _middle(image: PIL.Image.Image) -> PIL.Image.Image:
    width, height = min(image.width, CROP), min(image.height, CROP)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _colour(pixels: np.ndarray) -> np.ndarray:
    """Histograms with 8 bins, mean and deviation of each channel, mean and deviation of the saturation."""
    flat = pixels.reshape(-1, 3)
    bins = (flat // 32).astype(int)
    histograms = [np.bincount(bins[:, channel], minlength=8) / len(flat) for channel in range(3)]
    saturation = flat.max(axis=1) - flat.min(axis=1)
    spread = [flat.mean(axis=0), flat.std(axis=0), [saturation.mean(), saturation.std()]]
    return np.concatenate([*histograms, *(np.asarray(part) / 255 for part in spread)])


def _detail(grey: np.ndarray) -> np.ndarray:
    """Gradients and second differences: log energy, share of flat places, and how seldom the strong ones are."""
    padded = np.pad(grey, 1, mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    second = padded[1:-1, 2:] + padded[1:-1, :-2] + padded[2:, 1:-1] + padded[:-2, 1:-1] - 4 * grey
    features = []
    for values in (across, down, second):
        size = np.abs(values)
        features += [np.log1p(np.square(size).mean()), np.log1p(size.mean()), (size < 1).mean()]
    return np.asarray(features)


def _bands(grey: np.ndarray) -> np.ndarray:
    """Log power of the Fourier spectrum in rings of equal width up to the Nyquist frequency."""
    window = np.outer(np.hanning(grey.shape[0] + 2)[1:-1], np.hanning(grey.shape[1] + 2)[1:-1])
    power = np.square(np.abs(np.fft.fft2((grey - grey.mean()) * window))) / grey.size
    rows, columns = np.fft.fftfreq(grey.shape[0]), np.fft.fftfreq(grey.shape[1])
    ring = np.minimum(_BANDS - 1, np.hypot(rows[:, None], columns[None]) * 2 * _BANDS).astype(int)
    total = np.bincount(ring.ravel(), weights=power.ravel(), minlength=_BANDS)
    return np.log1p(total / np.maximum(1, np.bincount(ring.ravel(), minlength=_BANDS)))


def _blocks(grey: np.ndarray) -> np.ndarray:
    """Log energy of each antidiagonal but the first of the cosine transform of 8x8 blocks.

    Behind these, the step between blocks against that inside of them.
    """
    height, width = (side // BLOCK * BLOCK for side in grey.shape)
    if not height or not width:
        return np.zeros(2 * BLOCK - 1)
    inside = grey[:height, :width]
    blocks = inside.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(0, 2, 1, 3)
    place = np.arange(BLOCK)
    cosine = np.cos((2 * place[None] + 1) * place[:, None] * np.pi / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    cosine[0] /= math.sqrt(2)
    energy = np.square(cosine @ blocks @ cosine.T).mean(axis=(0, 1))
    diagonal = (place[:, None] + place[None]).ravel()
    by_diagonal = np.log1p(np.bincount(diagonal, weights=energy.ravel())[1:])
    steps = np.abs(np.diff(inside, axis=1)).mean(axis=0)
    edge = np.arange(1, width) % BLOCK == 0
    between = steps[edge].mean() if edge.any() else steps[~edge].mean()
    return np.append(by_diagonal, np.log1p(between) - np.log1p(steps[~edge].mean()))


def _jpeg_size(image: PIL.Image.Image) -> float:
    """Log of the bytes a pixel when stored as JPEG of quality 90: how much there is to say about the image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return math.log(buffer.tell() / (image.width * image.height))
