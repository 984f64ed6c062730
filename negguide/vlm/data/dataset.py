"""What a run trains on: the set read, validated and split, and its batches in their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from negguide.vlm.data.loader import Collate, Loader
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.rows import Triplet
from negguide.vlm.data.sampler import Curriculum, GroupSampler, RandomSampler, Sampler
from negguide.vlm.data.validate import Validated, as_pairs, split, validate, with_one_source_per_image
from negguide.vlm.losses.registry import loss_by_name
from negguide.vlm.models import VisionLanguageModel

if TYPE_CHECKING:
    from negguide.vlm.training.config import Settings


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The rows of a run.

    Attributes:
        train: what is trained on.
        held_out: the rows that are not.
        sampler: the order of `train`, a batch of all processes at a time.
        fingerprint: of all rows; a checkpoint is of one set.
        notes: what was found in the set.
    """

    train: Validated
    held_out: Validated
    sampler: Sampler
    fingerprint: str
    notes: tuple[str, ...]

    def batch(self, step: int) -> list[int]:
        """The rows that all processes together take at `step`, as the sampler has them."""
        epoch, place = divmod(step, len(self.sampler))
        return self.sampler.epoch(epoch)[place]

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids of `rows`."""
        return [self.train.triplets[row].id for row in rows]

    def loader(
        self,
        settings: Settings,
        model: VisionLanguageModel,
        *,
        rank: int,
        processes: int,
        device: torch.device,
    ) -> Loader:
        """The batches of one process, prepared for `model`."""
        collate = Collate(
            self.train,
            model,
            # the negatives of siblings are rows of their own
            () if loss_by_name(settings.loss).siblings else settings.columns,
            paraphrases=settings.paraphrases,
            seed=settings.seed,
        )
        return Loader(
            collate,
            batch_size=settings.batch_size,
            accum_freq=settings.accum_freq,
            rank=rank,
            processes=processes,
            workers=settings.workers,
            pin=device.type == "cuda",
        )


def read_training_set(settings: Settings, model: VisionLanguageModel, processes: int) -> TrainingSet:
    """Read `settings.train_data`, check it against the loss and the tokenizer of `model`, and hold rows out.

    Args:
        settings: of the run.
        model: what is to be trained.
        processes: how many share a batch.

    Raises:
        ValueError: no such set, one that the loss cannot use, or one that is smaller than a batch.
    """
    triplets = read_triplets(settings.train_data, Path(settings.images) if settings.images else None)
    # a loss without negatives may have an option that needs them
    needed_by = (
        f"loss={settings.loss!r}"
        if loss_by_name(settings.loss).columns
        else f"rank_margin={settings.rank_margin:g}"
    )
    validated = validate(triplets, model, settings.columns, needed_by=needed_by, name=settings.train_data)
    validated = replace(validated, triplets=with_one_source_per_image(validated.triplets))
    reworded = sum(bool(triplet.positive_captions) for triplet in triplets)
    notes = validated.notes()
    if settings.paraphrases and not reworded:
        raise ValueError(
            f"train_data={settings.train_data!r} has no column positive_captions, which paraphrases needs"
        )
    if settings.paraphrases and reworded < len(triplets):
        notes.append(f"{len(triplets) - reworded} of {len(triplets)} rows have no paraphrase")
    rows = "\0".join(_identity(triplet, settings.columns) for triplet in validated.triplets)
    fingerprint = hashlib.sha256(rows.encode()).hexdigest()[:16]
    training, held = split(validated.triplets, settings.val_fraction, Random(f"split-{settings.seed}").random)
    if not training:
        raise ValueError(
            f"val_fraction={settings.val_fraction} of train_data={settings.train_data!r} leaves nothing to train on; "
            f"it has {len(validated.triplets)} rows"
        )
    train, held_out = _chosen(validated, training), _chosen(validated, held)
    if loss_by_name(settings.loss).siblings:
        train = as_pairs(train)
    sampler = _make_sampler(settings, train, processes)
    return TrainingSet(train, held_out, sampler, fingerprint, tuple(notes))


def _identity(triplet: Triplet, columns: Sequence[str]) -> str:
    """What a row is known by, wherever the set lies."""
    t = triplet
    sizes = [t.image.size]
    if "negative_image" in columns and t.negative_image is not None:
        sizes.append(t.negative_image.size)
    words = (t.id, t.source, t.caption, t.negative_caption, t.positive_captions, t.category, t.prompt)
    return "|".join(map(str, (*words, *sizes)))


def _chosen(validated: Validated, places: Sequence[int]) -> Validated:
    rows = tuple(validated.triplets[i] for i in places)
    return replace(validated, triplets=rows, valid=tuple(validated.valid[i] for i in places))


def _make_sampler(settings: Settings, train: Validated, processes: int) -> Sampler:
    rest = _sampler(settings, train, processes, settings.train_num_samples)
    if not settings.first_categories:
        return rest
    places = _of_categories(train.triplets, settings)
    try:
        first = _sampler(settings, _chosen(train, places), processes, None)
    except ValueError as error:
        raise ValueError(f"curriculum={settings.curriculum!r}, {len(places)} rows: {error}") from error
    return Curriculum(rest, first, places, settings.curriculum_epochs)


def _of_categories(rows: Sequence[Triplet], settings: Settings) -> list[int]:
    """The rows whose negative is of the first categories, the originals that they are siblings of, plain pairs."""
    known = sorted({row.category for row in rows if row.category})
    for name in settings.first_categories:
        if name not in known:
            raise ValueError(
                f"curriculum={settings.curriculum!r}: train_data={settings.train_data!r} has no rows of category "
                f"{name!r}; it has {', '.join(known) or 'no categories'}"
            )
    origins = [row.group or row.source for row in rows]
    chosen = {
        origin for row, origin in zip(rows, origins, strict=True) if row.category in settings.first_categories
    }
    others = {origin for row, origin in zip(rows, origins, strict=True) if row.category} - chosen
    return [
        i
        for i, (row, origin) in enumerate(zip(rows, origins, strict=True))
        if row.category in settings.first_categories or (not row.category and origin not in others)
    ]


def _sampler(settings: Settings, train: Validated, processes: int, samples: int | None) -> Sampler:
    together = settings.batch_size * settings.accum_freq * processes
    if loss_by_name(settings.loss).siblings:
        return GroupSampler(
            [triplet.group for triplet in train.triplets],
            together,
            group_size=settings.group_size,
            fraction=settings.group_fraction,
            seed=settings.seed,
            samples=samples,
        )
    return RandomSampler(len(train.triplets), together, settings.seed, samples)
