"""What a training run is told, checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from negguide.embedded import TOYWORLD

PRECISIONS: Mapping[str, Literal["no", "fp16", "bf16"]] = {"fp32": "no", "amp": "fp16", "amp_bf16": "bf16"}
"""open_clip's names, and accelerate's."""
LOSSES: Mapping[str, tuple[str, ...]] = {
    "clip": (),
    "siglip": (),
    "negclip": ("negative_caption",),
    "negimage": ("negative_image",),
    "triplet": ("negative_caption", "negative_image"),
    "conclip": ("negative_caption", "negative_image"),
    "negsiglip": ("negative_caption", "negative_image"),
    "grouped": ("negative_caption", "negative_image"),
}
"""What can be minimised, and which columns of the set it needs besides image and caption."""
SIGMOID = ("siglip", "negsiglip")


def default_lr(model: str) -> float:
    """The peak learning rate that suits a model: a small one learns faster."""
    return 1e-4 if model == TOYWORLD else 1e-5


@dataclass(frozen=True)
class Settings:
    """How to fine-tune; names are open_clip's where it has them.

    Attributes:
        train_data: the set, as `negguide.vlm.reading.read_triplets` takes it.
        model: "toyworld", a folder or a hub id.
        loss: a key of `LOSSES`; "grouped" is "clip" on batches of siblings.
        images: where the files that a JSON or TSV names are; None = beside it.
        batch_size: rows of one process in one forward pass.
        accum_freq: forward passes that are contrasted together (with cached gradients), so one optimiser step sees
            batch_size * accum_freq * processes rows.
        precision: fp32, amp (float16) or amp_bf16.
        lr: peak learning rate, reached after ``warmup`` steps and lowered to zero along a cosine.
        wd: weight decay of matrices.
        warmup: in steps; None = a tenth of all.
        epochs: passes over the set.
        train_num_samples: rows that make an epoch, a new choice each; None = all.
        grad_clip_norm: longest gradient; 0 = any.
        grad_checkpointing: compute activations again instead of keeping them.
        lock_image, lock_text: leave one tower as it is.
        lora: rank of low-rank updates; 0 = the weights themselves.
        wise_ft: share of the tuned weights in the result, the rest being the start model's; 1 = all.
        distill: weight of `negguide.vlm.losses.distill`; a curriculum comes before it.
        rank_margin: of `negguide.vlm.losses.rank_margin`, in cosine; 0 = without.
        rank_weight: of that loss.
        smoothing, focal: of the softmax losses.
        paraphrases: take the set's positive captions as further positives.
        continuous: CWCL's weights, by the start model's image features.
        false_negative_share: see `negguide.vlm.contrast.Options.share`; by the start model's features.
        false_negative_weight: what a false negative keeps.
        mix_pairs, mix_queries, mix_hardest: see `negguide.vlm.mixing.Mixing`; no pairs and no queries = no mixing.
        group_size, group_share: of `negguide.vlm.sampler.GroupSampler`.
        curriculum: categories of negatives, with commas, trained on at first, beside plain pairs; "" = none.
        curriculum_epochs: how many epochs hold them alone, as many steps as any other epoch.
        val_share: of the images that are held out to choose the best state by.
        val_every: epochs between two validations.
        save_every: steps between two checkpoints; 0 = at the end of every epoch.
        workers: processes that open images ahead of time.
        seed: of the order of rows and of everything else that is drawn.
    """

    train_data: str
    model: str = "toyworld"
    loss: str = "triplet"
    images: str | None = None
    batch_size: int = 64
    accum_freq: int = 1
    precision: str = "fp32"
    lr: float = 1e-5
    wd: float = 0.1
    warmup: int | None = None
    epochs: int = 5
    train_num_samples: int | None = None
    grad_clip_norm: float = 1.0
    grad_checkpointing: bool = False
    lock_image: bool = False
    lock_text: bool = False
    lora: int = 0
    wise_ft: float = 1.0
    distill: float = 0.0
    rank_margin: float = 0.0
    rank_weight: float = 1.0
    smoothing: float = 0.0
    focal: float = 0.0
    paraphrases: bool = False
    continuous: bool = False
    false_negative_share: float | None = None
    false_negative_weight: float = 0.0
    mix_pairs: int = 0
    mix_queries: int = 0
    mix_hardest: int = 32
    group_size: int = 2
    group_share: float = 0.5
    curriculum: str = ""
    curriculum_epochs: int = 1
    val_share: float = 0.1
    val_every: int = 1
    save_every: int = 0
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r} is not known; use one of {', '.join(LOSSES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        for name, least in (
            *(("batch_size", 1), ("accum_freq", 1), ("epochs", 1), ("val_every", 1), ("group_size", 2)),
            ("curriculum_epochs", 1),
            *(("lora", 0), ("save_every", 0), ("workers", 0), ("mix_pairs", 0), ("mix_queries", 0)),
            *(
                ("mix_hardest", 1),
                ("wd", 0),
                ("grad_clip_norm", 0),
                ("distill", 0),
                ("rank_weight", 0),
                ("focal", 0),
            ),
        ):
            self._in_range(name, least)
        if self.warmup is not None:
            self._in_range("warmup", 0)
        if self.train_num_samples is not None:
            self._in_range("train_num_samples", 1)
        self._in_range("rank_margin", 0, 2)
        self._in_range("wise_ft", 0, 1)
        self._in_range("false_negative_weight", 0, 1)
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be above 0")
        for name in ("smoothing", "val_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        share = self.false_negative_share
        if share is not None and share <= 0:
            raise ValueError(
                f"false_negative_share={share} must be above 0; at 0.95, what is 95% as similar as the pair"
            )
        self._check_together()

    @property
    def columns(self) -> tuple[str, ...]:
        """Which negatives are read."""
        if LOSSES[self.loss] or not self.rank_margin:
            return LOSSES[self.loss]
        return ("negative_caption",)

    @property
    def first_categories(self) -> tuple[str, ...]:
        """Whose negatives are trained on alone at first."""
        return tuple(name.strip() for name in self.curriculum.split(",") if name.strip())

    @property
    def guided(self) -> bool:
        """Whether the start model looks at every batch."""
        return bool(self.distill) or self.continuous or self.false_negative_share is not None

    @property
    def mixing(self) -> bool:
        return bool(self.mix_pairs or self.mix_queries)

    def _in_range(self, name: str, least: float, most: float | None = None) -> None:
        value = getattr(self, name)
        if value < least or (most is not None and value > most):
            end = "" if most is None else f" and at most {most}"
            raise ValueError(f"{name}={value} must be at least {least}{end}")

    def _check_together(self) -> None:
        if self.lock_image and self.lock_text:
            raise ValueError(
                "lock_image and lock_text together leave nothing to train; lock one tower or none"
            )
        softmax = {
            "smoothing": self.smoothing,
            "focal": self.focal,
            "paraphrases": self.paraphrases,
            "continuous": self.continuous,
            "mix_pairs or mix_queries": self.mixing,
        }
        given = [name for name, value in softmax.items() if value]
        if self.loss in SIGMOID and given:
            raise ValueError(f"loss={self.loss!r} has no {', '.join(given)}: they are of the softmax losses")
        if self.continuous and (self.focal or self.false_negative_share is not None):
            raise ValueError(
                "continuous goes with neither focal nor false_negative_share: it has no single positive"
            )
        if self.loss == "grouped" and self.rank_margin:
            raise ValueError(
                "rank_margin compares a row with its own negative, and the rows of loss='grouped' are plain pairs; "
                "use loss='triplet'"
            )
        if self.curriculum and not self.first_categories:
            raise ValueError(
                f"curriculum={self.curriculum!r} names no category; give one, or several with commas"
            )
        if self.curriculum_epochs != 1 and not self.curriculum:
            raise ValueError(f"curriculum_epochs={self.curriculum_epochs} has no meaning without curriculum")
        if self.curriculum and self.curriculum_epochs >= self.epochs:
            raise ValueError(
                f"curriculum_epochs={self.curriculum_epochs} of epochs={self.epochs} leaves none for the whole set; "
                f"give fewer, or more epochs"
            )
        size = self.batch_size * self.accum_freq
        if self.loss == "grouped" and size < self.group_size:
            raise ValueError(
                f"batch_size={size} is smaller than a group of {self.group_size}; give at least as many"
            )
