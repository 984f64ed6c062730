"""Noun phrases of a tagged caption: their articles, numbers and adjectives, and what is denied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from negguide.mining.edits.lexicon import Noun, article, lexicon, plural
from negguide.mining.edits.tagging import BE, DETERMINERS, NEGATORS, PREPOSITIONS, Token

MODIFIERS = (
    "amod",
    "compound",
    "nummod",
    "nmod",
    "poss",
    "det",
    "advmod",
    "quantmod",
    "npadvmod",
    "predet",
    "punct",
)


@dataclass
class Phrase:
    """A noun with what stands before it: "the two big red cars". All numbers are places in the list of tokens.

    A phrase is ``negated`` when it is denied, or stands behind what is: it names what need not be in the picture, so
    it can only be affirmed.

    Attributes:
        first, at: the places of its first word and of its noun.
        word: the noun in the singular; ``noun`` is its entry in the lexicon, None where that does not know it.
        determiner, number, adjectives: the places of those that are known.
        modified: other words stand before the noun, as in "toilet bowl" or "smiling man".
        compound: those are nouns.
        plural: of the noun.
    """

    first: int
    at: int
    word: str
    noun: Noun | None
    plural: bool
    determiner: int | None = None
    number: int | None = None
    adjectives: tuple[int, ...] = ()
    modified: bool = False
    compound: bool = False
    negated: bool = False

    @property
    def kind(self) -> str:
        """Its class in the lexicon, or nothing."""
        return self.noun.kind if self.noun else ""


def phrases(tokens: list[Token], *, known: bool = True) -> list[Phrase]:
    """The noun phrases from left to right; ``known`` leaves out those whose noun the lexicon does not know."""
    denied = denied_from(tokens)
    found = []
    for at, token in enumerate(tokens):
        noun = token.noun if token.kind == "noun" else None
        if noun is None and (
            known or token.kind == "relation" or token.tag not in ("NN", "NNS") or token.dep == "compound"
        ):
            continue
        word = noun.word if noun else token.lemma
        many = noun.plural if noun else token.tag == "NNS"
        phrase = Phrase(at, at, word, noun, many, negated=at >= denied)
        _walk_left(tokens, phrase)
        if noun and plural(noun.word) == noun.word:  # one sheep, two sheep
            said = tokens[phrase.determiner].word if phrase.determiner is not None else ""
            one = any(
                t.word in ("one", "1", "single", "lone", "another")
                for t in tokens[max(0, phrase.first - 1) : at]
            )
            phrase.plural = (
                not one
                and said not in ("a", "an", "this", "each")
                and (phrase.number is not None or token.tag == "NNS" or not said)
            )
        found.append(phrase)
    return found


def _walk_left(tokens: list[Token], phrase: Phrase) -> None:
    """Takes in what stands before the noun and belongs to it."""
    adjectives: list[int] = []
    while phrase.first and not tokens[phrase.first - 1].boundary:
        at = phrase.first - 1
        before = tokens[at]
        if before.kind == "adjective" and phrase.number is None:
            adjectives.insert(0, at)
        elif before.kind == "number" or (before.word in lexicon().numbers and before.head == phrase.at):
            phrase.number = at
        elif before.word in DETERMINERS:
            phrase.determiner = phrase.first = at
            break
        elif before.head == phrase.at and before.dep in MODIFIERS:
            phrase.modified = True
            phrase.compound |= before.dep == "compound" or before.tag.startswith("NN")
        elif 0 <= before.head < phrase.at and before.head > at and before.dep in MODIFIERS:
            phrase.modified = True  # "brightly" of "brightly painted wall"
        else:
            break
        phrase.first = at
    phrase.adjectives = tuple(adjectives)


def denied_from(tokens: list[Token]) -> int:
    """The first place from which on nothing is sure to be in the picture; as many as there are tokens for nowhere.

    "Not" denies its whole sentence (a dog that is not on a sofa may be a cat as well), "no" and "without" all that
    follows.
    """
    for at, token in enumerate(tokens):
        if token.word in ("no", "without", "nor") and at > 1:
            return at
        if token.word in NEGATORS or token.word.endswith(("n't", "n’t")):
            return 0
    return len(tokens)


def affirmed(tokens: list[Token], *, known: bool = True) -> list[Phrase]:
    """The noun phrases that name what is in the picture."""
    return [phrase for phrase in phrases(tokens, known=known) if not phrase.negated]


def form_of(word: str, many: bool) -> str:
    """``word``, a singular, in the number that is asked for."""
    entry = lexicon().noun(word)
    return plural(word) if many and (entry is None or entry.form == "count") else word


def with_article(tokens: list[Token], at: int, new: str) -> tuple[int, str]:
    """Where to begin, and what to write, so that ``new`` in the place of a token has the right article before it."""
    before = tokens[at - 1] if at else None
    if before is None or before.boundary or before.word not in ("a", "an") or article(new) == before.word:
        return at, new
    said = article(new)
    return at - 1, f"{said.capitalize() if before.text[0].isupper() else said} {new}"


def joined_pairs(tokens: list[Token]) -> Iterator[tuple[Phrase, Phrase]]:
    """Noun phrases joined by "and", without a third or more hanging on either: not "a cup of tea and milk"."""
    for one, two in pairwise(affirmed(tokens)):
        joint = one.at + 1
        if (
            two.first != joint + 1
            or tokens[joint].word != "and"
            or tokens[one.at].boundary
            or tokens[joint].boundary
        ):
            continue
        if tokens[two.at].dep and (tokens[two.at].dep != "conj" or tokens[two.at].head != one.at):
            continue
        before = tokens[one.first - 1] if one.first else None
        if before is not None and (before.boundary or before.word in ("and", "or", "between", "of")):
            continue
        if ends_here(tokens, two.at):
            yield one, two


def ends_here(tokens: list[Token], at: int) -> bool:
    """Whether a phrase that ends with this token has nothing behind it that may belong to it."""
    if tokens[at].boundary:
        return at + 1 == len(tokens) or tokens[at + 1].word not in ("and", "or")
    after = tokens[at + 1]
    return (
        after.kind == "relation"
        or (after.word in PREPOSITIONS - {"with", "without", "of"})
        or after.word in BE
    )
