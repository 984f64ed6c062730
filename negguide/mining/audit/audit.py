"""Audit a set: which tells it has, what it holds twice, and what is left of it when the tells are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from negguide.image_files import UnreadableImageError
from negguide.mining.audit.duplicates import Duplicates, Reference, find_duplicates, read_reference
from negguide.mining.audit.images import COMPARISONS, image_probes, vision_features
from negguide.mining.audit.language_model import load_tokenizer, plausibilities
from negguide.mining.audit.looks import Look, look_at
from negguide.mining.audit.pairs import Pair, read_pairs
from negguide.mining.audit.probes import FEWEST, FOLDS, OVERALL, Probe, Verdict, judge
from negguide.mining.audit.rebalance import Balance, rebalance
from negguide.mining.audit.text import text_probes
from negguide.mining.settings import IMAGE_SAMPLE
from negguide.mining.shards import is_half_made
from negguide.mining.sources.source import Ids
from negguide.models import transformers_revision
from negguide.storage import ImageFile, location, on_this_machine

Verdicts = dict[str, Verdict]
CONTROLS, SYNTHETIC = "control and negative", "original and control"


@dataclass(frozen=True)
class Findings:
    """What the probes found in one choice of pairs.

    Attributes:
        pairs: how many.
        families: how many of each.
        text: verdict by probe.
        images: by comparison, verdict by probe; a comparison that no pair has the images for is left out.
    """

    pairs: int
    families: Mapping[str, int]
    text: Verdicts
    images: Mapping[str, Verdicts]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "pairs": self.pairs,
            "families": dict(self.families),
            "text": {name: verdict.to_dict() for name, verdict in self.text.items()},
            "images": {
                comparison: {name: verdict.to_dict() for name, verdict in verdicts.items()}
                for comparison, verdicts in self.images.items()
            },
        }


@dataclass(frozen=True)
class Audit:
    """Everything that an audit found, and how it was made.

    Attributes:
        settings: of the audit.
        mined: of the set as it is.
        rebalanced: of the choice in ``balance``; ``None`` without rebalancing.
        unreadable: image to why it could not be opened.
        skipped: what was not tried, and what it would need.
        half_made: `negguide mine` has not made the whole set yet.
        half_made_references: evaluation sets of which the same is true.
    """

    settings: Mapping[str, Any]
    mined: Findings
    duplicates: Duplicates
    rebalanced: Findings | None = None
    balance: Balance | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    half_made: bool = False
    half_made_references: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the report of an audit is stored so."""
        duplicates = self.duplicates
        return {
            "settings": dict(self.settings),
            "mined": self.mined.to_dict(),
            "rebalanced": None if self.rebalanced is None else self.rebalanced.to_dict(),
            "dropped": None if self.balance is None else dict(self.balance.dropped),
            "exchanged": None if self.balance is None else sorted(self.balance.exchanged),
            "duplicates": {
                "texts": duplicates.texts,
                "images": duplicates.images,
                "captions in": duplicates.leaked_captions,
                "images in": duplicates.leaked_images,
            },
            "unreadable images": dict(self.unreadable),
            "not done": list(self.skipped),
            "not complete": {"set": self.half_made, "against": list(self.half_made_references)},
        }


def audit(
    path: Path | str,
    *,
    images: Path | str | None = None,
    against: Sequence[Path | str] = (),
    tokenizer: str | None = None,
    language_model: str | None = None,
    features: str | None = None,
    image_sample: int = IMAGE_SAMPLE,
    balance: bool = False,
    rendered: bool = False,
    device: str = "cpu",
) -> Audit:
    """Audit the set in ``path``; nothing is written.

    Args:
        path, images: as `read_pairs` takes them.
        against: sets that models are evaluated on, as `read_reference` takes them.
        tokenizer: whose tokens are counted: "toyworld", a folder, or a hub id.
        language_model: whose plausibility is tried: a folder or a hub id of a causal language model.
        features: whose features are tried on images: "toyworld", a folder, or a hub id.
        image_sample: at most so many pairs, evenly spread over the set, are used for the image-only probes.
        balance: also choose the pairs of which no probe of the captions, and none of controls against negatives,
            tells the negatives. Items found in ``against`` are dropped first.
        rendered: in that choice, rendered originals stand in for the originals; items without one are dropped.
        device: of the models.

    Raises:
        ValueError: an argument is wrong, nothing can be read, or the set is too small to be judged.
    """
    if image_sample < FEWEST:
        raise ValueError(f"image_sample={image_sample} is too small; use at least {FEWEST}")
    if rendered and not balance:
        raise ValueError("rendered=True is about rebalancing; use it with balance=True")
    # asked before it is read: a run that ends meanwhile has made shards that were not read
    half_made = is_half_made(location(path))
    pairs = read_pairs(path, images)
    if rendered and not any(pair.exchangeable for pair in pairs):
        raise ValueError(f"rendered=True needs rendered originals (controls), and {path} has none")
    if not large_enough(pairs):
        sources = len({pair.source for pair in pairs})
        raise ValueError(
            f"{path} holds {len(pairs)} pairs from {sources} sources, too few to be judged; "
            f"at least {FEWEST} pairs from {FOLDS} sources are needed"
        )
    references = _told_apart([read_reference(reference) for reference in against])
    tokenize = None if tokenizer is None else load_tokenizer(tokenizer)
    texts = [text for pair in pairs for text in (pair.caption, pair.negative_caption)]
    plausible = None if language_model is None else plausibilities(texts, language_model, device=device)
    looks, unreadable = _look_at_all(pairs, references)
    sampled = _sampled(pairs, looks, image_sample)
    embedded = None if features is None else vision_features(list(sampled), features, device=device)

    def probes_of_text(chosen: Sequence[Pair]) -> list[Probe]:
        return text_probes(chosen, tokenize, plausible)

    def probes_of_images(chosen: Sequence[Pair], comparison: str) -> list[Probe]:
        return image_probes(chosen, sampled, comparison, embedded)

    def findings(chosen: Sequence[Pair]) -> Findings:
        return Findings(
            len(chosen),
            dict(sorted(Counter(pair.family for pair in chosen).items())),
            _verdicts(chosen, probes_of_text(chosen)),
            {
                comparison: verdicts
                for comparison in COMPARISONS
                if (
                    verdicts := _verdicts(
                        chosen, probes_of_images(chosen, comparison), comparison != SYNTHETIC
                    )
                )
            },
        )

    mined = findings(pairs)
    duplicates = find_duplicates(pairs, looks, references)
    chosen = None
    if balance:
        chosen = rebalance(
            pairs,
            lambda some: probes_of_text(some) + probes_of_images(some, CONTROLS),
            drop=duplicates.leaked,
            rendered=rendered,
        )
    return Audit(
        settings={
            # a report is passed on: where things lie on this machine is not in it
            "set": _name(path),
            "images": None if images is None else _name(images),
            "against": [reference.name for reference in references],
            "tokenizer": _without_place(tokenizer),
            "language_model": _without_place(language_model),
            "features": _without_place(features),
            # after they were loaded: those of the hub are in its cache then
            "revisions": {
                option: transformers_revision(name)
                for option, name in {
                    "tokenizer": tokenizer,
                    "language_model": language_model,
                    "features": features,
                }.items()
                if name is not None
            },
            "image_sample": image_sample,
            "rebalance": balance,
            "rendered": rendered,
        },
        mined=mined,
        duplicates=duplicates,
        # a set without tells is kept as it is
        rebalanced=None
        if chosen is None
        else (mined if chosen.kept == tuple(pairs) else findings(chosen.kept)),
        balance=chosen,
        unreadable={
            _seen_from(file, location(path), location(images or path)): why
            for file, why in unreadable.items()
        },
        skipped=_skipped(pairs, tokenizer, language_model, features),
        half_made=half_made,
        half_made_references=tuple(reference.name for reference in references if reference.half_made),
    )


def _told_apart(references: Sequence[Reference]) -> list[Reference]:
    """The references with different names, by which what is found in them is told: of equal ones the second is "#2"."""
    ids = Ids()
    return [replace(reference, name=ids(reference.name)) for reference in references]


def large_enough(pairs: Sequence[Pair]) -> bool:
    """Whether so many pairs, of so many sources, can be judged."""
    return len(pairs) >= FEWEST and len({pair.source for pair in pairs}) >= FOLDS


def _verdicts(pairs: Sequence[Pair], probes: Sequence[Probe], by_family: bool = True) -> Verdicts:
    sources = [pair.source for pair in pairs]
    families = [pair.family for pair in pairs] if by_family else []
    verdicts = {probe.name: judge(probe, sources, families) for probe in probes}
    return {name: verdict for name, verdict in verdicts.items() if OVERALL in verdict.accuracies}


def _look_at_all(
    pairs: Sequence[Pair], references: Sequence[Reference]
) -> tuple[dict[ImageFile, Look], dict[ImageFile, str]]:
    paths = dict.fromkeys(path for pair in pairs for path in pair.images)
    paths |= dict.fromkeys(path for reference in references for path in reference.images)
    looks: dict[ImageFile, Look] = {}
    unreadable: dict[ImageFile, str] = {}
    for path in tqdm(paths, desc="looking at images", leave=False, disable=None):
        try:
            looks[path] = look_at(path)
        except UnreadableImageError as error:
            unreadable[path] = f"it cannot be decoded: {str(error).removeprefix(f'{path}: ')}"
        except OSError as error:
            unreadable[path] = error.strerror or "it cannot be read"
    return looks, unreadable


def _name(folder: Path | str) -> str:
    place = location(folder)
    return place.resolve().name if on_this_machine(place) else place.name


def _without_place(value: str | None) -> str | None:
    """The name of what lies in a folder or file; what is no path on this machine stays."""
    if value is None or not Path(value).expanduser().exists():
        return value
    return Path(value).expanduser().resolve().name


def _seen_from(file: ImageFile, *roots: Path) -> str:
    """A file as seen from the first of ``roots`` that holds it, or its name."""
    whole = str(file.resolve()) if isinstance(file, Path) else str(file)
    for root in roots:
        above = str(root.resolve() if on_this_machine(root) else root).rstrip("/") + "/"
        if whole.startswith(above):
            return whole.removeprefix(above)
    return file.name


def _sampled(pairs: Sequence[Pair], looks: Mapping[ImageFile, Look], most: int) -> dict[ImageFile, Look]:
    """The looks of at most ``most`` pairs, evenly spread over the set."""
    places = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))
    chosen = (pairs[int(place)] for place in places)
    return {path: looks[path] for pair in chosen for path in pair.images if path in looks}


def _skipped(
    pairs: Sequence[Pair], tokenizer: str | None, language_model: str | None, features: str | None
) -> tuple[str, ...]:
    """What was not tried, and what it would need."""
    lines = []
    if tokenizer is None:
        lines.append("tokens: name a tokenizer with --tokenizer")
    if language_model is None:
        lines.append("plausibility: name a language model with --language-model")
    if not any(pair.image and pair.negative_image for pair in pairs):
        lines.append("image-only probes: the set has no negative images (or --images was not given)")
    else:
        if features is None:
            lines.append("features of a vision model: name one with --features")
        if not any(pair.control for pair in pairs):
            lines.append("controls: the set has no rendered originals")
    return tuple(lines)
