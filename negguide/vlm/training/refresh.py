"""When the present model scores the rows of the next steps, and what of their batches it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from negguide.vlm.data.dataset import TrainingSet
from negguide.vlm.data.loader import Loader
from negguide.vlm.data.refresh import Refreshed, Scored, exchange, pool_of
from negguide.vlm.losses.registry import loss_by_name
from negguide.vlm.training.config import Settings
from negguide.vlm.training.gather import gather
from negguide.vlm.training.task import Task
from negguide.vlm.training.towers import split

Part = tuple[int, list[list[int]]]
"""An epoch, and some of its batches."""


class Refresher:
    """Batches that are formed every `settings.refresh_negatives` steps from what the present model confuses.

    It scores the rows of the steps until the next refresh and all further negatives of their images, so that a refresh
    costs about a forward pass of those steps, however large the set is. Then the fraction `settings.refresh_fraction`
    of every batch is exchanged, as `negguide.vlm.data.refresh.exchange` says. The choice is a function of the weights,
    the seed and the step.

    Args:
        settings: of the run.
        data: its rows.
        task: what is trained.
        loader: of the batches of this process.
        accelerator: of the run; the processes score a part each.

    Raises:
        ValueError: a run that ends before the model is asked twice, or batches of which nothing can be exchanged.
    """

    def __init__(
        self, settings: Settings, data: TrainingSet, task: Task, loader: Loader, accelerator: Accelerator
    ) -> None:
        every = settings.refresh_negatives
        assert every is not None
        self.settings, self.data, self.task = settings, data, task
        self.loader, self.accelerator, self.every = loader, accelerator, every
        self.steps = len(data.sampler) * settings.epochs
        if every >= self.steps:
            raise ValueError(
                f"refresh_negatives={every} of {self.steps} steps asks only the start model, before it is trained; "
                f"give fewer than {self.steps}"
            )
        size = len(data.batch(0))
        self.leaving = int(settings.refresh_fraction * size)
        if not self.leaving:
            raise ValueError(
                f"refresh_fraction={settings.refresh_fraction} of a batch of {size} is no row; give more of either"
            )
        self.groups = loader.collate.groups
        if all(len(self._pool(*part)) <= size for part in self._parts(0)):
            raise ValueError(
                f"refresh_negatives={every}: one batch of {size} holds all rows of these steps and all negatives of "
                "their images, so nothing can be exchanged; give more steps, or a smaller batch"
            )
        if loss_by_name(settings.loss).siblings:
            count = Counter(self.groups)
            self.kinds = [count[group] > 1 for group in self.groups]
        else:
            self.kinds = list(data.train.valid)

    def refresh(self, step: int) -> Refreshed:
        """The batches from `step` to the next refresh or the end."""
        parts = list(self._parts(step))
        pools = [self._pool(*part) for part in parts]
        pool = sorted(set().union(*pools))
        scored = self._scored(parts[0][0], pool)
        place = {row: i for i, row in enumerate(pool)}
        found = [
            exchange(
                batches,
                rows,
                scored.take(torch.tensor([place[row] for row in rows], device=scored.image.device)),
                [self.kinds[row] for row in rows],
                leaving=self.leaving,
                fraction=self.settings.refresh_false_negatives,
            )
            for (_, batches), rows in zip(parts, pools, strict=True)
        ]
        made = Refreshed(
            [batch for part in found for batch in part.batches],
            sum(part.exchanged for part in found),
            sum(part.held_back for part in found),
        )
        # processes whose devices round differently must not have other batches
        agreed: Refreshed = broadcast_object_list([made])[0]
        return agreed

    def note(self, refreshed: Refreshed) -> dict[str, float]:
        """What the log says of a refresh.

        The fraction of all rows that was exchanged, and of those that came first in the choice, the fraction that was
        held back.
        """
        steps = len(refreshed.batches)
        rows, chosen = steps * len(refreshed.batches[0]), steps * self.leaving
        return {
            "exchanged": refreshed.exchanged / rows,
            "held_back": refreshed.held_back / (refreshed.held_back + chosen),
        }

    def _parts(self, step: int) -> Iterator[Part]:
        """The batches of the sampler from `step` to the next refresh, epoch by epoch."""
        per_epoch, end = len(self.data.sampler), min(step + self.every, self.steps)
        while step < end:
            epoch, place = divmod(step, per_epoch)
            batches = self.data.sampler.epoch(epoch)[place : place + end - step]
            yield epoch, batches
            step += len(batches)

    def _pool(self, epoch: int, batches: Sequence[Sequence[int]]) -> list[int]:
        return pool_of(batches, self.groups, self.data.sampler.rows(epoch))

    @torch.no_grad()
    def _scored(self, epoch: int, pool: Sequence[int]) -> Scored:
        """All processes' scores of the rows of `pool`, of which each computes as many."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = -(-len(pool) // processes)
        own = [pool[(rank * share + i) % len(pool)] for i in range(share)]
        towers = self.task.towers
        was_training = towers.training
        towers.eval()
        parts = []
        for loaded in self.loader.load(epoch, [own]):
            batch = loaded.to(self.accelerator.device)
            features = split(towers(batch.images, batch.texts), batch)
            del features["positive_text"]
            numbers = {
                name: getattr(batch, name) for name in ("source", "caption", "negative_caption", "group")
            }
            parts.append({**features, **numbers, "valid": batch.has_negative})
        towers.train(was_training)
        return Scored(
            **{name: gather(torch.cat([part[name] for part in parts]))[: len(pool)] for name in parts[0]}
        )
