"""A thing or a deed denied, or what was denied affirmed."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import article, verb_form
from negguide.mining.edits.phrases import Phrase, ends_here, joined_pairs
from negguide.mining.edits.rules.removals import removed
from negguide.mining.edits.tagging import BE

NEGATED = {"isn't": "is", "aren't": "are", "wasn't": "was", "weren't": "were"}
ONES_OWN = frozenset(("background", "foreground", "head", "face", "hand", "side", "top", "front", "back", "lot", "way"))
HELPERS = {"VBZ": "does", "VBP": "do"}


def negations(caption: Caption) -> Iterator[Candidate]:
    """ "not" behind a helping verb, "does not", "without" for "with", "no" for "a"; and their opposites."""
    if caption.denied_from < len(caption.tokens):
        yield from _affirmed(caption)
        return
    yield from _deeds(caption)
    yield from _things(caption)


def _affirmed(caption: Caption) -> Iterator[Candidate]:
    """What a caption denies, affirmed."""
    for at, token in enumerate(caption.tokens):
        if token.word == "not" and (before := caption.before(at)) is not None and before.word in (*BE, "still"):
            yield Candidate(caption.edit({at: ""}, "negation"))
        elif token.word in NEGATED:
            yield Candidate(caption.edit({at: NEGATED[token.word]}, "negation"))
        elif token.word == "without" and caption.after(at) is not None:
            following = caption.phrase_from(at + 1)
            if following is not None:
                yield Candidate(caption.edit({at: "with"}, "negation"))
        elif token.word == "no" and (phrase := caption.phrase_from(at)) is not None:
            if phrase.at > at and (phrase.plural or phrase.noun is None or phrase.noun.form == "count"):
                new = "some" if phrase.plural else article(caption.tokens[at + 1].word)
                yield Candidate(caption.edit({at: new}, "negation"))


def _deeds(caption: Caption) -> Iterator[Candidate]:
    tokens = caption.tokens
    if any(t.word in ("that", "which", "who", "while", "as", "but", "because", "what", "ready", "about") for t in tokens):
        return
    helper = next((i for i, t in enumerate(tokens) if t.word in BE), None)
    if helper is not None and helper > 0 and not tokens[helper].boundary:
        following = tokens[helper + 1]
        verbal = following.tag in ("VBG", "VBN", "JJ", "IN") or (not following.tag and following.word.endswith("ing"))
        if tokens[helper - 1].word not in ("there", "it", "this") and verbal:
            yield Candidate(caption.edit({helper: f"{tokens[helper].text} not"}, "negation"), 0.8)
        return
    if not caption.parses:
        return
    roots = [i for i, t in enumerate(tokens) if t.dep == "ROOT" and t.tag in HELPERS and t.word not in ("has", "have")]
    subject = any(t.dep == "nsubj" and roots and t.head == roots[0] for t in tokens)
    if roots and subject and not any(t.dep == "conj" and t.head == roots[0] for t in tokens):
        at = roots[0]
        verb = verb_form(tokens[at].word, "VB")
        yield Candidate(caption.edit({at: f"{HELPERS[tokens[at].tag]} not {verb}"}, "negation"), 0.8)


def _things(caption: Caption) -> Iterator[Candidate]:
    tokens = caption.tokens
    for phrase in caption.affirmed:
        before = caption.before(phrase.first)
        if before is None or phrase.word in ONES_OWN or tokens[phrase.at].name:
            continue
        at = phrase.first - 1
        if before.word == "with" and at > 0 and _stands_by_itself(caption, phrase) and _hangs_on_noun(caption, at):
            drawn = removed(caption, at, phrase.at)
            changes = {at: "without"} | _indefinite(caption, phrase)
            yield Candidate(
                caption.edit(changes, "negation", avoid=caption.bare(phrase), draw=drawn), 1.0
            )
        elif before.word == "wearing" and at > 0 and _stands_by_itself(caption, phrase) and tokens[at - 1].tag.startswith("NN"):
            drawn = removed(caption, at, phrase.at)
            yield Candidate(
                caption.edit({at: "not wearing"} | _indefinite(caption, phrase), "negation",
                             avoid=caption.bare(phrase), draw=drawn), 1.0
            )  # fmt: skip
        elif before.word in ("is", "are") and at > 0 and tokens[at - 1].word == "there":
            if phrase.determiner is not None and tokens[phrase.determiner].word in ("a", "an"):
                yield Candidate(caption.edit({phrase.determiner: "no"}, "negation", avoid=caption.bare(phrase)), 1.0)
    for one, two in joined_pairs(tokens):
        if two.number is None and not two.modified and not two.adjectives and not _verb_follows(caption, two):
            joint = two.first - 1
            drawn = removed(caption, joint, two.at)
            changes = {at: "" for at in range(two.first, two.at)} | {
                joint: "but no", two.at: tokens[two.at].text
            }  # fmt: skip
            if one.first == 0 or tokens[one.first - 1].word == "with":
                yield Candidate(caption.edit(changes, "negation", avoid=caption.bare(two), draw=drawn), 0.7)


def _indefinite(caption: Caption, phrase: Phrase) -> dict[int, str]:
    """Without numbers and "some": "without two cats" would leave one."""
    tokens = caption.tokens
    if phrase.number is not None and phrase.plural:
        return {phrase.number: ""}
    if phrase.determiner is not None and tokens[phrase.determiner].word in ("some", "the"):
        return {phrase.determiner: "any" if tokens[phrase.determiner].word == "some" else "the"}
    first = tokens[phrase.first]
    return {phrase.first: "any"} if first.word in ("several", "many", "various") and first.head == phrase.at else {}


def _stands_by_itself(caption: Caption, phrase: Phrase) -> bool:
    """Nothing is joined to it, and nothing is said of it: "with a dog that sleeps"."""
    if caption.in_list(phrase):
        return False
    after = caption.after(phrase.at)
    if after is None:
        return True
    return ends_here(caption.tokens, phrase.at) and after.word not in ("on", "in", "of", "for", "to", "from", "at", "above", "by")


def _hangs_on_noun(caption: Caption, at: int) -> bool:
    before = caption.tokens[at - 1]
    return before.kind == "noun" or before.tag.startswith("NN")


def _verb_follows(caption: Caption, phrase: Phrase) -> bool:
    after = caption.after(phrase.at)
    return after is not None and (after.word in BE or after.tag in ("VBZ", "VBP"))
