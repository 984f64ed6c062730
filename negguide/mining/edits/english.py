"""Rules for captions in everyday English: only words that the tables know, and only where they are sure."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from negguide._utils.text import WORD
from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.planner import check_categories
from negguide.mining.edits.rewordings import rewordings
from negguide.mining.edits.rules import RULES
from negguide.mining.edits.tagging import LexiconTagger, SpacyTagger, Tagger
from negguide.mining.edits.usage import usage
from negguide.mining.item import Edit

ENGLISH_MODEL = "en_core_web_sm"
LEXICON = "lexicon"
UNBALANCED = ("add", "remove", "negation")
"""Categories that only put words in, or leave words out."""


def make_tagger(english_model: str | None = None) -> Tagger:
    """What finds the words of a caption.

    Args:
        english_model: name or folder of a spaCy pipeline; "lexicon" for the word list of the package, without a
            parse; None = ``ENGLISH_MODEL`` where spaCy is installed, else the word list, which is said once.

    Raises:
        ValueError: the pipeline is not installed, or does not parse.
        ImportError: a pipeline was named and spaCy is not installed.
    """
    if english_model == LEXICON:
        return LexiconTagger()
    if english_model is None and not _spacy_is_there():
        _say_lexicon()
        return LexiconTagger()
    return SpacyTagger(english_model or ENGLISH_MODEL)


def _spacy_is_there() -> bool:
    from importlib.util import find_spec

    return find_spec("spacy") is not None


@lru_cache(maxsize=1)
def _say_lexicon() -> None:
    import warnings

    warnings.warn(
        "spaCy is not installed: captions are read by a word list, which finds fewer edits; "
        f"pip install spacy && python -m spacy download {ENGLISH_MODEL}",
        stacklevel=3,
    )


def _drawable(caption: Caption, edit: Edit) -> Edit:
    """With what to draw: text-to-image models do not read "without a hat" at the end of a caption."""
    at = caption.denied_from
    if edit.draw is not None or not 0 < at < len(caption.tokens) or caption.tokens[at].word != "without":
        return edit
    start = caption.tokens[at].start
    if edit.end > start:
        return edit
    return replace(edit, draw=edit.caption[: len(edit.caption) - len(caption.text) + start].rstrip())


class EnglishRules:
    """Edits of everyday English in all categories, with agreement and articles right.

    What can be done is one file each in ``rules``; what goes with what is in the tables of ``words``. The edits of a
    category are in random order, an edit from one word to another as often as the one back (``usage.Exchange``).

    Args:
        english_model: see ``make_tagger``.
    """

    name = "rules"

    def __init__(self, *, english_model: str | None = None) -> None:
        self.tagger = make_tagger(english_model)
        lexicon()  # so that a missing package is an error at the start
        usage()

    @property
    def description(self) -> dict[str, Any]:
        """As JSON; see `Planner.description`."""
        return {"backend": self.name, "world": False, "tagger": self.tagger.name}

    @property
    def shares(self) -> Mapping[str, float]:
        """How strongly each category is preferred, see ``planner.Weighing``."""
        return usage().shares

    def read_ahead(self, captions: Iterable[str]) -> None:
        """Parses captions in batches, which is several times as fast as one by one."""
        self.tagger.read_ahead(captions)

    def weighed(self, caption: str, categories: Sequence[str]) -> list[Candidate]:
        """All edits that the rules are sure of, with their weights; none for a caption without known words.

        Raises:
            ValueError: a category is unknown.
        """
        read = Caption(caption, self.tagger.tag(caption), self.tagger.parses)
        found: dict[tuple[str, str], Candidate] = {}
        for name in check_categories(categories):
            for candidate in RULES[name](read):
                key = (name, candidate.edit.caption)
                if key not in found or found[key].weight < candidate.weight:
                    found[key] = candidate
        return [
            replace(one, weight=one.weight * self.tilt(caption, one.edit), edit=_drawable(read, one.edit))
            for one in found.values()
        ]

    def tilt(self, caption: str, edit: Edit) -> float:
        """How much more often than its rule says an edit is made, so that no word gives a negative away.

        exp(-t . d) for the tilts t of words (``words/balance.toml``) and the difference d in words; 1 for what only
        puts words in, which cannot be hidden.
        """
        if edit.category in UNBALANCED:
            return 1.0
        change = Counter(WORD.findall(edit.caption.lower()))
        change.subtract(WORD.findall(caption.lower()))
        tilts = usage().tilts
        return math.exp(-sum(tilts.get(word, 0.0) * count for word, count in change.items() if count))

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """The edits of ``weighed`` in random order.

        Raises:
            ValueError: a category is unknown.
        """
        edits = [candidate.edit for candidate in self.weighed(caption, categories)]
        rng.shuffle(edits)
        return edits

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """Synonyms and other wordings, and "a cat and a dog" for "a dog and a cat"."""
        edits = list(rewordings(caption, self.tagger.tag(caption)))
        rng.shuffle(edits)
        return edits

    def objection(self, caption: str, edit: Edit) -> str | None:
        """Why an edit is not what it says it is, by the lexicon; None = it is."""
        return english_objection(caption, edit, self.tagger, single=edit.backend == self.name)
