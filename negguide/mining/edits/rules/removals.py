"""One thing left out. The result is true of the original picture as well, so it is no negative as text alone."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import verb_form
from negguide.mining.edits.phrases import Phrase, ends_here, joined_pairs
from negguide.mining.edits.tagging import BE, PREPOSITIONS
from negguide.mining.item import Edit

POINTING = frozenset(("it", "them", "him", "her", "itself", "themselves"))
THEIR = frozenset(("his", "her", "its", "their"))
SIDES = frozenset(
    ("background", "foreground", "distance", "top", "front", "back", "side", "sides", "middle", "center", "centre",
     "bottom", "end", "ends"),
)  # fmt: skip
BODY = frozenset(
    ("hand", "head", "face", "mouth", "lap", "arm", "neck", "back", "shoulder", "ear", "nose", "eye", "foot", "leg",
     "finger", "beak", "body"),
)  # fmt: skip


def removals(caption: Caption) -> Iterator[Candidate]:
    """ "and a cat", one of three things of a list, and "with a hat" or "wearing a hat"."""
    tokens = caption.tokens
    if caption.denied_from == 0:
        return
    for one, two in joined_pairs(tokens):
        after = caption.after(two.at)
        changes = dict.fromkeys(range(two.first - 1, two.at + 1), "")
        if after is not None and after.word in BE:
            if one.first or tokens[two.at + 1].boundary:
                continue
            if not one.plural:
                changes[two.at + 1] = verb_form(after.word, "VBZ")
        elif after is not None and after.tag in ("VBZ", "VBP"):
            continue
        yield Candidate(caption.edit(changes, "remove", avoid=caption.bare(two)))
    yield from _of_lists(caption)
    for phrase in caption.affirmed:
        at = phrase.first - 1
        before = caption.before(phrase.first)
        if before is None or at < 1 or before.word not in ("with", "wearing") or tokens[at - 1].boundary:
            continue
        noun_before = tokens[at - 1].kind == "noun" or tokens[at - 1].tag.startswith("NN")
        if (
            noun_before
            and not caption.in_list(phrase)
            and ends_here(tokens, phrase.at)
            and phrase.word != "background"
        ):
            changes = dict.fromkeys(range(at, last_of(caption, phrase) + 1), "")
            yield Candidate(caption.edit(changes, "remove", avoid=caption.bare(phrase)))


def _of_lists(caption: Caption) -> Iterator[Candidate]:
    """The middle one of "a sink, a tub and a towel": what is left is joined as it was."""
    tokens, text = caption.tokens, caption.text
    for one, two, three in zip(caption.affirmed, caption.affirmed[1:], caption.affirmed[2:], strict=False):
        comma = two.first == one.at + 1 and text[tokens[one.at].end : tokens[two.first].start].strip() == ","
        if not comma or three.first != two.at + 2 or tokens[two.at + 1].word != "and":
            continue
        if tokens[two.at].dep and tokens[two.at].dep not in ("conj", "appos"):
            continue
        start, end = tokens[one.at].end, tokens[two.at].end
        behind = text[end:].lstrip(",")
        end = len(text) - len(behind)
        # from the end of the first to "and"; the mark between them goes too
        yield Candidate(
            Edit.replacing(text, start, end, "", category="remove", backend="rules", avoid=caption.bare(two))
        )


def last_of(caption: Caption, phrase: Phrase) -> int:
    """The last token of a thing and of the words that say where on the rest it is, which mean nothing without it.

    "a cup" of "a table with a cup on it", or "a cup in her hand", "a cup on top", "a cup in the background".
    """
    tokens = caption.tokens
    at = phrase.at
    while at + 1 < len(tokens) and not tokens[at].boundary:
        at += 1
        word, last = tokens[at].word, at + 1 == len(tokens) or tokens[at].boundary
        if word in THEIR and not last and (body := caption.phrase_from(at)) is not None and body.at > at:
            return body.at if body.word in BODY else phrase.at
        side = word.split()[-1] in SIDES  # "in the background" is one token
        if word in POINTING or (side and (last or tokens[at + 1].word != "of")):
            return at
        place = tokens[at].kind == "relation" or word in PREPOSITIONS - {"with", "without"}
        if place and last:
            return at
        if not place and (at == phrase.at + 1 or not (side or word in ("the", "and", "of"))):
            break
    return phrase.at


def removed(caption: Caption, first: int, last: int) -> str:
    """The caption without the tokens from ``first`` to ``last``."""
    return caption.edit(dict.fromkeys(range(first, last + 1), ""), "remove").caption
