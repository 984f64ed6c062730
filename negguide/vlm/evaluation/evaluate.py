"""Measure a CLIP-like model on suites.

model = load_model("toyworld")
results = evaluate(model, [make_suite("toyworld"), make_suite("winoground:PATH")])
results.row("toyworld", "group").value
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from negguide.vlm.evaluation import BATCH_SIZE
from negguide.vlm.evaluation.metrics import (
    choice_correct,
    group_correct,
    hard_positives_correct,
    image_correct,
    macro,
    mean,
    proportion,
    retrieved,
    text_correct,
)
from negguide.vlm.evaluation.results import ALL, PARAPHRASE_FAILURES, PARAPHRASE_GAP, Results, Row
from negguide.vlm.evaluation.suites.base import Choices, Pairs, Part, Retrieval, Suite, ZeroShot
from negguide.vlm.evaluation.suites.registry import make_suite
from negguide.vlm.models import VisionLanguageModel

__all__ = ["Results", "Row", "evaluate", "make_suite", "pair_scores"]

RETRIEVED = (1, 5)


def evaluate(
    model: VisionLanguageModel,
    suites: Sequence[Suite],
    *,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Results:
    """All figures of `model` on `suites`; nothing is random.

    The metrics, in the order of their columns:

    - pairs: `text`, `image` and `group` (Winoground's); with paraphrases also `hard positives` (the caption and
      all its paraphrases above the negative caption), `paraphrase failures` (the caption above it, but not all its
      paraphrases) and `paraphrase gap` (mean cosine of the caption minus that of its paraphrases);
    - choices: `accuracy` and, where it is the suite's published figure, `mean of categories`;
    - retrieval: `text to image R@1`, `R@5` and the same from image to text;
    - zero-shot: `accuracy`.

    Args:
        model: from `load_model`; it is put in evaluation mode for the time of the call.
        suites: from `make_suite`; different names.
        batch_size: of images; texts go four times as many at once.
        limit: what the suites were made with, to be noted in the results.
        progress: called with the name of each part before it is evaluated.

    Raises:
        ValueError: two suites of one name, a text that the model's tokenizer cannot read, or features that are not
            finite: such a model scores nothing, and has no figures.
    """
    names = [suite.name for suite in suites]
    if len(set(names)) != len(names):
        raise ValueError(f"suites {names} have a name twice; their figures could not be told apart")
    training = model.model.training
    model.model.eval()
    rows: list[Row] = []
    notes: list[str] = []
    try:
        for suite in suites:
            if suite.part:
                notes.append(f"{suite.name}: {suite.part}; the images of the others are missing")
            for part_name, part in suite.parts.items():
                name = f"{suite.name}/{part_name}" if part_name else suite.name
                progress(name)
                cut = sum(model.truncated(distinct := list(dict.fromkeys(_texts(part)))))
                if cut:
                    notes.append(
                        f"{name}: {cut} of {len(distinct)} texts are longer than {model.max_tokens} tokens; "
                        f"their end was cut off"
                    )
                rows += _measure(model, name, part, batch_size)
    finally:
        model.model.train(training)
    return Results(
        model.name,
        model.revision,
        tuple(rows),
        {suite.name: suite.version for suite in suites},
        limit,
        {suite.name: suite.part for suite in suites if suite.part},
        tuple(notes),
    )


def pair_scores(model: VisionLanguageModel, part: Pairs, batch_size: int = BATCH_SIZE) -> Tensor:
    """Cosines [N, 2, 2] of each item's images (rows) and captions (columns).

    Raises:
        ValueError: features are not finite.
    """
    images = _image_features(model, part, batch_size, "these pairs")
    captions = _TextFeatures(
        model, [c for item in part.items for c in item.captions], batch_size, "these pairs"
    )
    return _pair_scores(images, captions, part)


def _measure(model: VisionLanguageModel, name: str, part: Part, batch_size: int) -> list[Row]:
    images = _image_features(model, part, batch_size, name)
    texts = _TextFeatures(model, _texts(part), batch_size, name)
    match part:
        case Pairs():
            return _measure_pairs(name, part, images, texts)
        case Choices():
            return _measure_choices(name, part, images, texts)
        case Retrieval():
            return _measure_retrieval(name, part, images, texts)
        case ZeroShot():
            return _measure_zero_shot(name, part, images, texts)


def _image_features(model: VisionLanguageModel, part: Part, batch_size: int, suite: str) -> Tensor:
    return _finite(model.encode_images(part.images, batch_size), model.name, suite, "images")


def _finite(features: Tensor, model: str, suite: str, what: str) -> Tensor:
    """The features [N, D], which must be numbers: comparisons with NaN would count as right or wrong by chance."""
    broken = int((~features.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"model={model!r} gives features that are not finite (NaN or infinite) for {broken} of {len(features)} "
            f"{what} of {suite}; its weights are broken, or its precision is too low"
        )
    return features


class _TextFeatures:
    """Features of texts, each encoded once."""

    def __init__(self, model: VisionLanguageModel, texts: Sequence[str], batch_size: int, suite: str) -> None:
        distinct = list(dict.fromkeys(texts))
        self.features = _finite(model.encode_texts(distinct, 4 * batch_size), model.name, suite, "texts")
        self.places = {text: place for place, text in enumerate(distinct)}

    def of(self, texts: Sequence[str]) -> Tensor:
        """[len(texts), D]."""
        return self.features[[self.places[text] for text in texts]]


def _texts(part: Part) -> list[str]:
    match part:
        case Pairs():
            return [text for item in part.items for text in (*item.captions, *item.paraphrases)]
        case Choices():
            return [text for item in part.items for text in item.options]
        case Retrieval():
            return list(part.captions)
        case ZeroShot():
            return [text for texts in part.prompts for text in texts]


def _pair_scores(images: Tensor, texts: _TextFeatures, part: Pairs) -> Tensor:
    both_images = torch.stack([images[[item.images[i] for item in part.items]] for i in (0, 1)], dim=1)
    both_captions = torch.stack([texts.of([item.captions[i] for item in part.items]) for i in (0, 1)], dim=1)
    return both_images @ both_captions.mT


def _measure_pairs(name: str, part: Pairs, images: Tensor, texts: _TextFeatures) -> list[Row]:
    scores = _pair_scores(images, texts, part)
    categories = [item.category for item in part.items]
    rows: list[Row] = []
    for metric, correct in (
        ("text", text_correct(scores)),
        ("image", image_correct(scores)),
        ("group", group_correct(scores)),
    ):
        rows += _by_category(name, metric, correct, categories)
    reworded = [place for place, item in enumerate(part.items) if item.paraphrases]
    if not reworded:
        return rows
    most = max(len(part.items[place].paraphrases) for place in reworded)
    others = torch.full((len(reworded), most), torch.inf)
    for line, place in enumerate(reworded):
        item = part.items[place]
        others[line, : len(item.paraphrases)] = texts.of(item.paraphrases) @ images[item.images[0]]
    caption, negative = scores[reworded, 0, 0], scores[reworded, 0, 1]
    right = hard_positives_correct(caption, others, negative)
    rows += _by_category(name, "hard positives", right, [categories[place] for place in reworded])
    rows.append(Row.of(name, PARAPHRASE_FAILURES, ALL, proportion((caption > negative) & ~right)))
    present = others.isfinite()
    wordings = torch.where(present, others, 0).sum(dim=1) / present.sum(dim=1)
    rows.append(Row.of(name, PARAPHRASE_GAP, ALL, mean(caption - wordings)))
    return rows


def _measure_choices(name: str, part: Choices, images: Tensor, texts: _TextFeatures) -> list[Row]:
    most = max(len(item.options) for item in part.items)
    scores = torch.full((len(part.items), most), -torch.inf)
    for line, item in enumerate(part.items):
        scores[line, : len(item.options)] = texts.of(item.options) @ images[item.image]
    correct = choice_correct(scores, torch.tensor([item.answer for item in part.items]))
    categories = [item.category for item in part.items]
    rows = _by_category(name, "accuracy", correct, categories)
    if part.macro is not None:
        enough = {c for c in categories if categories.count(c) >= part.macro} - part.left_out
        kept = [place for place, category in enumerate(categories) if category in enough]
        if kept:
            estimate = macro(correct[kept], [categories[place] for place in kept])
            rows.append(Row.of(name, "mean of categories", ALL, estimate))
    return rows


def _measure_retrieval(name: str, part: Retrieval, images: Tensor, texts: _TextFeatures) -> list[Row]:
    scores = texts.of(part.captions) @ images.T
    relevant = torch.zeros(scores.shape, dtype=torch.bool)
    relevant[torch.arange(len(part.captions)), torch.tensor(part.owners)] = True
    ways = [("text to image", scores, relevant)]
    if part.both:
        ways.append(("image to text", scores.T, relevant.T))
    return [
        Row.of(name, f"{way} R@{k}", ALL, proportion(retrieved(values, truth, k)))
        for way, values, truth in ways
        for k in RETRIEVED
    ]


def _measure_zero_shot(name: str, part: ZeroShot, images: Tensor, texts: _TextFeatures) -> list[Row]:
    classes = torch.stack([texts.of(prompts).mean(dim=0) for prompts in part.prompts])
    scores = images @ torch.nn.functional.normalize(classes, dim=-1).T
    return [Row.of(name, "accuracy", ALL, proportion(choice_correct(scores, torch.tensor(part.labels))))]


def _by_category(name: str, metric: str, correct: Tensor, categories: Sequence[str]) -> list[Row]:
    rows = [Row.of(name, metric, ALL, proportion(correct))]
    distinct = list(dict.fromkeys(categories))
    if len(distinct) > 1:
        for category in distinct:
            chosen = torch.tensor([c == category for c in categories])
            rows.append(Row.of(name, metric, category, proportion(correct[chosen])))
    return rows
