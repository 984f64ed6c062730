"""Near-duplicates: inside a set, and against sets that models are evaluated on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image

from negguide._utils.text import normalised
from negguide.mining.audit.looks import HASH_BITS, Look
from negguide.mining.audit.pairs import Pair, read_pairs
from negguide.mining.shards import is_half_made
from negguide.storage import ImageFile
from negguide.text_files import text_lines

HASH_DISTANCE = 6
"""Images with more differing bits (of 64) are not looked at further."""
COLOUR_DISTANCE = 1.5
"""Mean absolute difference of the thumbnails, of 255, up to which two images with like hashes are near-duplicates."""
_BLOCK = 2048


@dataclass(frozen=True)
class Reference:
    """A set that models are evaluated on: its name, captions and images; and whether it is half made."""

    name: str
    captions: tuple[str, ...] = ()
    images: tuple[ImageFile, ...] = ()
    half_made: bool = False


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        texts: items whose two captions are those of another item, as lists of ids.
        images: (item, its image, earlier item, its image): for each image that looks like an earlier one of another
            source, the first such.
        leaked_captions: by reference, the ids of the items of which a caption stands there.
        leaked_images: by reference, (item, its image, the image there).
    """

    texts: list[list[str]] = field(default_factory=list)
    images: list[tuple[str, str, str, str]] = field(default_factory=list)
    leaked_captions: dict[str, list[str]] = field(default_factory=dict)
    leaked_images: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    @property
    def leaked(self) -> dict[str, str]:
        """Why items should not be trained on: id to reason."""
        reasons = {
            row[0]: f"an image is in {name}" for name, rows in self.leaked_images.items() for row in rows
        }
        return reasons | {
            item: f"a caption is in {name}" for name, items in self.leaked_captions.items() for item in items
        }


def loosely(text: str) -> str:
    """Its words without case, accents and articles: captions of one image differ in these from set to set."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(word for word in normalised(plain.casefold()).split() if word not in ("a", "an", "the"))


def read_reference(path: Path | str) -> Reference:
    """Read what ``--against`` names: a folder of images, a set, ``FILE.json=IMAGES``, or a text file of captions.

    Raises:
        ValueError: there is nothing to compare with.
    """
    text = str(path)
    file, _, folder = text.partition("=")
    place = Path(text) if Path(text).exists() else Path(file)
    images = Path(folder) if folder and place == Path(file) and not Path(text).exists() else None
    if place.suffix == ".txt" and place.is_file():
        lines = tuple(line.rstrip("\r\n") for _, line in text_lines(place) if line.strip())
        found = Reference(place.name, captions=lines)
    elif place.is_dir() and not _is_a_set(place):
        found = Reference(place.name, images=tuple(_images_in(place)))
    else:
        pairs = read_pairs(place, images)
        captions = [text for pair in pairs for text in (pair.caption, pair.negative_caption)]
        files = [path for pair in pairs for path in pair.images]
        found = Reference(
            place.name, tuple(dict.fromkeys(captions)), tuple(dict.fromkeys(files)), is_half_made(place)
        )
    if not found.captions and not found.images:
        raise ValueError(f"against={text!r} holds neither captions nor images")
    return found


def _is_a_set(folder: Path) -> bool:
    return any(folder.rglob("metadata.jsonl")) or any(folder.glob("*.json"))


def _images_in(folder: Path) -> Iterator[Path]:
    known = PIL.Image.registered_extensions()
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in known and path.is_file())


def find_duplicates(
    pairs: Sequence[Pair], looks: Mapping[ImageFile, Look], references: Sequence[Reference]
) -> Duplicates:
    """Near-duplicates among ``pairs``, controls included, and between them and ``references``.

    Images without a look are left out.
    """
    result = Duplicates()
    same: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        same.setdefault((loosely(pair.caption), loosely(pair.negative_caption)), []).append(pair.id)
    result.texts.extend(ids for ids in same.values() if len(ids) > 1)

    # The same original belongs to many items of its source, and an image resembles its negative and control by design.
    mine: dict[ImageFile, list[Pair]] = {}
    for pair in pairs:
        for path in pair.images:
            if path in looks:
                mine.setdefault(path, []).append(pair)
    paths = list(mine)
    seen: set[int] = set()
    for i, j in _alike(paths, paths, looks):
        one, other = mine[paths[i]][0], mine[paths[j]][0]
        if j < i and i not in seen and one.source != other.source:
            seen.add(i)
            result.images.append((one.id, paths[i].name, other.id, paths[j].name))

    for reference in references:
        known = {loosely(text) for text in reference.captions}
        result.leaked_captions[reference.name] = [
            pair.id
            for pair in pairs
            if loosely(pair.caption) in known or loosely(pair.negative_caption) in known
        ]
        theirs = [path for path in reference.images if path in looks]
        result.leaked_images[reference.name] = [
            (pair.id, paths[i].name, theirs[j].name)
            for i, j in _alike(paths, theirs, looks)
            for pair in mine[paths[i]]
        ]
    return result


def _alike(
    ours: Sequence[ImageFile], theirs: Sequence[ImageFile], looks: Mapping[ImageFile, Look]
) -> Iterator[tuple[int, int]]:
    """Indices of the images that are near-duplicates of each other."""
    if not ours or not theirs:
        return
    left, right = (
        np.stack([looks[path].hash for path in side]) * np.float32(2) - 1 for side in (ours, theirs)
    )
    small, other = (np.stack([looks[path].thumbnail for path in side]) for side in (ours, theirs))
    for start in range(0, len(left), _BLOCK):
        # for signs ±1 the scalar product is the number of bits less twice the number of those that differ
        differing = (HASH_BITS - left[start : start + _BLOCK] @ right.T) / 2
        rows, columns = np.nonzero(differing <= HASH_DISTANCE)
        for begin in range(0, len(rows), _BLOCK):
            i, j = start + rows[begin : begin + _BLOCK], columns[begin : begin + _BLOCK]
            distance = np.abs(small[i].astype(np.int16) - other[j]).mean(axis=1)
            near = distance <= COLOUR_DISTANCE
            yield from zip(i[near].tolist(), j[near].tolist(), strict=True)
