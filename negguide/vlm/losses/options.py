"""What can be combined with every softmax loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from negguide.vlm.losses.mixing import Mixing


@dataclass(frozen=True, eq=False)
class Options:
    """What is known of the rows of a batch, and how a loss is to treat them; N rows, of which n are this process's own.

    Attributes:
        rows: this process's own rows.
        source: int64 [N]; rows of one image have one number, and each is a positive of the others.
        caption, negative_caption: int64 [N]; equal sentences have one number. An equal caption is a positive, and a
            negative caption that says the same as the caption of another row is no negative of that row.
        group: int64 [N]; rows with one number are of the same group: similar to the teacher, and yet never false
            negatives.
        positive_text: [N, D], a paraphrase of each caption (a hard positive), where `has_positive` [N].
        has_positive: bool [N].
        teacher_image, teacher_text: [N, D], features of a model that is not being trained, for the next two.
        continuous: every text is a positive of every image as far as its own image is similar to that image (CWCL,
            arXiv 2309.14580).
        false_negative_fraction: with it, a text or image of another row whose similarity exceeds this fraction of the
            positive's is taken for a false negative; None: none is. See
            `negguide.vlm.losses.masks.false_negatives`.
        false_negative_weight: the weight that a false negative keeps, from 0 (masked) to 1.
        smoothing: of the labels, in [0, 1).
        focal: exponent of the focal factor; 0 is the plain loss.
        dice: the Dice loss in the place of the cross entropy; see `negguide.vlm.losses.info_nce.info_nce`.
        mixing: synthetic hard negatives in feature space.

    Raises:
        ValueError: an option without the teacher's features that it needs, or options that exclude each other.
    """

    rows: slice = field(default_factory=lambda: slice(None))
    source: Tensor | None = None
    caption: Tensor | None = None
    negative_caption: Tensor | None = None
    group: Tensor | None = None
    positive_text: Tensor | None = None
    has_positive: Tensor | None = None
    teacher_image: Tensor | None = None
    teacher_text: Tensor | None = None
    continuous: bool = False
    false_negative_fraction: float | None = None
    false_negative_weight: float = 0.0
    smoothing: float = 0.0
    focal: float = 0.0
    dice: bool = False
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        fraction = self.false_negative_fraction
        if self.teacher_image is None and self.continuous:
            raise ValueError(
                "continuous=True needs teacher_image: the features that say how similar two images are"
            )
        if (self.teacher_image is None or self.teacher_text is None) and fraction is not None:
            raise ValueError(
                f"false_negative_fraction={fraction} needs teacher_image and teacher_text, the features that are "
                "compared"
            )
        if self.continuous and (self.focal or self.dice or fraction is not None):
            raise ValueError(
                "continuous=True goes with neither focal, dice nor false_negative_fraction: it has no single positive"
            )
        if self.dice and self.smoothing:
            raise ValueError(
                f"dice=True has no labels that smoothing={self.smoothing} could smooth; leave one out"
            )


PLAIN = Options()
"""Nothing known, nothing asked for: the loss as it is published."""
