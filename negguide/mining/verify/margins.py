"""The 2x2 of scores of a pair, what gives them, and when the pair is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

COMPARISONS = (
    ("the original image shows the negative caption", 0, 1),
    ("the negative image does not show the negative caption", 3, 1),
    ("the negative image shows the original caption as well as the original image does", 0, 2),
    ("the negative image shows the original caption", 3, 2),
)
"""What is wrong when (the cell that must win, the cell that must lose) are not in this order; the cells are 0 (I, T),
1 (I, T-), 2 (I-, T), 3 (I-, T-)."""


@dataclass(frozen=True)
class Margins:
    """When one score is enough above another; the knobs are named as in sentence-transformers' `mine_hard_negatives`.

    Attributes:
        absolute_margin: least positive - negative; at 0 the positive must still be greater.
        relative_margin: the negative must be at most (1 - relative_margin) * positive; None = no such limit.
        max_score: the negative must be at most this; None = no such limit.

    Raises:
        ValueError: a value outside [0, 1].
    """

    absolute_margin: float = 0.0
    relative_margin: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        for name in ("absolute_margin", "relative_margin", "max_score"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be from 0 to 1, as the scores are")

    def hold(self, positive: float, negative: float) -> bool:
        """Whether ``positive`` is enough above ``negative``; never with a score that is no number."""
        return (
            math.isfinite(positive)
            and positive > negative
            and positive - negative >= self.absolute_margin
            and (self.relative_margin is None or negative <= positive * (1 - self.relative_margin))
            and (self.max_score is None or negative <= self.max_score)
        )

    def objections(self, scores: tuple[float, float, float, float]) -> list[str]:
        """What is wrong with a pair by its four scores, as phrases of ``COMPARISONS``; empty when it is kept."""
        return [reason for reason, win, lose in COMPARISONS if not self.hold(scores[win], scores[lose])]


class PairJudge(Protocol):
    """Scores pairs.

    Attributes:
        name: as it stands in the items, e.g. "clip:openai/clip-vit-base-patch32".
        model: the id or folder of its weights, to tell it from the model to be trained.
        margins: what suits its scores unless the user says otherwise.
    """

    name: str
    model: str
    margins: Margins

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """[n] in [0, 1]: score i is of image i with caption i; NaN where it cannot read the caption."""
        ...
