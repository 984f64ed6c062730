"""What a run trains on: the set read, checked and split, and its batches in their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from negguide.vlm.batches import Collate, Loader
from negguide.vlm.data import Checked, Triplet, as_pairs, check, split, with_one_source_per_image
from negguide.vlm.models import VisionLanguageModel
from negguide.vlm.reading import read_triplets
from negguide.vlm.sampler import Curriculum, GroupSampler, RandomSampler, Sampler
from negguide.vlm.settings import LOSSES, Settings
from negguide.vlm.suites.base import Suite
from negguide.vlm.validation import held_out_suite


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The rows of a run.

    Attributes:
        train: what is trained on.
        held_out: the rows that are not, as questions; None where there are none that can be asked.
        sampler: the order of ``train``, a batch of all processes at a time.
        fingerprint: of all rows; a state is of one set.
        remarks: what was found in the set.
    """

    train: Checked
    held_out: Suite | None
    sampler: Sampler
    fingerprint: str
    remarks: tuple[str, ...]

    def names(self, step: int) -> list[str]:
        """The ids of the rows that all processes together take at ``step``."""
        epoch, place = divmod(step, len(self.sampler))
        return [self.train.triplets[row].id for row in self.sampler.epoch(epoch)[place]]

    def loader(
        self,
        settings: Settings,
        model: VisionLanguageModel,
        *,
        rank: int,
        processes: int,
        device: torch.device,
    ) -> Loader:
        """The batches of one process, prepared for ``model``."""
        collate = Collate(
            self.train,
            model,
            # the negatives of "grouped" are rows of their own
            LOSSES["clip"] if settings.loss == "grouped" else settings.columns,
            paraphrases=settings.paraphrases,
            seed=settings.seed,
        )
        return Loader(
            collate,
            self.sampler,
            batch_size=settings.batch_size,
            accum_freq=settings.accum_freq,
            rank=rank,
            processes=processes,
            workers=settings.workers,
            pin=device.type == "cuda",
        )


def read_training_set(settings: Settings, model: VisionLanguageModel, processes: int) -> TrainingSet:
    """Read ``settings.train_data``, check it against the loss and the tokenizer of ``model``, and hold rows out.

    Args:
        settings: of the run.
        model: what is to be trained.
        processes: how many share a batch.

    Raises:
        ValueError: no such set, one that the loss cannot use, or one that is smaller than a batch.
    """
    triplets = read_triplets(settings.train_data, Path(settings.images) if settings.images else None)
    checked = check(triplets, model, settings.columns, loss=settings.loss, name=settings.train_data)
    checked = replace(checked, triplets=with_one_source_per_image(checked.triplets))
    reworded = sum(bool(triplet.positive_captions) for triplet in triplets)
    remarks = checked.remarks()
    if settings.paraphrases and not reworded:
        raise ValueError(
            f"train_data={settings.train_data!r} has no column positive_captions, which paraphrases needs"
        )
    if settings.paraphrases and reworded < len(triplets):
        remarks.append(f"{len(triplets) - reworded} of {len(triplets)} rows have no paraphrase")
    rows = "\0".join(_told(triplet, settings.columns) for triplet in checked.triplets)
    fingerprint = hashlib.sha256(rows.encode()).hexdigest()[:16]
    training, held = split(checked.triplets, settings.val_share, Random(f"split-{settings.seed}").random)
    if not training:
        raise ValueError(
            f"val_share={settings.val_share} of train_data={settings.train_data!r} leaves nothing to train on; "
            f"it has {len(checked.triplets)} rows"
        )
    train, kept = _chosen(checked, training), _chosen(checked, held)
    if settings.loss == "grouped":
        train = as_pairs(train)
    held_out = held_out_suite(kept.triplets, kept.valid, fingerprint)
    return TrainingSet(
        train,
        held_out if held_out.parts else None,
        _make_sampler(settings, train, processes),
        fingerprint,
        tuple(remarks),
    )


def _told(triplet: Triplet, columns: Sequence[str]) -> str:
    """What a row is known by, wherever the set lies."""
    t = triplet
    sizes = [t.image.size]
    if "negative_image" in columns and t.negative_image is not None:
        sizes.append(t.negative_image.size)
    words = (t.id, t.source, t.caption, t.negative_caption, t.positive_captions, t.category, t.prompt)
    return "|".join(map(str, (*words, *sizes)))


def _chosen(checked: Checked, places: Sequence[int]) -> Checked:
    rows = tuple(checked.triplets[i] for i in places)
    return replace(checked, triplets=rows, valid=tuple(checked.valid[i] for i in places))


def _make_sampler(settings: Settings, train: Checked, processes: int) -> Sampler:
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
    """The rows whose negative is of the categories asked for, the originals that they are siblings of, plain pairs."""
    known = sorted({row.category for row in rows if row.category})
    for name in settings.first_categories:
        if name not in known:
            raise ValueError(
                f"curriculum={settings.curriculum!r}: train_data={settings.train_data!r} has no rows of category "
                f"{name!r}; it has {', '.join(known) or 'no categories'}"
            )
    origins = [row.group or row.source for row in rows]
    asked = {
        origin for row, origin in zip(rows, origins, strict=True) if row.category in settings.first_categories
    }
    others = {origin for row, origin in zip(rows, origins, strict=True) if row.category} - asked
    return [
        i
        for i, (row, origin) in enumerate(zip(rows, origins, strict=True))
        if row.category in settings.first_categories or (not row.category and origin not in others)
    ]


def _sampler(settings: Settings, train: Checked, processes: int, samples: int | None) -> Sampler:
    together = settings.batch_size * settings.accum_freq * processes
    if settings.loss == "grouped":
        return GroupSampler(
            [triplet.group for triplet in train.triplets],
            together,
            group_size=settings.group_size,
            share=settings.group_share,
            seed=settings.seed,
            samples=samples,
        )
    return RandomSampler(len(train.triplets), together, settings.seed, samples)
