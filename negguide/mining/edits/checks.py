"""What speaks against an edit of everyday English, whoever proposed it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from negguide._utils.text import normalised
from negguide.mining.edits.lexicon import lexicon, parts_of_speech, singular
from negguide.mining.edits.planner import words
from negguide.mining.edits.rewordings import rewordings
from negguide.mining.edits.tagging import DETERMINERS, FINITE, FUNCTION, Tagger, Token, split
from negguide.mining.item import Edit

NEGATIONS = frozenset(("no", "not", "without", "never", "nobody", "nothing", "none"))
ARTICLES = frozenset(("a", "an", "the"))
ACRONYM = 3
"""Letters of a word that may stand in capitals ("TV", "BMX")."""
# signs that belong to programs, mark-up and tables
_FOREIGN = re.compile(r"[^\w\s,.'’\"“”&/()!?:%°-]|_|--")


def english_objection(caption: str, edit: Edit, tagger: Tagger, *, single: bool = False) -> str | None:
    """Why ``edit`` is not what it says it is, or None.

    "no word of English": what is new is shouted, or holds signs or words that captions do not have.

    For negatives: "paraphrase" (the same in other words, or in another order that means the same), "synonym",
    "hypernym" (a broader word or fewer words, true of the same picture), "hyponym" (a narrower word or more words,
    that may be true), "not known to exclude" (an attribute and another that may hold of one thing, or that the lexicon
    does not know), "several changes" (more than one thing is another), "words changed" (a swap with other words). For
    positives: "changed meaning", when things, their attributes or their numbers are others.

    Args:
        caption: before the edit.
        edit: what is judged.
        tagger: reads the caption.
        single: the edit is known to be one change, with the words that have to agree with it.
    """
    if not _english(caption, edit.after):
        return "no word of English"
    before, after = _canonical(caption), _canonical(edit.caption)
    if edit.meaning == "positive":
        return None if _content(before) == _content(after) else "changed meaning"
    if before == after:
        return "paraphrase"
    if normalised(edit.caption) in _reworded(caption, tagger):
        return "paraphrase"
    if edit.category == "swap":
        same = _bag(caption) == _bag(edit.caption)
        return None if same else "words changed"
    if not single and changes(caption, edit.caption) > 1:
        return "several changes"
    return _too_close(edit) if edit.category in ("object", "attribute", "relation") else None


@lru_cache(maxsize=256)
def _reworded(caption: str, tagger: Tagger) -> frozenset[str]:
    """All that says the same as a caption."""
    return frozenset(normalised(one.caption) for one in rewordings(caption, tagger.tag(caption)))


@lru_cache(maxsize=512)
def _bag(text: str) -> Counter[str]:
    """The words of a text; "an" counts as "a"."""
    return Counter("a" if word == "an" else word for word in normalised(text).split())


def changes(before: str, after: str) -> int:
    """In how many ways a caption was changed at least; articles, and words that agree with another, do not count.

    Where words stand in the place of others, as many have changed as both sides have nouns (compounds are one), verbs,
    adjectives, numbers and places that the other side has not; words that are only put in, or left out, are one change.
    """
    old, new = _tokens(before), _tokens(after)
    matcher = SequenceMatcher(None, [t.word for t in old], [t.word for t in new], autojunk=False)
    found = 0
    for _, start, end, new_start, new_end in (op for op in matcher.get_opcodes() if op[0] != "equal"):
        there, here = old[start:end], new[new_start:new_end]
        if all(token.word in DETERMINERS | FINITE for token in (*there, *here)):
            continue
        units, others = Counter(_units(there)), Counter(_units(here))
        if units and units == others:
            continue  # "dog" and "dogs"
        found += max(1, min((units - others).total(), (others - units).total()))
    return found


@lru_cache(maxsize=256)  # all edits of a caption are compared with it, one after the other
def _tokens(text: str) -> tuple[Token, ...]:
    return tuple(split(text))


def _units(tokens: Sequence[Token]) -> list[str]:
    """The words that mean something, in the singular; nouns of several words are one."""
    units: list[str] = []
    kind_before = ""
    for token in tokens:
        kind = _kind(token)
        if kind == "noun" and kind_before == "noun":
            units[-1] = _single(token.word)
        elif kind:
            units.append(_single(token.word))
        kind_before = kind
    return units


def _kind(token: Token) -> str:
    if token.kind == "relation" or lexicon().adjective(token.word):
        return "other"
    if token.word in FUNCTION:
        return ""
    if token.word in lexicon().numbers or token.word.isdigit() or parts_of_speech(token.word) == ("VERB",):
        return "other"
    return "noun"


def _english(caption: str, after: str) -> bool:
    """Whether ``after`` is written as captions are, in words that are known or stand in the caption already."""
    if _FOREIGN.search(after):
        return False
    said = set(normalised(caption).split())
    units = lexicon().units
    new = [token.text for token in _tokens(after) if token.word not in said and token.word not in units]
    shouted = [word for word in new if word.isupper() and len(word) > 1]
    if not caption.isupper() and (len(shouted) > 1 or any(len(word) > ACRONYM for word in shouted)):
        return False
    return all(_known(word) for word in new)


def _known(word: str) -> bool:
    if word.isupper() and len(word) <= ACRONYM:
        return True
    parts = re.split(r"['’-]", word.lower())
    return all(_known_part(part) for part in parts if len(part) > 1 or not parts[0])


def _known_part(word: str) -> bool:
    book = lexicon()
    if word.isdigit() or word in FUNCTION | NEGATIONS or word in book.numbers:
        return True
    if book.noun(word) or book.adjective(word) or any(word in group for group in book.same):
        return True
    # who does a thing ("skateboarder"), and plurals of such
    stems = {word, *(word.removesuffix(end) for end in ("s", "er", "ers", "y"))}
    return any(parts_of_speech(stem) for stem in stems)


def _too_close(edit: Edit) -> str | None:
    """How what was said and what is said may both be true, as far as the lexicon knows."""
    if edit.category != "relation" and not (normalised(edit.before) and normalised(edit.after)):
        return "hypernym" if normalised(edit.before) else "hyponym"
    old = [word for word in _content_words(edit.before) if word not in _content_words(edit.after)]
    new = [word for word in _content_words(edit.after) if word not in _content_words(edit.before)]
    if len(old) != 1 or len(new) != 1:
        return None
    book = lexicon()
    close = book.related(old[0], new[0])
    known = book.adjective(old[0]) or book.adjective(new[0])
    if close is None and edit.category == "attribute" and known and not book.exclude(old[0], new[0]):
        return "not known to exclude"
    return close


def _content_words(text: str) -> list[str]:
    """The words of a changed span in the singular, nouns of two words as one, without articles."""
    phrase = normalised(text)
    for article in ARTICLES:
        phrase = phrase.removeprefix(f"{article} ")
    if lexicon().noun(phrase) or lexicon().adjective(phrase):
        noun = lexicon().noun(phrase)
        return [noun.word if noun else phrase]
    return [_single(word[0].lower()) for word in words(text) if word[0].lower() not in ARTICLES]


def _single(word: str) -> str:
    noun = lexicon().noun(word)
    if noun is not None:
        return noun.word
    return word if lexicon().adjective(word) else singular(word)


@lru_cache(maxsize=512)
def _canonical(text: str) -> list[str]:
    """The words of ``text`` without articles, with one word for all that mean the same."""
    found = []
    for match in words(text):
        word = match[0].lower()
        if word in ARTICLES or word in ("one", "1"):
            continue
        if word.isdigit() and 0 < int(word) <= len(lexicon().numbers):
            word = lexicon().numbers[int(word) - 1]
        noun = lexicon().noun(word)
        said = noun.word if noun else word
        same = next((group[0] for group in lexicon().same if said in group), said)
        found.append(f"{same}s" if noun and noun.plural and noun.form == "count" else same)
    return found


def _content(canonical: list[str]) -> Counter[str]:
    """The things, attributes, numbers and negations among canonical words."""
    book = lexicon()
    return Counter(
        word
        for word in canonical
        if word in NEGATIONS
        or word in book.numbers
        or book.adjective(word)
        or book.noun(word)
        or (word.endswith("s") and book.noun(word[:-1]))
    )
