"""Text-only probes: what tells a negative caption from its original without any image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import sparse

from negguide._utils.text import WORD
from negguide.mining.audit.pairs import Pair
from negguide.mining.audit.probes import Probe

MARKS = (".", ",", ";", ":", "!", "?", "'", '"', "-", "(", ")")


def text_probes(
    pairs: Sequence[Pair],
    tokenize: Callable[[str], Sequence[object]] | None = None,
    plausibility: Mapping[str, tuple[float, float]] | None = None,
) -> list[Probe]:
    """The probes of the captions of ``pairs``.

    - characters, words: "pick the shorter" (or the longer) caption.
    - tokens: the same by the number of tokens of ``tokenize``.
    - punctuation: marks, capitals, double spaces, spaces before a mark, and how the caption ends.
    - rare words: how often its words occur in the captions of other sources.
    - bag of words: counts of single words and of two in a row.
    - plausibility: log-likelihood of the caption, in all and a token, from ``plausibility``.
    """
    right = [pair.caption for pair in pairs]
    wrong = [pair.negative_caption for pair in pairs]

    def difference(feature: Callable[[str], float | Sequence[float]]) -> np.ndarray:
        values = [[np.atleast_1d(feature(text)) for text in texts] for texts in (wrong, right)]
        return np.asarray(values[0], dtype=np.float64) - np.asarray(values[1], dtype=np.float64)

    probes = [
        Probe("characters", difference(len), "sign"),
        Probe("words", difference(lambda text: len(WORD.findall(text))), "sign"),
    ]
    if tokenize is not None:
        probes.append(Probe("tokens", difference(lambda text: len(tokenize(text))), "sign"))
    probes += [
        Probe("punctuation", difference(_marks), "linear"),
        Probe("rare words", _rarity(pairs), "linear"),
        Probe("bag of words", _word_counts(wrong, right), "linear"),
    ]
    if plausibility is not None:
        probes.append(Probe("plausibility", difference(plausibility.__getitem__), "linear"))
    return probes


def _marks(text: str) -> list[float]:
    words = WORD.findall(text)
    return [
        *(text.count(mark) for mark in MARKS),
        len(re.findall(r"\s[.,;:!?]", text)),
        text.count("  "),
        float(text != text.strip()),
        float(text.rstrip()[-1:] in ".!?"),
        float(text[:1].isupper()),
        sum(word[:1].isupper() for word in words),
        sum(any(letter.isdigit() for letter in word) for word in words),
        sum(ord(letter) > 127 for letter in text),
    ]


def _rarity(pairs: Sequence[Pair]) -> np.ndarray:
    """[pairs, 3] differences in mean and least log frequency of the words, and in words that occur nowhere else.

    A pair's own source does not count: else a word of both captions would look more common than a word of one.
    """
    everywhere: Counter[str] = Counter()
    of_source: dict[str, Counter[str]] = {}
    for pair in pairs:
        words = WORD.findall(pair.caption.lower()) + WORD.findall(pair.negative_caption.lower())
        everywhere.update(words)
        of_source.setdefault(pair.source, Counter()).update(words)

    def rarity(text: str, own: Counter[str]) -> np.ndarray:
        counts = np.asarray([everywhere[word] - own[word] for word in WORD.findall(text.lower())] or [0])
        logs = np.log1p(counts)
        return np.asarray([logs.mean(), logs.min(), (counts == 0).sum()])

    rows = [
        rarity(pair.negative_caption, of_source[pair.source]) - rarity(pair.caption, of_source[pair.source])
        for pair in pairs
    ]
    return np.asarray(rows)


def _word_counts(wrong: Sequence[str], right: Sequence[str]) -> sparse.csr_matrix:
    from sklearn.feature_extraction.text import CountVectorizer

    # Words of the held-out captions alone get no weight, so the vocabulary may be that of all captions.
    vectorizer = CountVectorizer(token_pattern=WORD.pattern, ngram_range=(1, 2), dtype=np.float64)
    try:
        counts = vectorizer.fit_transform([*wrong, *right])
    except ValueError:  # no caption has a single word
        return sparse.csr_matrix((len(wrong), 1))
    return sparse.csr_matrix(counts[: len(wrong)] - counts[len(wrong) :])
