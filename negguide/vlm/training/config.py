"""What a training run is told, checked at once; the command line is made from it.

Every setting stands once, with its default, what it means and its range. It may import nothing heavy: the help of the
command line reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from negguide.domain import clip_of, default_domain

if TYPE_CHECKING:
    from negguide.vlm.losses.registry import Loss

PRECISIONS: Mapping[str, Literal["no", "fp16", "bf16"]] = {"fp32": "no", "amp": "fp16", "amp_bf16": "bf16"}
"""open_clip's names, and accelerate's."""

TRAINING, FORGETTING, LOSS = "Training", "Against forgetting", "Loss"
"""Under which heading the command line lists a setting."""


USUAL_LR = 1e-5
"""The peak learning rate of models that are of no closed world."""
_EMBEDDED = default_domain()
_EMBEDDED_LR = USUAL_LR if _EMBEDDED.clip is None else _EMBEDDED.clip.lr


def default_lr(model: str) -> float:
    """The peak learning rate that suits a model: a small one learns faster."""
    clip = clip_of(model)
    return USUAL_LR if clip is None else clip.lr


def setting(
    default: Any,
    help: str,
    *,
    panel: str | None = None,
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of `Settings`.

    Args:
        default: its value when nothing is said.
        help: what it means, one sentence, for the reference and the command line.
        panel: the heading that the command line lists it under; None = the general one.
        metavar: what stands for its value on the command line.
        least, most: the range of its values, ends included; None stays None, and is not checked.
        above, below: the same, ends not included.
    """
    bounds = {"least": least, "most": most, "above": above, "below": below}
    return field(
        default=default, metadata={"help": help, "panel": panel, "metavar": metavar, "bounds": bounds}
    )


@dataclass(frozen=True)
class Settings:
    """How to fine-tune; names are open_clip's where it has them.

    What each field means and its range stand beside it; `negguide finetune --help` shows the same.

    Args:
        train_data: the set, as `negguide.vlm.data.readers.read_triplets` takes it. All other fields have defaults.

    Raises:
        ValueError: a value out of its range, a name that is not known, or settings that exclude each other.
    """

    train_data: str = field(
        metadata={
            "help": "What to train on: a set that `negguide mine` wrote, a folder with metadata.jsonl, parquet or tar "
            "files, a .parquet or .tar file, a SugarCrepe or COCO .json, a .jsonl, or an open_clip .tsv or .csv.",
            "metavar": "SET",
        }
    )
    model: str = setting(_EMBEDDED.name, 'CLIP or SigLIP: "toyworld", a folder or a hub id.', metavar="MODEL")
    # not the names themselves: losses are found by importing them, which takes seconds
    loss: str = setting(
        "triplet",
        "What is minimised: clip and siglip need no negatives; negclip needs negative captions, negimage negative "
        "images, others such as triplet and grouped both; negsiglip is experimental. A name that is not known is "
        "answered with all of them.",
        metavar="LOSS",
    )
    images: str | None = setting(
        None, "Where the files that a JSON, TSV or CSV names are; default: beside it.", metavar="FOLDER"
    )
    seed: int = setting(0, "Of the order of rows and all that is drawn.")

    epochs: int = setting(5, "Passes over the set.", panel=TRAINING, least=1)
    train_num_samples: int | None = setting(
        None, "Rows that make an epoch, a new choice each; default: all.", panel=TRAINING, least=1
    )
    batch_size: int = setting(64, "Rows of one process in one forward pass.", panel=TRAINING, least=1)
    accum_freq: int = setting(
        1,
        "Forward passes that are contrasted together, with cached gradients: one optimiser step sees batch-size times "
        "this times the processes.",
        panel=TRAINING,
        least=1,
    )
    lr: float | None = setting(
        None,
        f"Peak learning rate, reached after the warm-up and lowered to zero along a cosine; default "
        f"{USUAL_LR:g}, for {_EMBEDDED.name} {_EMBEDDED_LR:g}.",
        panel=TRAINING,
        above=0,
    )
    wd: float = setting(0.1, "Weight decay of matrices.", panel=TRAINING, least=0)
    warmup: int | None = setting(None, "In steps; default: a tenth of all.", panel=TRAINING, least=0)
    grad_clip_norm: float = setting(1.0, "Longest gradient; 0 = any.", panel=TRAINING, least=0)
    precision: str = setting("fp32", "fp32, amp (float16) or amp_bf16.", panel=TRAINING)
    grad_checkpointing: bool = setting(
        False,
        "Compute activations again instead of keeping them: less memory, a third more time.",
        panel=TRAINING,
    )
    torch_compile: bool = setting(
        False,
        "Compile the model's forward and backward pass: minutes at the start, faster steps after them.",
        panel=TRAINING,
    )
    workers: int = setting(0, "Processes that open images ahead of time.", panel=TRAINING, least=0)
    val_fraction: float = setting(
        0.1,
        "Of the images, held out to choose the best checkpoint by; 0 = take the last.",
        panel=TRAINING,
        least=0,
        below=1,
    )
    val_every: int = setting(1, "Epochs between two validations.", panel=TRAINING, least=1)
    save_every: int = setting(
        0,
        "Steps between two checkpoints, beside the end of each epoch; 0 = only then.",
        panel=TRAINING,
        least=0,
    )
    curriculum: str = setting(
        "",
        "Categories of negatives, with commas, that are trained on alone at first, beside plain pairs.",
        panel=TRAINING,
        metavar="CATEGORIES",
    )
    curriculum_epochs: int = setting(
        1, "How many epochs hold them alone, as many steps as any other epoch.", panel=TRAINING, least=1
    )

    refresh_negatives: int | None = setting(
        None,
        "Steps after which the present model scores the rows of as many next steps, and part of every batch is "
        "exchanged for rows, generated negatives among them, that it confuses with the rest; default: never.",
        panel=TRAINING,
        metavar="STEPS",
        least=1,
    )
    refresh_fraction: float = setting(
        0.5, "Of a batch, that a refresh exchanges at most.", panel=TRAINING, above=0, below=1
    )
    refresh_false_negatives: float = setting(
        0.95,
        "Rows of other images that score above this fraction of a pair are held back from a refresh.",
        panel=TRAINING,
        metavar="FRACTION",
        above=0,
    )

    lock_image: bool = setting(
        False, "Leave the image tower as it is: train the text tower alone.", panel=FORGETTING
    )
    lock_text: bool = setting(
        False, "Leave the text tower as it is: train the image tower alone.", panel=FORGETTING
    )
    lora: int = setting(
        0, "Rank of low-rank updates; 0 = the weights themselves.", panel=FORGETTING, metavar="RANK", least=0
    )
    wise_ft: float = setting(
        1.0,
        "Fraction of the tuned weights in the result, the rest being the start model's; 1 = all.",
        panel=FORGETTING,
        metavar="ALPHA",
        least=0,
        most=1,
    )
    distill: float = setting(
        0.0,
        "Hold on to the start model's view of a batch; a curriculum comes before it.",
        panel=FORGETTING,
        metavar="WEIGHT",
        least=0,
    )

    rank_margin: float = setting(
        0.0,
        "Pairs must beat their negatives by it; 0 = off.",
        panel=LOSS,
        metavar="COSINE",
        least=0,
        most=2,
    )
    rank_weight: float = setting(1.0, "Of the rank margin.", panel=LOSS, least=0)
    smoothing: float = setting(0.0, "Of the labels.", panel=LOSS, least=0, below=1)
    focal: float = setting(0.0, "Exponent of the focal factor.", panel=LOSS, metavar="GAMMA", least=0)
    dice: bool = setting(
        False,
        "The Dice loss in the place of the cross entropy: pairs that are right teach less; with focal, less still.",
        panel=LOSS,
    )
    paraphrases: bool = setting(False, "The set's positive captions are further positives.", panel=LOSS)
    continuous: bool = setting(False, "CWCL's weights, by the start model's images.", panel=LOSS)
    false_negative_fraction: float | None = setting(
        None,
        "Other rows more similar than this fraction of the pair (by the start model) are no negatives.",
        panel=LOSS,
        metavar="FRACTION",
        above=0,
    )
    false_negative_weight: float = setting(0.0, "What such a row still counts.", panel=LOSS, least=0, most=1)
    mix_pairs: int = setting(
        0, "Synthetic hard negatives mixed of two hard ones, per query (MoCHi).", panel=LOSS, least=0
    )
    mix_queries: int = setting(0, "The same, of a hard one and the query.", panel=LOSS, least=0)
    mix_hardest: int = setting(32, "Of how many of the hardest they are mixed.", panel=LOSS, least=1)
    group_size: int = setting(2, "Loss grouped: most siblings of a group.", panel=LOSS, least=2)
    group_fraction: float = setting(
        0.5, "Loss grouped: fraction of a batch that is groups.", panel=LOSS, above=0, most=1
    )

    def __post_init__(self) -> None:
        from negguide.vlm.losses.registry import loss_by_name

        kinds = get_type_hints(type(self))
        for entry in fields(self):
            _check_kind(entry.name, getattr(self, entry.name), kinds[entry.name])
        loss = loss_by_name(self.loss)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        for entry in fields(self):
            _check_range(entry.name, getattr(self, entry.name), entry.metadata.get("bounds", {}))
        self._check_loss(loss)
        self._check_curriculum()
        self._check_meaning(loss)
        if self.lock_image and self.lock_text:
            raise ValueError(
                "lock_image and lock_text together leave nothing to train; lock one tower or none"
            )

    def to_dict(self) -> dict[str, Any]:
        """All settings with the learning rate that is meant, as JSON holds them."""
        return asdict(self) | {"lr": self.peak_lr}

    @property
    def peak_lr(self) -> float:
        """`lr`, or what suits the model."""
        return default_lr(self.model) if self.lr is None else self.lr

    @property
    def columns(self) -> tuple[str, ...]:
        """Which negatives are read."""
        from negguide.vlm.losses.registry import loss_by_name

        columns = loss_by_name(self.loss).columns
        return columns if columns or not self.rank_margin else ("negative_caption",)

    @property
    def first_categories(self) -> tuple[str, ...]:
        """Whose negatives are trained on alone at first."""
        return tuple(name.strip() for name in self.curriculum.split(",") if name.strip())

    @property
    def needs_teacher(self) -> bool:
        """Whether the start model looks at every batch."""
        return bool(self.distill) or self.continuous or self.false_negative_fraction is not None

    @property
    def mixing(self) -> bool:
        """Whether synthetic negatives are mixed."""
        return bool(self.mix_pairs or self.mix_queries)

    def _check_loss(self, loss: Loss) -> None:
        softmax = {
            "smoothing": self.smoothing,
            "focal": self.focal,
            "dice": self.dice,
            "paraphrases": self.paraphrases,
            "continuous": self.continuous,
            "mix_pairs or mix_queries": self.mixing,
        }
        given = [name for name, value in softmax.items() if value]
        if given and not loss.softmax:
            raise ValueError(f"loss={self.loss!r} has no {', '.join(given)}: they are of the softmax losses")
        if self.false_negative_fraction is not None:
            given.append("false_negative_fraction")
        if given and not loss.takes_options:
            raise ValueError(
                f"loss={self.loss!r} takes no options, and so no {', '.join(given)}; leave them out"
            )
        if self.continuous and (self.focal or self.dice or self.false_negative_fraction is not None):
            raise ValueError(
                "continuous goes with neither focal, dice nor false_negative_fraction: it has no single positive"
            )
        if self.dice and self.smoothing:
            raise ValueError(
                f"dice has no labels that smoothing={self.smoothing} could smooth; leave one out"
            )
        if loss.siblings and self.rank_margin:
            raise ValueError(
                f"rank_margin compares a row with its own negative, and the rows of loss={self.loss!r} are plain "
                "pairs; use loss='triplet'"
            )
        size = self.batch_size * self.accum_freq
        if loss.siblings and size < self.group_size:
            raise ValueError(
                f"batch_size={size} is smaller than a group of {self.group_size}; give at least as many"
            )

    def _check_curriculum(self) -> None:
        if self.curriculum and not self.first_categories:
            raise ValueError(
                f"curriculum={self.curriculum!r} names no category; give one, or several with commas"
            )
        if self.curriculum and self.curriculum_epochs >= self.epochs:
            raise ValueError(
                f"curriculum_epochs={self.curriculum_epochs} of epochs={self.epochs} leaves none for the whole set; "
                f"give fewer, or more epochs"
            )

    def _check_meaning(self, loss: Loss) -> None:
        """A setting that says more of another one is refused where that one is off."""
        refresh = ("refresh_negatives", self.refresh_negatives is not None)
        groups = ("a loss of siblings, such as loss='grouped'", loss.siblings)
        more_of = {
            "curriculum_epochs": ("curriculum", bool(self.curriculum)),
            "refresh_fraction": refresh,
            "refresh_false_negatives": refresh,
            "val_every": ("val_fraction", bool(self.val_fraction)),
            "rank_weight": ("rank_margin", bool(self.rank_margin)),
            "false_negative_weight": ("false_negative_fraction", self.false_negative_fraction is not None),
            "mix_hardest": ("mix_pairs or mix_queries", self.mixing),
            "group_size": groups,
            "group_fraction": groups,
        }
        for entry in fields(self):
            value = getattr(self, entry.name)
            other, on = more_of.get(entry.name, ("", True))
            if not on and value != entry.default:
                raise ValueError(f"{entry.name}={value} has no meaning without {other}")


def _check_kind(name: str, value: Any, kind: Any) -> None:
    kinds = get_args(kind) or (kind,)
    # every whole number will do for a fraction; True is no number here
    taken = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, taken) or (isinstance(value, bool) and bool not in kinds):
        words = {
            int: "a whole number",
            float: "a number",
            bool: "True or False",
            str: "a text",
            NoneType: "None",
        }
        raise ValueError(f"{name}={value!r} must be {' or '.join(words[one] for one in kinds)}")


def _check_range(name: str, value: Any, bounds: Mapping[str, float | None]) -> None:
    if value is None:
        return
    rules: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "least": ("at least", lambda bound: value >= bound),
        "above": ("above", lambda bound: value > bound),
        "most": ("at most", lambda bound: value <= bound),
        "below": ("below", lambda bound: value < bound),
    }
    known = {rule: bound for rule, bound in bounds.items() if bound is not None}
    if not all(rules[rule][1](bound) for rule, bound in known.items()):
        wanted = " and ".join(
            f"{words} {known[rule]:g}" for rule, (words, _) in rules.items() if rule in known
        )
        raise ValueError(f"{name}={value} must be {wanted}")
