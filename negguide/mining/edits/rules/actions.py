"""Another thing that is done."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import lemma_of, verb_form
from negguide.mining.edits.tagging import Token
from negguide.mining.edits.usage import Exchange, usage

FORMS = ("VB", "VBG", "VBZ", "VBP", "VBN", "VBD")


def actions(caption: Caption) -> Iterator[Candidate]:
    """Verbs of one row of the table of actions, said of such a one, with such an object."""
    for at, token in enumerate(caption.tokens):
        form = _form(token)
        if not form or at >= caption.denied_from or at == 0 or token.name:
            continue
        lemma = lemma_of(token.word, "V")
        for row in usage().actions:
            for old in row.words:
                head, *rest = old.split()
                if head != lemma or not _follow(caption, at, rest):
                    continue
                if _fits(caption, row, at, len(rest)):
                    yield from _exchanged(caption, row, old, at, len(rest), form)


def _form(token: Token) -> str:
    """The form of a verb; without a parse only of what ends in "ing"."""
    if token.kind != "other":
        return ""
    if token.tag:
        return token.tag if token.tag in FORMS else ""
    return "VBG" if token.word.endswith("ing") else ""


def _follow(caption: Caption, at: int, rest: list[str]) -> bool:
    following = [token.word for token in caption.tokens[at + 1 : at + 1 + len(rest)]]
    return following == rest and not any(t.boundary for t in caption.tokens[at : at + len(rest)])


def _fits(caption: Caption, row: Exchange, at: int, more: int) -> bool:
    who, what = row.more.get("who"), row.more.get("object")
    near = row.more.get("near")
    if near is not None and not caption.said & set(near):
        return False
    if who is not None and not usage().is_a(caption.doer_of(at), who):
        return False
    if what is None:
        return True
    if caption.tokens[at + more].boundary:
        return False
    thing = caption.phrase_from(at + more + 1)
    return thing is not None and usage().is_a(caption.counted(thing.at), what)


def _exchanged(
    caption: Caption, row: Exchange, old: str, at: int, more: int, form: str
) -> Iterator[Candidate]:
    own = set(old.split())
    for new, weight in row.instead(old):
        head, *rest = new.split()
        avoided = set(row.more.get("avoid", {}).get(new, ()))
        if avoided & caption.said or {head} & (caption.said - own):
            continue
        changes = {at: " ".join((_inflected(old.split()[0], head, form), *rest))} | {
            at + i: "" for i in range(1, more + 1)
        }
        yield Candidate(caption.edit(changes, "action"), weight)


def _inflected(old: str, new: str, form: str) -> str:
    """The new verb in the form of the old one; what is parked stands, what drives moves: "driving" -> "parked"."""
    if new == "park" and form == "VBG":
        return verb_form(new, "VBN")
    return verb_form(new, "VBG" if old == "park" and form == "VBN" else form)
