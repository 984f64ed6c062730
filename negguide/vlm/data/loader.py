"""From rows of a set to what the two towers take."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from negguide._utils.text import compared
from negguide.vlm.data.rows import UnreadableRowImageError, numbered, open_image
from negguide.vlm.data.validate import Validated
from negguide.vlm.models import VisionLanguageModel

Inputs = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one process forwards at once: n rows, of which some have a negative and some a paraphrase.

    Attributes:
        places: of the rows in the set.
        images: of the image tower: n images, then the negative ones.
        texts: of the text tower: n captions, then the negative ones, then the paraphrases.
        negative: int64, which rows have a negative, in the order of their negatives in `images` and `texts`.
        has_images, has_texts: whether the negatives are in `images`, in `texts`.
        positive: int64, which rows have a paraphrase.
        source, caption, negative_caption, group: int64 [n], equal numbers for equal ones in the whole set.
    """

    places: list[int]
    images: Inputs
    texts: Inputs
    negative: Tensor
    has_images: bool
    has_texts: bool
    positive: Tensor
    source: Tensor
    caption: Tensor
    negative_caption: Tensor
    group: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """What a loader calls whose batches go to a GPU."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        for name in ("images", "texts"):
            changed[name] = {key: change(value) for key, value in getattr(self, name).items()}
        return replace(self, **changed)

    @property
    def has_negative(self) -> Tensor:
        """bool [n]: which rows have a negative."""
        return self._flags(self.negative)

    @property
    def has_positive(self) -> Tensor:
        """bool [n]: which rows have a paraphrase."""
        return self._flags(self.positive)

    def _flags(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(self.places), dtype=torch.bool, device=rows.device).index_fill(0, rows, True)

    @property
    def images_seen(self) -> int:
        """How many images go through the model, negative ones included."""
        return len(self.places) + (len(self.negative) if self.has_images else 0)


class Collate:
    """Opens and prepares the images and texts of some rows; tokens are numbers from the start.

    Args:
        validated: the set.
        model: its processor is used.
        columns: which negatives are wanted.
        paraphrases: whether a paraphrase is wanted as well, a different one each epoch.
        seed: of which paraphrase.
    """

    def __init__(
        self,
        validated: Validated,
        model: VisionLanguageModel,
        columns: Sequence[str],
        *,
        paraphrases: bool,
        seed: int,
    ) -> None:
        self.rows, self.valid, self.columns, self.seed = validated.triplets, validated.valid, columns, seed
        # workers get the processor alone
        self.processor = replace(model, model=None)
        captions = [t.caption for t in self.rows]
        negatives = [t.negative_caption or "" for t in self.rows]
        texts = captions + (negatives if "negative_caption" in columns else [])
        if paraphrases:
            texts += [text for t in self.rows for text in t.positive_captions]
        distinct = list(dict.fromkeys(texts))
        self.place = {text: i for i, text in enumerate(distinct)}
        self.tokens = model.text_inputs(distinct)
        self.paraphrases = paraphrases
        self.sources = numbered([t.source for t in self.rows])
        self.groups = numbered([t.group or t.source for t in self.rows])
        # what a negative image shows is told by its caption, also where that is not trained on
        numbers = numbered([compared(text) for text in captions + negatives])
        self.captions = numbers[: len(self.rows)]
        # rows without a negative caption share no number with any other
        self.negatives = [
            number if text else -1 - i
            for i, (number, text) in enumerate(zip(numbers[len(self.rows) :], negatives, strict=False))
        ]

    def __call__(self, request: tuple[int, list[int]]) -> Batch | UnreadableRowImageError:
        """The rows at the places of `request`, in its epoch.

        What is wrong with an image is returned, not raised, so that it arrives from a worker as it is.
        """
        epoch, places = request
        rows = [self.rows[place] for place in places]
        negative = [i for i, place in enumerate(places) if self.valid[place]]
        has_images, has_texts = ("negative_image" in self.columns, "negative_caption" in self.columns)
        try:
            images = [open_image(row.id, row.image) for row in rows]
            if has_images:
                negatives = [(rows[i].id, rows[i].negative_image) for i in negative]
                images += [open_image(row, source) for row, source in negatives if source is not None]
        except UnreadableRowImageError as error:
            return error
        texts = [row.caption for row in rows]
        if has_texts:
            texts += [rows[i].negative_caption or "" for i in negative]
        positive = [i for i, row in enumerate(rows) if self.paraphrases and row.positive_captions]
        for i in positive:
            drawn = random.Random(f"paraphrase-{self.seed}-{epoch}-{places[i]}")
            texts.append(drawn.choice(rows[i].positive_captions))
        return Batch(
            places=places,
            images=self.processor.image_inputs(images),
            texts=self._tokens(texts),
            negative=torch.tensor(negative, dtype=torch.int64),
            has_images=has_images,
            has_texts=has_texts,
            positive=torch.tensor(positive, dtype=torch.int64),
            source=torch.tensor([self.sources[p] for p in places]),
            group=torch.tensor([self.groups[p] for p in places]),
            caption=torch.tensor([self.captions[p] for p in places]),
            negative_caption=torch.tensor([self.negatives[p] for p in places]),
        )

    def _tokens(self, texts: Sequence[str]) -> Inputs:
        chosen = torch.tensor([self.place[text] for text in texts])
        inputs = {name: value[chosen] for name, value in self.tokens.items()}
        if "attention_mask" in inputs:  # padding behind the longest of these
            length = int(inputs["attention_mask"].sum(dim=1).max())
            inputs = {name: value[:, :length] for name, value in inputs.items()}
        return inputs


class Loader:
    """Batches for one process, a list of `accum_freq` to be contrasted together.

    Args:
        collate: prepares rows.
        batch_size: of one process and one forward pass.
        accum_freq: how many of them are contrasted together.
        rank, processes: this process's number, and how many there are.
        workers: processes that prepare batches ahead of time.
        pin: put batches where a GPU can fetch them.
    """

    def __init__(
        self,
        collate: Collate,
        *,
        batch_size: int,
        accum_freq: int,
        rank: int,
        processes: int,
        workers: int,
        pin: bool,
    ) -> None:
        self.collate = collate
        self.batch_size, self.accum_freq = batch_size, accum_freq
        self.rank, self.processes = rank, processes
        self.workers, self.pin = workers, pin

    def steps(self, epoch: int, batches: Iterable[Sequence[int]]) -> Iterator[list[Batch]]:
        """This process's part of some steps of an epoch, each given as the rows of all processes.

        Raises:
            UnreadableRowImageError: an image does not decode.
        """
        own = self.batch_size * self.accum_freq
        step: list[Batch] = []
        for batch in self.load(epoch, [rows[self.rank * own : (self.rank + 1) * own] for rows in batches]):
            step.append(batch)
            if len(step) == self.accum_freq:
                yield step
                step = []

    def load(self, epoch: int, rows: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """All of the `rows` in the order that they come in, at most `batch_size` of a list at once.

        Raises:
            UnreadableRowImageError: an image does not decode.
        """
        size = self.batch_size
        requests = [(epoch, list(part[i : i + size])) for part in rows for i in range(0, len(part), size)]
        loader: DataLoader[Any] = DataLoader(
            requests,  # type: ignore[arg-type]
            batch_size=None,
            shuffle=False,
            num_workers=self.workers,
            collate_fn=self.collate,  # type: ignore[arg-type]
            pin_memory=self.pin,
            # the order of rows is the sampler's; the loader must not use up random numbers
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, UnreadableRowImageError):
                raise batch
            yield batch
