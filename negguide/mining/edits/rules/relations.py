"""Another place."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.usage import Exchange, usage

WHOLE = ("in the", "during", "indoors", "upside down", "in a ")
"""Rows of whole adverbs: nothing has to follow."""
STICKING = frozenset(
    ("hang", "mount", "ride", "paint", "write", "print", "attach", "build", "run", "mounted", "painted",
     "walk", "place",
     "surf", "ski", "shine", "display", "put", "grow", "printed", "written", "focus", "play", "perched", "climb"),
)  # fmt: skip
"""What they say is done in one place and in no other."""


def relations(caption: Caption) -> Iterator[Candidate]:
    """Prepositions of one row of the table of places, before such a landmark and after such a figure."""
    words = [token.word for token in caption.tokens]
    first = {part for word in words for part in (word, word.partition(" ")[0])}
    for row in usage().places:
        avoid = row.more.get("avoid", {})
        for old in row.words:
            if old.partition(" ")[0] not in first:
                continue
            for at in range(1, len(words)):
                end = _matches(words, at, old)
                if end is None or end > caption.denied_from or caption.tokens[at - 1].boundary:
                    continue
                if _fits(caption, row, at, end):
                    for new, weight in row.instead(old):
                        if new in caption.text.lower() or caption.said & set(avoid.get(new, ())):
                            continue
                        changes = {at: new} | dict.fromkeys(range(at + 1, end), "")
                        yield Candidate(caption.edit(changes, "relation"), weight)


def _matches(words: list[str], at: int, old: str) -> int | None:
    """Where a phrase of some words that begins here ends; units of several words are one token."""
    if words[at] == old:
        return at + 1
    joined, end = words[at], at + 1
    while end < len(words) and len(joined) < len(old):
        joined, end = f"{joined} {words[end]}", end + 1
    return end if joined == old else None


def _fits(caption: Caption, row: Exchange, at: int, end: int) -> bool:
    landmark, figure = row.more.get("landmark"), row.more.get("figure")
    tokens = caption.tokens
    if end >= len(tokens) or tokens[end - 1].boundary:
        return landmark is None and next(iter(row.words)).startswith(WHOLE)
    follows = caption.phrase_from(end)
    whole = next(iter(row.words)).startswith(WHOLE) and landmark is None
    if whole:
        return True
    if follows is None or tokens[end].word in ("each", "one"):
        return False
    if "right" in (tokens[at - 1].word,) or tokens[at - 1].word in ("from", "out", "up", "way", "of", "back"):
        return False
    if usage().is_a(follows.word, row.more.get("unless", ())):
        return False
    if landmark is not None and (not usage().is_a(follows.word, landmark) or _inside(caption, follows.at)):
        return False
    if landmark is None and follows.noun is None and not caption.parses:
        return False
    verb = next((tokens[i] for i in range(at - 1, -1, -1) if tokens[i].tag.startswith("V")), None)
    if (
        verb is not None
        and next(iter(row.words)) == "above"
        and verb.lemma in ("rise", "fly", "look", "hang")
    ):
        return False
    if figure is None:
        return True
    if verb is not None and (verb.lemma in STICKING or verb.word in STICKING):
        return False
    before = [p for p in caption.phrases if p.at < at]
    if not before:
        return False
    # what the place is said of: the doer of the verb before it, or the noun right before it
    nearest = before[-1]
    who = (
        caption.counted(before[0].at)
        if nearest.at < at - 1 or tokens[at - 1].tag.startswith("V")
        else nearest.word
    )
    return usage().is_a(who, figure)


def _inside(caption: Caption, at: int) -> bool:
    """Whether a noun is the first half of another, as in "table tennis"."""
    after = caption.after(at)
    return after is not None and after.tag.startswith("NN")
