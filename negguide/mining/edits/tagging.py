"""Which words of a caption are what, as far as one can be sure of it.

Words are only called nouns, adjectives or numbers when the lexicon knows them *and* their surroundings leave no other
reading: a "dog" that may be the first half of "dog house" stays untouched. The surroundings are judged by rules, or by
spaCy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from negguide.mining.edits.lexicon import Lexicon, Noun, lexicon, parts_of_speech

DETERMINERS = frozenset(
    (
        "a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "my", "our", "your", "some",
        "any", "no", "each", "every",
    )
)  # fmt: skip
PREPOSITIONS = frozenset(
    (
        "in", "on", "at", "of", "with", "without", "to", "from", "by", "for", "near", "under", "above", "below",
        "behind", "beside", "between", "inside", "outside", "over", "into", "onto", "through", "across", "along",
        "around", "against", "beneath", "underneath", "during", "after", "before", "past", "toward", "towards",
    )
)  # fmt: skip
CONJUNCTIONS = frozenset(("and", "or", "but", "while", "as"))
BE = frozenset(("is", "are", "was", "were"))
FINITE = BE | {"has", "have", "does", "do"}
OTHERS = frozenset(
    ("that", "which", "who", "not", "there", "next", "front", "top", "it", "he", "she", "they")
)
FUNCTION = DETERMINERS | PREPOSITIONS | CONJUNCTIONS | FINITE | OTHERS
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass
class Token:
    """One word, or one phrase that is a unit ("hot dog", "to the left of").

    Attributes:
        text, start, end: its characters; ``word`` is lower case.
        kind: "noun", "adjective", "number", "relation", or "other"; the first three only when it is sure.
        noun: its entry, for nouns.
        boundary: punctuation or the end of the text follows.
    """

    text: str
    start: int
    end: int
    kind: str = "other"
    noun: Noun | None = None
    boundary: bool = False
    word: str = field(init=False)

    def __post_init__(self) -> None:
        self.word = re.sub(r"\s+", " ", self.text.lower())


class Tagger(Protocol):
    """Finds the words that can be edited; ``name`` says by what evidence."""

    name: str

    def tag(self, text: str) -> list[Token]: ...


class LexiconTagger:
    """Judges the surroundings of a known word by closed lists of small words, and by what unknown words can be.

    A noun counts when a determiner, a number, an adjective, a preposition or nothing stands before it, and nothing
    that may be a noun behind it. An adjective counts before a noun, or after "is" and "are".
    """

    name = "lexicon"

    def tag(self, text: str) -> list[Token]:
        words = lexicon()
        tokens = split(text)
        # An adjective is one because of the noun behind it, so the last word is judged first.
        for index in range(len(tokens) - 1, -1, -1):
            token = tokens[index]
            if token.kind != "other" or token.word in FUNCTION:
                continue
            before = tokens[index - 1] if index and not tokens[index - 1].boundary else None
            after = None if token.boundary else tokens[index + 1]
            noun = words.noun(token.word)
            adjective = words.adjective(token.word) is not None
            if _is_number(token.word, words) and after is not None and after.kind in ("noun", "adjective"):
                token.kind = "number"
            elif adjective and _qualifies(before, after):
                token.kind = "adjective"
            elif noun is not None and _ends_phrase(after) and _begins_noun(before, noun, words):
                token.kind, token.noun = "noun", noun
        return tokens


class SpacyTagger:
    """Judges by the parts of speech of a spaCy model.

    Args:
        model: name of an installed model, or a folder with one.

    Raises:
        ImportError: spaCy is not installed; the message says how to install it.
        ValueError: the model is not there, or gives no parts of speech; the message says how to install one.
    """

    def __init__(self, model: str) -> None:
        try:
            import spacy  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ImportError(
                f'tagger="spacy" needs spaCy: pip install spacy && python -m spacy download {model}'
            ) from error
        try:
            self._model: Any = spacy.load(model)
        except OSError as error:
            raise ValueError(
                f"spacy_model={model!r} is not installed: python -m spacy download {model}, or give a model's folder"
            ) from error
        if not any(token.pos_ for token in self._model("a dog")):
            raise ValueError(f"spacy_model={model!r} gives no parts of speech; use one with a tagger")
        meta = self._model.meta
        self.name = f"spacy {meta['lang']}_{meta['name']} {meta['version']}"

    def tag(self, text: str) -> list[Token]:
        words = lexicon()
        tokens = split(text)
        parsed = list(self._model(text))
        for token in tokens:
            inside = [p for p in parsed if p.idx < token.end and p.idx + len(p) > token.start]
            if token.kind != "other" or not inside:
                continue
            part = inside[-1].pos_
            following = parsed[inside[-1].i + 1] if inside[-1].i + 1 < len(parsed) else None
            compound = following is not None and following.pos_ in ("NOUN", "PROPN")
            noun = words.noun(token.word)
            if _is_number(token.word, words) and part == "NUM":
                token.kind = "number"
            elif words.adjective(token.word) and (part == "ADJ" or (part == "NOUN" and compound)):
                token.kind = "adjective"
            elif noun is not None and part == "NOUN" and not compound:
                token.kind, token.noun = "noun", noun
        return tokens


def split(text: str) -> list[Token]:
    """The words of ``text``; phrases of the lexicon are one token, and what is fixed is never edited."""
    units = lexicon().units
    found = [match.span() for match in WORD.finditer(text)]
    tokens: list[Token] = []
    at = 0
    while at < len(found):
        size, kind = 1, "other"
        for length in range(min(5, len(found) - at), 0, -1):
            part = text[found[at][0] : found[at + length - 1][1]].lower()
            phrase = re.sub(r"\s+", " ", part)
            if phrase in units:
                size, kind = length, units[phrase]
                break
        start, end = found[at][0], found[at + size - 1][1]
        at += size
        rest = text[end : found[at][0]] if at < len(found) else ""
        tokens.append(
            Token(text[start:end], start, end, kind, boundary=at == len(found) or bool(rest.strip()))
        )
    return tokens


def _is_number(word: str, words: Lexicon) -> bool:
    return word in words.numbers or bool(re.fullmatch(r"[1-9]|1\d|20", word))


def _qualifies(before: Token | None, after: Token | None) -> bool:
    """Whether an adjective stands before a noun ("red car"), or after "is" at the end of a phrase."""
    if after is not None and (after.kind in ("noun", "adjective") or _may_be_noun(after)):
        return True
    return before is not None and before.word in BE and _ends_phrase(after)


def _may_be_noun(token: Token) -> bool:
    """A word outside the lexicon that may be the head of what stands before it."""
    return token.kind == "other" and token.word not in FUNCTION and "NOUN" in parts_of_speech(token.word)


def _ends_phrase(after: Token | None) -> bool:
    """Whether nothing that follows can belong to the noun before it."""
    if after is None or after.word in FUNCTION or after.kind == "relation":
        return True
    if after.kind != "other":
        return False
    possible = parts_of_speech(after.word)
    if after.word.endswith("ing") and "VERB" in possible:
        return True
    return bool(possible) and not {"NOUN", "ADJ"} & set(possible)


def _begins_noun(before: Token | None, noun: Noun, words: Lexicon) -> bool:
    """Whether what stands before a noun leaves it one."""
    if before is None or before.kind in ("number", "relation"):
        return True
    if before.word in DETERMINERS | PREPOSITIONS | {"and", "or"} or _is_number(before.word, words):
        return True
    if words.adjective(before.word):
        return before.kind != "fixed"
    possible = parts_of_speech(before.word)
    if before.word.endswith("ing") and "VERB" in possible:
        return True  # "holding umbrellas"
    return before.kind == "other" and possible in (("ADJ",), ("ADJ", "ADV"))
