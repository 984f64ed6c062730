"""What speaks against an edit of everyday English, whoever proposed it."""

from __future__ import annotations

from collections import Counter

from negguide.mining.edits.lexicon import lexicon, singular
from negguide.mining.edits.planner import normalised, words
from negguide.mining.edits.rewordings import rewordings
from negguide.mining.edits.tagging import Tagger
from negguide.mining.item import Edit

NEGATIONS = frozenset(("no", "not", "without", "never", "nobody", "nothing", "none"))
ARTICLES = frozenset(("a", "an", "the"))


def english_objection(caption: str, edit: Edit, tagger: Tagger) -> str | None:
    """Why ``edit`` is not what it says it is, or None.

    For negatives: "paraphrase" (the same in other words, or in another order that means the same), "synonym",
    "hypernym" (a broader word, true of the same picture), "hyponym" (a narrower one, that may be true), "words
    changed" (a swap with other words). For positives: "changed meaning", when things, their attributes or their
    numbers are others.
    """
    before, after = _canonical(caption), _canonical(edit.caption)
    if edit.meaning == "positive":
        return None if _content(before) == _content(after) else "changed meaning"
    if before == after:
        return "paraphrase"
    if normalised(edit.caption) in {normalised(r.caption) for r in rewordings(caption, tagger.tag(caption))}:
        return "paraphrase"
    if edit.category == "swap":
        same = Counter(normalised(caption).split()) == Counter(normalised(edit.caption).split())
        return None if same else "words changed"
    return _too_close(edit) if edit.category in ("object", "attribute", "relation") else None


def _too_close(edit: Edit) -> str | None:
    """How the words that changed may both be true, when the lexicon knows it."""
    old = [word for word in _content_words(edit.before) if word not in _content_words(edit.after)]
    new = [word for word in _content_words(edit.after) if word not in _content_words(edit.before)]
    if len(old) != 1 or len(new) != 1:
        return None
    return lexicon().related(old[0], new[0])


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
