"""Which words of a caption are what, as far as one can be sure of it.

Words are only called nouns, adjectives or numbers when the lexicon knows them *and* their surroundings leave no other
reading: a "dog" that may be the first half of "dog house" stays untouched. The surroundings are judged by rules, or by
spaCy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from negguide._utils.text import COMPOUND
from negguide.mining.edits.lexicon import Lexicon, Noun, lemma_of, lexicon, parts_of_speech
from negguide.models import revision

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
NEGATORS = frozenset(
    ("not", "no", "without", "never", "nobody", "nothing", "none", "neither", "nor", "cannot")
)
FINITE = BE | {"has", "have", "does", "do"}
OTHERS = frozenset(
    ("that", "which", "who", "not", "there", "next", "front", "top", "it", "he", "she", "they")
)
FUNCTION = DETERMINERS | PREPOSITIONS | CONJUNCTIONS | FINITE | OTHERS


@dataclass
class Token:
    """One word, or one phrase that is a unit ("hot dog", "to the left of").

    Attributes:
        text, start, end: its characters; ``word`` is lower case.
        kind: "noun", "adjective", "number", "relation", or "other"; the first three only when it is sure.
        noun: its entry, for nouns.
        boundary: punctuation or the end of the text follows.
        tag: its part of speech in the words of the Penn treebank ("VBG"); empty where there is no parse.
        dep, head: what it is to another token, and the place of that one; empty and -1 where there is no parse. Of a
            unit of several words, those of its last.
        name: part of a proper name, so never changed.
    """

    text: str
    start: int
    end: int
    kind: str = "other"
    noun: Noun | None = None
    boundary: bool = False
    tag: str = ""
    dep: str = ""
    head: int = -1
    name: bool = False
    word: str = field(init=False)

    def __post_init__(self) -> None:
        self.word = re.sub(r"\s+", " ", self.text.lower())

    @property
    def lemma(self) -> str:
        """Its base form: "sit" of "sits", "man" of "men"."""
        return lemma_of(self.word, self.tag)


class Tagger(Protocol):
    """Finds the words that can be edited; ``name`` says by what evidence, ``parses`` whether it knows heads."""

    name: str
    parses: bool

    def tag(self, text: str) -> list[Token]:
        """The words of a text in their order."""
        ...

    def __hash__(self) -> int: ...

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Reads many texts at once, so that ``tag`` of any of them is quick."""
        ...


class LexiconTagger:
    """Judges the surroundings of a known word by closed lists of small words, and by what unknown words can be.

    A noun counts when a determiner, a number, an adjective, a preposition or nothing stands before it, and nothing
    that may be a noun behind it. An adjective counts before a noun, or after "is" and "are".
    """

    name = "lexicon"
    parses = False

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Nothing: each text is quick by itself."""

    def tag(self, text: str) -> list[Token]:
        """The words of a text, as far as the lexicon is sure of them."""
        words = lexicon()
        tokens = split(text)
        _mark_names(tokens, text)
        # An adjective is one because of the noun behind it, so the last word is judged first.
        for index in range(len(tokens) - 1, -1, -1):
            token = tokens[index]
            if token.kind != "other" or token.word in FUNCTION or token.name:
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


KEPT = 4096
"""Parses that a ``SpacyTagger`` remembers: an edit is made from one, and checked by it."""
UNUSED = ("ner", "lemmatizer", "senter", "entity_ruler", "entity_linker", "textcat")


class SpacyTagger:
    """Judges by the parse of a spaCy pipeline: parts of speech, heads, and proper names.

    Only the components that give those are loaded; texts are parsed in batches by ``read_ahead``.

    Args:
        model: name of an installed pipeline, or a folder with one.

    Raises:
        ImportError: spaCy is not installed; the message says how to install it.
        ValueError: the pipeline is not there, or does not parse; the message says how to install one.
    """

    parses = True

    def __init__(self, model: str) -> None:
        try:
            import spacy  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ImportError(
                f"english_model={model!r} needs spaCy: pip install spacy && python -m spacy download {model}"
            ) from error
        try:
            self._model: Any = spacy.load(model, exclude=UNUSED)
        except OSError as error:
            raise ValueError(
                f"english_model={model!r} is not installed: python -m spacy download {model}, "
                "or give the folder of a pipeline, or 'lexicon' for the word list"
            ) from error
        if not all(token.pos_ and token.dep_ for token in self._model("a dog on a sofa")):
            raise ValueError(
                f"english_model={model!r} gives no parse; use one with a tagger and a parser, like en_core_web_sm"
            )
        meta = self._model.meta
        # an installed pipeline has its version; in a folder another one may lie under the same
        state = f", {revision(model)}" if Path(model).is_dir() else ""
        self.name = f"spacy {meta['lang']}_{meta['name']} {meta['version']}{state}"
        self._kept: dict[str, list[Token]] = {}

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Parse what is not kept yet, as one batch."""
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if len(self._kept) + len(new) > KEPT:
            self._kept.clear()
        # letters alone say what a word is: in capitals every word would be a name
        shown = [text.lower() if _shouted(text) else text for text in new]
        for text, parsed in zip(new, self._model.pipe(shown, batch_size=64), strict=True):
            self._kept[text] = self._tokens(text, parsed)

    def tag(self, text: str) -> list[Token]:
        """The words of a text with their parse."""
        if text not in self._kept:
            self.read_ahead([text])
        return self._kept[text]

    def _tokens(self, text: str, parsed: Any) -> list[Token]:
        words = lexicon()
        tokens = split(text)
        last, place = _aligned(tokens, parsed)
        _mark_names(tokens, text)
        for token, p in zip(tokens, last, strict=True):
            if p is not None:
                token.tag, token.dep, token.head = p.tag_, p.dep_, place.get(p.head.i, -1)
        for token, p in zip(tokens, last, strict=True):
            if p is None:
                continue
            following = parsed[p.i + 1] if p.i + 1 < len(parsed) else None
            if _is_misread(token, tokens, words):
                at = tokens.index(token)
                if token.word.endswith("ing"):
                    token.tag, token.dep, token.head = "VBG", "acl", at - 1
                else:
                    token.tag, token.dep, token.head = (
                        "VBZ" if token.word.endswith("s") else "VBP",
                        "ROOT",
                        at,
                    )
                continue
            noun = words.noun(token.word)
            if token.kind != "other" or token.name:
                continue
            # between nouns: "a dog house", unless the parse takes the second for a verb by mistake
            deed = following is not None and _deed(following.lower_) and following.i + 1 < len(parsed)
            compound = (
                following is not None
                and not deed
                and (
                    following.pos_ in ("NOUN", "PROPN") or (p.dep_ in ("compound", "amod") and p.head.i > p.i)
                )
            )
            if _is_number(token.word, words) and (p.pos_ == "NUM" or p.dep_ == "nummod"):
                token.kind = "number"
            elif words.adjective(token.word) and (p.pos_ == "ADJ" or (p.pos_ == "NOUN" and compound)):
                token.kind = "adjective"
            elif noun is not None and p.pos_ in ("NOUN", "PROPN") and not compound:
                token.kind, token.noun = "noun", noun
        return tokens


def _deed(word: str) -> bool:
    """Words that small models take for nouns behind nouns: "zebra standing"."""
    return word in (
        "standing", "sitting", "walking", "grazing", "running", "laying", "lying", "eating", "looking", "stand",
        "stands", "sits", "graze", "stares", "stretches",
    )  # fmt: skip


def _is_misread(token: Token, tokens: list[Token], words: Lexicon) -> bool:
    at = tokens.index(token)
    if not _deed(token.word):
        return False
    return (
        token.tag in ("NN", "NNS", "JJ")
        and at > 0
        and not token.boundary
        and not tokens[at + 1].tag.startswith("NN")
        and not tokens[at - 1].boundary
        and (words.noun(tokens[at - 1].word) is not None or tokens[at - 1].tag.startswith("NN"))
    )


def _aligned(tokens: list[Token], parsed: Any) -> tuple[list[Any], dict[int, int]]:
    """For each token the last parsed word inside it, or None; and for each parsed word the place of its token."""
    last: list[Any] = [None] * len(tokens)
    place: dict[int, int] = {}
    at = 0
    for p in parsed:
        while at < len(tokens) and tokens[at].end <= p.idx:
            at += 1
        if at < len(tokens) and p.idx + len(p) > tokens[at].start:
            last[at], place[p.i] = p, at
    return last, place


def _shouted(text: str) -> bool:
    """Whether a text is in capitals throughout."""
    return text.isupper() and sum(letter.isalpha() for letter in text) > 3


def _mark_names(tokens: list[Token], text: str) -> None:
    """Words with a capital inside a sentence are names, and so is what stands between or right after them."""
    if _shouted(text):
        return
    for quoted in re.finditer(r"[\"“][^\"”]*[\"”]", text):
        for token in tokens:
            token.name |= quoted.start() < token.start < quoted.end()
    capitals = [t.text[0].isupper() for t in tokens]
    if sum(capitals) > len(tokens) / 2 and len(tokens) > 3:
        return  # A Title In Capitals
    for at in range(1, len(tokens)):
        starts = bool(re.search(r"[.!?\"]\s*$", text[: tokens[at].start]))
        if capitals[at] and not starts:
            tokens[at].name = True
            if at == 1 and capitals[0] and tokens[0].word not in FUNCTION:
                tokens[0].name = True


def split(text: str) -> list[Token]:
    """The words of ``text``; phrases of the lexicon are one token, and what is fixed is never edited."""
    units = lexicon().units
    found = [match.span() for match in COMPOUND.finditer(text)]
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
