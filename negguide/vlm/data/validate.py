"""What is wrong with the rows of a set, and which of them are kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from negguide._utils.text import compared
from negguide.vlm.data.rows import COLUMNS, FileImage, ImageSource, Triplet, numbered

if TYPE_CHECKING:
    from negguide.vlm.models import VisionLanguageModel


@dataclass(frozen=True)
class Validated:
    """A set that is fit for training, and what was found in it.

    Attributes:
        triplets: all rows.
        valid: for each, whether it has all the columns that the loss needs, fit for use; other rows train as plain
            pairs.
        missing: rows without all the columns that the loss needs.
        equal: rows whose negative equals the positive.
        truncated: rows whose negative caption equals the caption once the tokenizer has cut both.
    """

    triplets: tuple[Triplet, ...]
    valid: tuple[bool, ...]
    missing: int = 0
    equal: int = 0
    truncated: int = 0

    def notes(self) -> list[str]:
        """What a reader must know, a line each."""
        total = len(self.triplets)
        reasons = {
            "have no negative": self.missing,
            "have a negative that equals the positive": self.equal,
            "differ from their negative only in words that the tokenizer cuts off": self.truncated,
        }
        return [f"{n} of {total} rows {what}; they train as plain pairs" for what, n in reasons.items() if n]


def validate(
    triplets: Sequence[Triplet],
    model: VisionLanguageModel,
    columns: Sequence[str],
    *,
    needed_by: str,
    name: str,
) -> Validated:
    """Which rows of the set `name` have a negative that can be used.

    Args:
        triplets: the rows.
        model: whose tokenizer reads them.
        columns: that are needed.
        needed_by: by what, as messages say it: "loss='triplet'".
        name: of the set, for messages.

    Raises:
        ValueError: no rows, an empty caption, missing files, a set without the columns, no usable negative at all, or
            a word that the tokenizer does not know.
    """
    if not triplets:
        raise ValueError(f"train_data={name!r} has no rows")
    for triplet in triplets:
        for column in ("caption", "negative_caption"):
            text = getattr(triplet, column)
            if not isinstance(text, str | None) or (column == "caption" and not (text and text.strip())):
                raise ValueError(
                    f"train_data={name!r}: the {column} of item {triplet.id!r} is {text!r}; give a sentence"
                )
    _check_files(triplets, columns, name)
    for column in columns:
        if not any(triplet.has(column) for triplet in triplets):
            present = [c for c in COLUMNS if any(triplet.has(c) for triplet in triplets)]
            raise ValueError(
                f"train_data={name!r} has no column {column}, which {needed_by} needs; it has "
                f"{', '.join(['image', 'caption', *present])}"
            )
    complete = [all(triplet.has(column) for column in columns) for triplet in triplets]
    equal = [good and _equal(triplet, columns) for triplet, good in zip(triplets, complete, strict=True)]
    cut = [False] * len(triplets)
    if "negative_caption" in columns:
        compared = [i for i, good in enumerate(complete) if good and not equal[i]]
        cut_too = _cut_to_the_same(model, [triplets[i] for i in compared])
        for i, same in zip(compared, cut_too, strict=True):
            cut[i] = same
    valid = tuple(g and not e and not c for g, e, c in zip(complete, equal, cut, strict=True))
    validated = Validated(tuple(triplets), valid, len(complete) - sum(complete), sum(equal), sum(cut))
    if columns and not any(valid):
        raise ValueError(
            f"train_data={name!r} has no negative that {needed_by} can use: {'; '.join(validated.notes())}"
        )
    return validated


def as_pairs(validated: Validated) -> Validated:
    """Every image with its caption as a row of its own, originals and negatives alike, for the loss "grouped".

    What comes of one source is a `group`; a negative is a source of its own, for it shows something else, and shares
    it with those of one prompt. An original with several negatives comes once, with its paraphrases and without a
    category.
    """
    rows: dict[tuple[str, str] | int, Triplet] = {}
    # ids may come twice, where a set is made of several
    for number, (triplet, valid) in enumerate(zip(validated.triplets, validated.valid, strict=True)):
        plain = replace(triplet, negative_caption=None, negative_image=None, group=triplet.source)
        rows.setdefault((triplet.source, triplet.caption), replace(plain, category=""))
        if valid and triplet.negative_image is not None and triplet.negative_caption is not None:
            rows[number] = replace(
                plain,
                id=f"{triplet.id}/negative",
                source=f"{triplet.prompt or number}/negative of {triplet.source}",
                image=triplet.negative_image,
                caption=triplet.negative_caption,
                positive_captions=(),
            )
    # a negative may show what another one does, or an original of another source
    pairs = with_one_source_per_image(tuple(rows.values()))
    return replace(validated, triplets=pairs, valid=(False,) * len(pairs))


def with_one_source_per_image(triplets: Sequence[Triplet]) -> tuple[Triplet, ...]:
    """The rows, in which copies of one image under several sources have the first one's.

    A set with several captions an image may count each as a source. Only files of one size are read.
    """
    first: dict[str, Triplet] = {}
    for triplet in triplets:
        first.setdefault(triplet.source, triplet)
    sources = list(first)
    places = equal_images([triplet.image for triplet in first.values()])
    source = {name: sources[place] for name, place in zip(sources, places, strict=True)}
    return tuple(replace(triplet, source=source[triplet.source]) for triplet in triplets)


def equal_images(images: Sequence[ImageSource]) -> list[int]:
    """For every image, the place of the first one with the same content. Only files of one size are read."""
    by_size: dict[int, list[int]] = {}
    for place, image in enumerate(images):
        by_size.setdefault(image.size, []).append(place)
    found = list(range(len(images)))
    for size, alike in by_size.items():
        if size and len(alike) > 1:
            seen: dict[bytes, int] = {}
            for place in alike:
                digest = hashlib.sha256(images[place].read()).digest()
                found[place] = seen.setdefault(digest, place)
    return found


def split(
    triplets: Sequence[Triplet], fraction: float, random_: Callable[[], float]
) -> tuple[list[int], list[int]]:
    """Places for training and for validation; the rows of one image are all on one side, negative images included.

    Args:
        triplets: the rows.
        fraction: of what shares no image with the rest, in [0, 1), that goes to validation; at least one such part
            when it is above 0.
        random_: gives numbers in [0, 1).
    """
    parts = _apart(triplets) if fraction else [0] * len(triplets)
    distinct = list(dict.fromkeys(parts))
    count = max(1, round(fraction * len(distinct))) if fraction else 0
    drawn = sorted(distinct, key={part: random_() for part in distinct}.__getitem__)
    chosen = set(drawn[:count])
    places: tuple[list[int], list[int]] = ([], [])
    for i, part in enumerate(parts):
        places[part in chosen].append(i)
    return places


def _apart(triplets: Sequence[Triplet]) -> list[int]:
    """For every row the number of its part; two parts have no source and no image in common.

    A picture may be the negative of one row and the original of another, as in sets of exchanged pairs.
    """
    sources = numbered([triplet.source for triplet in triplets])
    images: list[ImageSource] = []
    owners: list[int] = []
    seen: set[int] = set()
    for triplet, source in zip(triplets, sources, strict=True):
        if source not in seen:
            images.append(triplet.image)
            owners.append(source)
            seen.add(source)
        if triplet.negative_image is not None:
            images.append(triplet.negative_image)
            owners.append(source)
    # union-find over the sources
    root = list(range(len(triplets)))

    def top(source: int) -> int:
        while root[source] != source:
            root[source] = source = root[root[source]]
        return source

    for owner, place in zip(owners, equal_images(images), strict=True):
        low, high = sorted((top(owner), top(owners[place])))
        root[high] = low
    return [top(source) for source in sources]


def _equal(triplet: Triplet, columns: Sequence[str]) -> bool:
    captions = triplet.negative_caption is not None and compared(triplet.caption) == compared(
        triplet.negative_caption
    )
    if "negative_caption" in columns and captions:
        return True
    return (
        "negative_image" in columns
        and triplet.negative_image is not None
        and _same_image(triplet.image, triplet.negative_image)
    )


def _same_image(a: ImageSource, b: ImageSource) -> bool:
    """A copy under another name is the same image; only files of one size are read for it."""
    return a == b or (a.size == b.size and a.read() == b.read())


def _cut_to_the_same(model: VisionLanguageModel, triplets: Sequence[Triplet]) -> list[bool]:
    captions = [t.caption for t in triplets]
    negatives = [t.negative_caption or "" for t in triplets]
    long = [a or b for a, b in zip(model.truncated(captions), model.truncated(negatives), strict=True)]
    same = [False] * len(triplets)
    for i in (i for i, is_long in enumerate(long) if is_long):
        ids = model.text_inputs([captions[i], negatives[i]])["input_ids"]
        same[i] = bool((ids[0] == ids[1]).all())
    return same


def _check_files(triplets: Sequence[Triplet], columns: Sequence[str], name: str) -> None:
    sources = [t.image for t in triplets]
    if "negative_image" in columns:
        sources += [t.negative_image for t in triplets if t.negative_image is not None]
    paths = dict.fromkeys(source.path for source in sources if isinstance(source, FileImage))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"train_data={name!r}: {len(missing)} of {len(paths)} images are missing, the first is {missing[0]}"
        )
