"""Other words for the same: hard positives of everyday English."""

from __future__ import annotations

import re
from collections.abc import Iterator

from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.phrases import form_of, joined_pairs, with_article
from negguide.mining.edits.planner import smallest
from negguide.mining.edits.tagging import Token
from negguide.mining.item import Edit


def rewordings(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    """One wording replaced by another that means the same, or the two sides of an "and" exchanged."""
    words = lexicon()
    for at, token in enumerate(tokens):
        if token.kind == "noun" and token.noun is not None:
            for word in words.wordings(token.noun.word):
                first, after = with_article(tokens, at, form_of(word, token.noun.plural))
                yield _edit(caption, tokens[first].start, token.end, after)
        elif token.kind == "adjective":
            for word in words.wordings(token.word):
                first, after = with_article(tokens, at, word)
                yield _edit(caption, tokens[first].start, token.end, after)
    for group in words.same:
        for phrase in group:
            if words.noun(phrase) is None and words.adjective(phrase) is None:
                for found in re.finditer(rf"\b{phrase}\b".replace(" ", r"\s+"), caption, re.IGNORECASE):
                    for other in words.wordings(phrase):
                        yield _edit(caption, *found.span(), other)
    for one, two in joined_pairs(tokens):
        left, right = (caption[tokens[p.first].start : tokens[p.at].end] for p in (one, two))
        joint = caption[tokens[one.at].end : tokens[two.first].start]
        if left[0].isupper():
            left = left[0].lower() + left[1:]
        yield _edit(caption, tokens[one.first].start, tokens[two.at].end, right + joint + left)


def _edit(caption: str, start: int, end: int, after: str) -> Edit:
    if caption.isupper():
        after = after.upper()
    elif caption[start].isupper():
        after = after[:1].upper() + after[1:]
    edit = Edit.replacing(
        caption, start, end, after, category="paraphrase", backend="rules", meaning="positive"
    )
    return smallest(edit)
