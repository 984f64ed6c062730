"""The rows of a training set that are held out, as questions that `negguide.vlm.evaluate` can ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from PIL import Image

from negguide.vlm.data import Picture, Triplet, normalised, open_picture
from negguide.vlm.results import Results
from negguide.vlm.suites.base import Choice, Choices, Pair, Pairs, Part, Retrieval, Suite

NAME = "held out"
"""Of the suite."""


class Pictures(Sequence[Image.Image]):
    """Pictures of rows, opened one at a time."""

    def __init__(self, pictures: Sequence[tuple[str, Picture]]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [open_picture(*row) for row in self.pictures[index]]
        return open_picture(*self.pictures[index])


def held_out_suite(triplets: Sequence[Triplet], valid: Sequence[bool], version: str) -> Suite:
    """Retrieval among the images that have a caption of their own, and for rows with a negative what tells it from the
    caption.

    Rows with a negative image are asked by text, image and group; sets with negative captions alone as a choice.
    """
    asked = [
        triplet
        for triplet, good in zip(triplets, valid, strict=True)
        if good and normalised(triplet.negative_caption or "") not in ("", normalised(triplet.caption))
    ]
    # a caption of several images has no one right answer
    owners: dict[str, set[str]] = {}
    for triplet in triplets:
        owners.setdefault(normalised(triplet.caption), set()).add(triplet.source)
    own = [triplet for triplet in triplets if len(owners[normalised(triplet.caption)]) == 1]
    images: dict[str, tuple[str, Picture]] = {}
    for triplet in own:
        images.setdefault(triplet.source, (triplet.id, triplet.image))
    places = {source: place for place, source in enumerate(images)}
    captions = {(triplet.source, triplet.caption): places[triplet.source] for triplet in own}
    parts: dict[str, Part] = {}
    if asked and all(triplet.negative_image is not None for triplet in asked):
        parts["pairs"] = _pairs(asked)
    elif asked:
        parts["choices"] = _choices(asked)
    if len(images) > 1:
        texts = tuple(text for _, text in captions)
        parts["retrieval"] = Retrieval(Pictures(list(images.values())), texts, tuple(captions.values()))
    return Suite(NAME, version, parts)


def score(results: Results) -> float:
    """What the best state is chosen by: the mean of the compositional score and of R@1 both ways on `NAME`."""
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
    pictures: list[tuple[str, Picture]] = []
    items = []
    for triplet in triplets:
        if triplet.negative_image is None or triplet.negative_caption is None:
            continue
        place = len(pictures)
        pictures += [(triplet.id, triplet.image), (triplet.id, triplet.negative_image)]
        captions = (triplet.caption, triplet.negative_caption)
        items.append(
            Pair((place, place + 1), captions, triplet.category or "other", triplet.positive_captions)
        )
    return Pairs(Pictures(pictures), tuple(items))


def _choices(triplets: Sequence[Triplet]) -> Choices:
    pictures = Pictures([(triplet.id, triplet.image) for triplet in triplets])
    items = [
        Choice(place, (triplet.caption, triplet.negative_caption or ""), 0, triplet.category or "other")
        for place, triplet in enumerate(triplets)
    ]
    return Choices(pictures, tuple(items))
