"""Another colour, material, pattern, size or state of one thing."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.tagging import BE
from negguide.mining.edits.usage import usage

SHADES = frozenset(
    ("light", "dark", "bright", "pale", "deep", "lime", "sky", "olive", "navy", "baby", "royal", "forest",
     "mint", "hot"),
)  # fmt: skip
"""What goes with one colour and not with another: "lime green"."""
COMPACT = frozenset(("compact", "sized", "size"))


def attributes(caption: Caption) -> Iterator[Candidate]:
    """Adjectives that exclude the old one, and that one says of such a thing."""
    book, tokens = lexicon(), caption.tokens
    for at, token in enumerate(tokens):
        if token.kind != "adjective" or token.name or at >= caption.denied_from:
            continue
        if at and tokens[at - 1].word in SHADES and not tokens[at - 1].boundary:
            continue
        head = next((p for p in caption.phrases if at in p.adjectives), None)
        if head is None:
            subject = _said_of(caption, at)
            if subject is None:
                continue
            noun, avoid = subject, ""
        else:
            noun, avoid = head.word, f"{token.word} {head.word}"
            between = {tokens[i].word for i in range(at + 1, head.at)}
            if COMPACT & between or any(
                not usage().suits(token.word, word, book.adjective(token.word)) for word in between
            ):
                continue
            if head.compound and book.adjective(token.word) == "material":
                continue  # "a glass window skyscraper"
        kind = book.adjective(token.word)
        if not usage().suits(token.word, noun, kind):
            continue
        for word in book.adjectives_instead(token.word):
            if word not in usage().commonness:
                continue
            listed = any(tokens[i].word == word for i in range(max(0, at - 3), min(len(tokens), at + 4)))
            if listed or not usage().suits(word, noun, kind):
                continue
            edit = caption.edit({at: word}, "attribute", avoid=avoid)
            yield Candidate(edit, usage().weight(token.word, word))


def _said_of(caption: Caption, at: int) -> str | None:
    """The noun of which an adjective behind "is" is said: "the umbrella is open"."""
    tokens = caption.tokens
    before, after = caption.before(at), caption.after(at)
    if (
        before is None
        or before.word not in BE
        or not (after is None or after.word in ("and", "in", "on", "with"))
    ):
        return None
    head = next((p for p in caption.phrases if p.at == at - 2), None)
    return head.word if head and tokens[at].word not in ("open", "old", "young") else None
