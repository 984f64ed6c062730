"""What a run gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from negguide.vlm.evaluation.results import Results


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        folder: the model, loadable by plain transformers, with README.md, log and curves.
        before, after: the figures of the start model and of the result; None without suites and held-out rows.
        best: the step and the validation score of the checkpoint that was taken; None without validation.
        steps: optimiser steps in all.
        images_seen: how many images went through the model in all these steps, negative ones and those of a further
            epoch included.
        notes: what was found in the set.
        written: whether this process is the one that wrote the folder.
    """

    folder: Path
    before: Results | None
    after: Results | None
    best: tuple[int, float] | None
    steps: int
    images_seen: int
    notes: tuple[str, ...]
    written: bool = True
