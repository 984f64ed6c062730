"""Measure a CLIP-like model on suites.

model = load_model("toyworld")
results = evaluate(model, [make_suite("toyworld"), make_suite("winoground:PATH")])
results.row("toyworld", "group").value
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from negguide.vlm.evaluation import BATCH_SIZE
from negguide.vlm.evaluation.features import Features, cosines, image_features, text_features
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
        ValueError: two suites or parts of one name, a category "all" beside others, a text that the model's tokenizer
            cannot read, or features that are not finite: such a model scores nothing, and has no figures.
    """
    _check(suites)
    training = model.model.training
    model.model.eval()
    rows: list[Row] = []
    notes: list[str] = []
    try:
        for suite in suites:
            if suite.part:
                notes.append(f"{suite.name}: {suite.part}; the images of the others are missing")
            for part_name, part in suite.parts.items():
                name = _name(suite, part_name)
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
    images = image_features(model, part.images, batch_size, "these pairs")
    captions = [caption for item in part.items for caption in item.captions]
    return _pair_scores(images, text_features(model, captions, 4 * batch_size, "these pairs"), part)


def _check(suites: Sequence[Suite]) -> None:
    """Refuse suites that would give two figures of one name."""
    names = [suite.name for suite in suites]
    if len(set(names)) != len(names):
        raise ValueError(f"suites {names} have a name twice; their figures could not be told apart")
    full = [_name(suite, part) for suite in suites for part in suite.parts]
    twice = [name for name, count in Counter(full).items() if count > 1]
    if twice:
        raise ValueError(
            f"suites {names}: {twice[0]!r} is the name of one and of a part of another; give one of them another name"
        )
    for suite in suites:
        for part_name, part in suite.parts.items():
            items = part.items if isinstance(part, Pairs | Choices) else ()
            categories = {item.category for item in items}
            if ALL in categories and len(categories) > 1:
                raise ValueError(
                    f"suite {_name(suite, part_name)!r} has a category {ALL!r}, which is the name of the figure over "
                    f"all items; give the category another name"
                )


def _name(suite: Suite, part: str) -> str:
    """As results list a part."""
    return f"{suite.name}/{part}" if part else suite.name


def _measure(model: VisionLanguageModel, name: str, part: Part, batch_size: int) -> list[Row]:
    images = image_features(model, part.images, batch_size, name)
    texts = text_features(model, _texts(part), 4 * batch_size, name)
    match part:
        case Pairs():
            return _measure_pairs(name, part, images, texts)
        case Choices():
            return _measure_choices(name, part, images, texts)
        case Retrieval():
            return _measure_retrieval(name, part, images, texts)
        case ZeroShot():
            return _measure_zero_shot(name, part, images, texts)


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


def _pair_scores(images: Features[int], texts: Features[str], part: Pairs) -> Tensor:
    captions = [item.captions[c] for item in part.items for _ in (0, 1) for c in (0, 1)]
    shown = [item.images[i] for item in part.items for i in (0, 1) for _ in (0, 1)]
    return cosines(texts, captions, images, shown).view(-1, 2, 2)


def _measure_pairs(name: str, part: Pairs, images: Features[int], texts: Features[str]) -> list[Row]:
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
    items = [part.items[place] for place in reworded]
    others = _ragged(images, texts, [(item.paraphrases, item.images[0]) for item in items], torch.inf)
    caption, negative = scores[reworded, 0, 0], scores[reworded, 0, 1]
    right = hard_positives_correct(caption, others, negative)
    rows += _by_category(name, "hard positives", right, [categories[place] for place in reworded])
    rows.append(Row.of(name, PARAPHRASE_FAILURES, ALL, proportion((caption > negative) & ~right)))
    present = others.isfinite()
    wordings = torch.where(present, others, 0).sum(dim=1) / present.sum(dim=1)
    rows.append(Row.of(name, PARAPHRASE_GAP, ALL, mean(caption - wordings)))
    return rows


def _measure_choices(name: str, part: Choices, images: Features[int], texts: Features[str]) -> list[Row]:
    scores = _ragged(images, texts, [(item.options, item.image) for item in part.items], -torch.inf)
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


def _measure_retrieval(name: str, part: Retrieval, images: Features[int], texts: Features[str]) -> list[Row]:
    # worked out once for what is the same, so that ties are exact
    scores = texts.distinct @ images.distinct.T
    scores = scores[texts.rows(part.captions)[:, None], images.rows(range(len(part.images)))]
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


def _measure_zero_shot(name: str, part: ZeroShot, images: Features[int], texts: Features[str]) -> list[Row]:
    # summed in one order, so that classes of the same texts are the same, and worked out once
    means = [texts.distinct[texts.rows(prompts).sort().values].mean(dim=0) for prompts in part.prompts]
    classes, columns = torch.stack(means).unique(dim=0, return_inverse=True)
    scores = images.distinct @ torch.nn.functional.normalize(classes, dim=-1).T
    scores = scores[images.rows(range(len(part.images)))[:, None], columns]
    return [Row.of(name, "accuracy", ALL, proportion(choice_correct(scores, torch.tensor(part.labels))))]


def _ragged(
    images: Features[int], texts: Features[str], items: Sequence[tuple[Sequence[str], int]], filler: float
) -> Tensor:
    """Cosines [N, K] of each item's texts with its image; where an item has fewer texts, `filler`."""
    counts = torch.tensor([len(own) for own, _ in items])
    scores = torch.full((len(items), int(counts.max())), filler)
    present = torch.arange(scores.shape[1]) < counts[:, None]
    every, shown = [text for own, _ in items for text in own], [image for own, image in items for _ in own]
    scores[present] = cosines(texts, every, images, shown)
    return scores


def _by_category(name: str, metric: str, correct: Tensor, categories: Sequence[str]) -> list[Row]:
    rows = [Row.of(name, metric, ALL, proportion(correct))]
    distinct = list(dict.fromkeys(categories))
    if len(distinct) > 1:
        for category in distinct:
            chosen = torch.tensor([c == category for c in categories])
            rows.append(Row.of(name, metric, category, proportion(correct[chosen])))
    return rows
