"""Noun phrases of a tagged caption, and what hangs on them: articles, and the verb they are the subject of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from negguide.mining.edits.lexicon import Noun, article, lexicon, parts_of_speech, plural, verb_form
from negguide.mining.edits.tagging import BE, DETERMINERS, FINITE, PREPOSITIONS, Token

RELATIVE = frozenset(
    ("that", "which", "who", "whose", "it", "its", "he", "she", "his", "her", "they", "their", "each")
)
HOLDING = ("with", "wearing")
NOUN_NEXT = DETERMINERS | PREPOSITIONS


@dataclass
class Phrase:
    """A noun with what stands before it: "the two big red cars". All numbers are places in the list of tokens.

    A phrase is ``negated`` by "no" or "without": it names what is not in the picture, so it can only be affirmed.
    """

    first: int
    at: int
    noun: Noun
    determiner: int | None = None
    number: int | None = None
    negated: bool = False
    adjectives: tuple[int, ...] = ()

    @property
    def plural(self) -> bool:
        return self.noun.plural


def phrases(tokens: list[Token]) -> list[Phrase]:
    """The noun phrases whose noun is sure, from left to right."""
    words = lexicon()
    found = []
    for at, token in enumerate(tokens):
        if token.kind != "noun" or token.noun is None:
            continue
        adjectives: list[int] = []
        first = at
        while first and not tokens[first - 1].boundary and tokens[first - 1].kind == "adjective":
            first -= 1
            adjectives.insert(0, first)
        phrase = Phrase(first, at, token.noun, adjectives=tuple(adjectives))
        if first and not tokens[first - 1].boundary:
            before = tokens[first - 1]
            if before.kind == "number":
                phrase.first = phrase.number = first - 1
                if phrase.first and tokens[phrase.first - 1].word in DETERMINERS:
                    phrase.determiner = phrase.first = phrase.first - 1
            elif before.word in DETERMINERS:
                phrase.first = phrase.determiner = first - 1
            elif before.word in words.numbers:
                phrase.first = first - 1
        leading = (
            tokens[phrase.first - 1].word if phrase.first and not tokens[phrase.first - 1].boundary else ""
        )
        said = tokens[phrase.determiner].word if phrase.determiner is not None else ""
        phrase.negated = said in ("no", "any") or leading in ("without", "not")
        found.append(phrase)
    return found


def affirmed(tokens: list[Token]) -> list[Phrase]:
    """The noun phrases that name what is in the picture."""
    return [phrase for phrase in phrases(tokens) if not phrase.negated]


def stands_alone(tokens: list[Token], phrase: Phrase) -> bool:
    """Whether more or fewer of a thing make sense: not of a place that others are on, in or at."""
    before = tokens[phrase.first - 1] if phrase.first and not tokens[phrase.first - 1].boundary else None
    return before is None or before.word in ("with", "of", "and", "wearing") or before.word.endswith("ing")


def form_of(word: str, like: Noun) -> str:
    """``word``, a singular, in the number of ``like``."""
    return plural(word) if like.form == "count" and like.plural else word


def with_article(tokens: list[Token], at: int, new: str) -> tuple[int, str]:
    """Where to begin, and what to write, so that ``new`` in the place of a token has the right article before it."""
    before = tokens[at - 1] if at else None
    if before is None or before.boundary or before.word not in ("a", "an") or article(new) == before.word:
        return at, new
    said = article(new)
    return at - 1, f"{said.capitalize() if before.text[0].isupper() else said} {new}"


def agreement(tokens: list[Token], phrase: Phrase, *, becomes_plural: bool) -> tuple[int, str] | None:
    """What to change behind a noun phrase whose number changes.

    Returns:
        The place of the verb and its new form; the place of the phrase itself and "" when no verb hangs on it; None
        when that is not sure.
    """
    after = None if tokens[phrase.at].boundary else tokens[phrase.at + 1]
    rest = tokens[phrase.at + 1 :]
    if any(token.word in RELATIVE for token in rest) or (
        after is not None and after.word in ("and", "or", "of")
    ):
        return None
    before = tokens[phrase.first - 1] if phrase.first else None
    if before is not None and not before.boundary and before.word in ("and", "or"):
        return None
    governed = before is not None and (
        before.kind == "relation" or before.word in PREPOSITIONS or before.word.endswith("ing")
    )
    if (
        governed
    ):  # "with a dog": the verb, if any, belongs to someone else, unless the words are turned around
        return (phrase.at, "") if after is None or after.word not in FINITE else None
    if phrase.first:
        return None
    tag = "VBP" if becomes_plural else "VBZ"
    verbs = [at for at in range(phrase.at + 1, len(tokens)) if _finite(tokens, at)]
    if not verbs:
        return phrase.at, ""
    return (verbs[0], verb_form(tokens[verbs[0]].word, tag)) if verbs == [phrase.at + 1] and after else None


def _finite(tokens: list[Token], at: int) -> bool:
    """A word that may be a verb agreeing with its subject."""
    token = tokens[at]
    if token.word in FINITE:
        return True
    leading = tokens[at - 1] if at and not tokens[at - 1].boundary else None
    inside = leading is not None and (leading.kind in ("relation", "adjective") or leading.word in NOUN_NEXT)
    if token.kind != "other" or inside or token.word in PREPOSITIONS or token.word.endswith(("ing", "ed")):
        return False
    possible = parts_of_speech(token.word)
    return "VERB" in possible and (token.word.endswith("s") or "NOUN" not in possible)


def joined_pairs(tokens: list[Token]) -> Iterator[tuple[Phrase, Phrase]]:
    """Noun phrases joined by "and" that are one thing together, without a third and without more hanging on them."""
    for one, two in pairwise(affirmed(tokens)):
        joint = one.at + 1
        if (
            two.first != joint + 1
            or tokens[joint].word != "and"
            or tokens[one.at].boundary
            or tokens[joint].boundary
        ):
            continue
        before = tokens[one.first - 1].word if one.first else ""
        if ends_here(tokens, two.at) and before not in ("and", "or", "between"):
            yield one, two


def ends_here(tokens: list[Token], at: int) -> bool:
    """Whether a phrase that ends with this token has nothing behind it that may belong to it."""
    if tokens[at].boundary:
        return True
    after = tokens[at + 1]
    return (
        after.kind == "relation"
        or (after.word in PREPOSITIONS - {"with", "without", "of"})
        or after.word in BE
    )
