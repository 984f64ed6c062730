"""Rows of a training set that are held out, as a suite that `negguide.vlm.evaluation.evaluate` can measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from PIL import Image

from negguide._utils.text import compared
from negguide.vlm.data.rows import ImageSource, Triplet, open_image
from negguide.vlm.evaluation.results import Results
from negguide.vlm.evaluation.suites.base import Choice, Choices, Pair, Pairs, Part, Retrieval, Suite
from negguide.vlm.evaluation.suites.fingerprint import with_items

NAME = "held out"
"""Of the suite."""


class RowImages(Sequence[Image.Image]):
    """Images of rows, opened one at a time."""

    def __init__(self, images: Sequence[tuple[str, ImageSource]]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [open_image(*row) for row in self.images[index]]
        return open_image(*self.images[index])


def held_out_suite(triplets: Sequence[Triplet], valid: Sequence[bool], version: str) -> Suite:
    """Retrieval among the images that have a caption of their own, and how negatives are told from captions.

    Rows with a negative image are measured by text, image and group; sets with negative captions alone as a choice.
    """
    told_apart = [
        triplet
        for triplet, good in zip(triplets, valid, strict=True)
        if good and compared(triplet.negative_caption or "") not in ("", compared(triplet.caption))
    ]
    # a caption of several images has no one right answer
    owners: dict[str, set[str]] = {}
    for triplet in triplets:
        owners.setdefault(compared(triplet.caption), set()).add(triplet.source)
    own = [triplet for triplet in triplets if len(owners[compared(triplet.caption)]) == 1]
    images: dict[str, tuple[str, ImageSource]] = {}
    for triplet in own:
        images.setdefault(triplet.source, (triplet.id, triplet.image))
    places = {source: place for place, source in enumerate(images)}
    captions = {(triplet.source, triplet.caption): places[triplet.source] for triplet in own}
    parts: dict[str, Part] = {}
    if told_apart and all(triplet.negative_image is not None for triplet in told_apart):
        parts["pairs"] = _pairs(told_apart)
    elif told_apart:
        parts["choices"] = _choices(told_apart)
    if len(images) > 1:
        texts = tuple(text for _, text in captions)
        parts["retrieval"] = Retrieval(RowImages(list(images.values())), texts, tuple(captions.values()))
    # the set's fingerprint knows a file by its size alone
    return with_items(Suite(NAME, version, parts))


def score(results: Results) -> float:
    """What the best checkpoint is chosen by: the mean of the compositional score and of R@1 both ways on `NAME`."""
    figures = {(row.suite, row.metric): row.value for row in results.rows if row.category == "all"}
    compositional = [
        figures[key]
        for key in ((f"{NAME}/pairs", "group"), (f"{NAME}/choices", "accuracy"))
        if key in figures
    ]
    ways = [
        figures[key]
        for key in ((f"{NAME}/retrieval", "text to image R@1"), (f"{NAME}/retrieval", "image to text R@1"))
        if key in figures
    ]
    means = [sum(values) / len(values) for values in (compositional, ways) if values]
    return sum(means) / len(means)


def _pairs(triplets: Sequence[Triplet]) -> Pairs:
    images: list[tuple[str, ImageSource]] = []
    items = []
    for triplet in triplets:
        if triplet.negative_image is None or triplet.negative_caption is None:
            continue
        place = len(images)
        images += [(triplet.id, triplet.image), (triplet.id, triplet.negative_image)]
        captions = (triplet.caption, triplet.negative_caption)
        items.append(
            Pair((place, place + 1), captions, triplet.category or "other", triplet.positive_captions)
        )
    return Pairs(RowImages(images), tuple(items))


def _choices(triplets: Sequence[Triplet]) -> Choices:
    images = RowImages([(triplet.id, triplet.image) for triplet in triplets])
    items = [
        Choice(place, (triplet.caption, triplet.negative_caption or ""), 0, triplet.category or "other")
        for place, triplet in enumerate(triplets)
    ]
    return Choices(images, tuple(items))
