"""Another thing in the place of one."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import FEMALE, MALE, Candidate, Caption
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.phrases import Phrase, form_of
from negguide.mining.edits.usage import Exchange, usage

MEASURED = ("plate", "bowl", "basket", "picture")
"""What holds the same things: "a cup of tea" is none of its peers."""
LAID = ("with", "topped", "covered", "full", "filled", "set", "for", "holding")
"""What follows a table that is known by what stands on it."""
GENDERED = {
    "man": MALE, "boy": MALE, "guy": MALE, "woman": FEMALE, "girl": FEMALE, "lady": FEMALE,
}  # fmt: skip


def objects(caption: Caption) -> Iterator[Candidate]:
    """Words of one row of the table of peers, where nothing in the caption belongs to the old one alone."""
    for phrase in caption.affirmed:
        numbered = phrase.number is not None and caption.tokens[phrase.number].word not in (
            "one",
            "1",
            "single",
        )
        if numbered and not phrase.plural:
            continue  # "two woman"
        known = phrase.noun.editable if phrase.noun else usage().is_a(phrase.word, ("person",))
        if not known or phrase.compound or _again(caption, phrase):
            continue
        token = caption.tokens[phrase.at]
        after = caption.after(phrase.at)
        if token.name or (after is not None and after.word == "of" and phrase.word not in MEASURED):
            continue
        if after is not None and after.tag.startswith("NN"):
            continue  # "bathroom sink"
        if phrase.kind == "furniture" and after is not None and after.word in LAID:
            continue
        for row in usage().peers:
            if phrase.word in row.words and _fits(caption, phrase, row):
                yield from _exchanged(caption, phrase, row)


def _again(caption: Caption, phrase: Phrase) -> bool:
    """Whether the caption names such a thing once more: "a cat looking at another cat"."""
    return any(
        phrase.word in token.word.split() or token.lemma == phrase.word
        for at, token in enumerate(caption.tokens)
        if at != phrase.at
    )


def _fits(caption: Caption, phrase: Phrase, row: Exchange) -> bool:
    wanted = row.more.get("slots")
    if wanted is None:
        # a thing that is named with others may well stand beside the new one; who is named is who is there
        return phrase.kind in ("person", "animal", "vehicle", "bird") or not caption.in_list(phrase)
    return not caption.in_list(phrase) and bool(caption.slots(phrase) & set(wanted))


def _exchanged(caption: Caption, phrase: Phrase, row: Exchange) -> Iterator[Candidate]:
    book, tokens = lexicon(), caption.tokens
    others = {p.word for p in caption.phrases if p.at != phrase.at}
    pointing: dict[int, str] = {}
    pronouns = {"he", "she", "his", "her", "him", "himself", "herself", "hers"} & caption.said
    near = row.more.get("near")
    if near is not None and not caption.said & set(near):
        return
    if phrase.word in GENDERED:
        found = _pointing(caption, phrase)
        if found is None:
            return
        pointing = found
    said = caption.said - {phrase.word, tokens[phrase.at].word, *tokens[phrase.at].word.split()}
    avoid = row.more.get("avoid", {})
    for word, weight in row.instead(phrase.word):
        if any(word == other or book.related_nouns(word, other) for other in others):
            continue
        if pronouns and (word in GENDERED) != (phrase.word in GENDERED):
            continue
        if {"child", "kid"} & {word, phrase.word} and {"little", "small", "young", "old"} & caption.said:
            continue
        if not usage().allowed(phrase.word, word, said) or caption.said & set(avoid.get(word, ())):
            continue
        adjectives = [tokens[at].word for at in phrase.adjectives]
        if not all(
            usage().suits(a, word, book.adjective(a))
            for a in adjectives
            if a not in ("young", "little", "small")
        ):
            continue
        if "little" in caption.said and word in ("man", "woman"):
            continue
        changes = {phrase.at: form_of(word, phrase.plural)} | pointing
        yield Candidate(caption.edit(changes, "object", avoid=phrase.word), weight)


def _pointing(caption: Caption, phrase: Phrase) -> dict[int, str] | None:
    """The words that say who is meant, for the other sex; None where they may mean someone else."""
    mine = GENDERED[phrase.word]
    theirs = MALE if mine is FEMALE else FEMALE
    changes = {}
    for at, token in enumerate(caption.tokens):
        if token.word in theirs and token.word not in mine:
            return None
        if token.word in mine:
            new = mine[token.word]
            if token.word == "her" and (
                token.tag == "PRP" or (not token.tag and caption.tokens[at].boundary)
            ):
                new = "him"
            changes[at] = new
    same = [p for p in caption.phrases if GENDERED.get(p.word) is not None and p.at != phrase.at]
    return None if changes and (same or phrase.plural) else changes
