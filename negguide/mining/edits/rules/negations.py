"""A thing or a deed denied, or what was denied affirmed."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import SHOWN, Candidate, Caption
from negguide.mining.edits.lexicon import article, lexicon, verb_form
from negguide.mining.edits.phrases import Phrase, ends_here, joined_pairs
from negguide.mining.edits.rules.removals import last_of, removed
from negguide.mining.edits.tagging import BE, PREPOSITIONS
from negguide.mining.edits.usage import usage

NEGATED = {"isn't": "is", "aren't": "are", "wasn't": "was", "weren't": "were"}
ONES_OWN = frozenset(
    ("background", "foreground", "head", "face", "hand", "side", "top", "front", "back", "lot", "way")
)
PLACES = (
    "on",
    "in",
    "next to",
    "near",
    "behind",
    "in front of",
    "under",
    "at",
    "on top of",
    "inside",
    "outside",
    "by",
    "beside",
)
HELPERS = {"VBZ": "does", "VBP": "do"}


def negations(caption: Caption) -> Iterator[Candidate]:
    """ "not" behind a helping verb, "does not", "without" for "with", "no" for "a"; and their opposites."""
    if caption.denied_from < len(caption.tokens):
        yield from _affirmed(caption)
        return
    yield from _deeds(caption)
    yield from _relative(caption)
    yield from _things(caption)
    yield from _fragments(caption)


def _affirmed(caption: Caption) -> Iterator[Candidate]:
    """What a caption denies, affirmed."""
    for at, token in enumerate(caption.tokens):
        if (
            token.word == "not"
            and (before := caption.before(at)) is not None
            and before.word in (*BE, "still")
        ):
            yield Candidate(caption.edit({at: ""}, "negation"))
        elif token.word in NEGATED:
            yield Candidate(caption.edit({at: NEGATED[token.word]}, "negation"))
        elif token.word == "without" and caption.after(at) is not None:
            following = caption.phrase_from(at + 1)
            if following is not None:
                yield Candidate(caption.edit({at: "with"}, "negation"))
        elif token.word == "no":
            yield from _some(caption, at)


def _some(caption: Caption, at: int) -> Iterator[Candidate]:
    """ "a dog" for "no dog", "some dogs" for "no dogs"."""
    phrase = caption.phrase_from(at)
    if (
        phrase is not None
        and phrase.at > at
        and phrase.word != "sign"  # "a no smoking sign"
        and (phrase.plural or not phrase.noun or phrase.noun.form == "count")
    ):
        new = "some" if phrase.plural else article(caption.tokens[at + 1].word)
        yield Candidate(caption.edit({at: new}, "negation"))


def _deeds(caption: Caption) -> Iterator[Candidate]:
    tokens = caption.tokens
    if any(t.word in ("that", "which", "who", "but", "because", "what") for t in tokens):
        return
    helper = next((i for i, t in enumerate(tokens) if t.word in BE), None)
    clause = next((i for i, t in enumerate(tokens) if t.word in ("while", "as")), len(tokens))
    if helper is not None and helper > clause:
        helper = None
    if helper is not None and helper > 0 and not tokens[helper].boundary:
        following = tokens[helper + 1]
        verbal = following.tag in ("VBG", "VBN", "JJ", "IN") or (
            not following.tag and following.word.endswith("ing")
        )
        verbal |= tokens[helper - 1].word == "this" and following.tag == "DT"
        if tokens[helper - 1].word not in ("there", "it") and verbal:
            yield Candidate(caption.edit({helper: f"{tokens[helper].text} not"}, "negation"), 0.8)
        return
    if not caption.parses:
        return
    roots = [i for i, t in enumerate(tokens[:clause]) if t.dep == "ROOT" and t.tag in HELPERS]
    subject = any(t.dep == "nsubj" and roots and t.head == roots[0] for t in tokens)
    if roots and subject and not any(t.dep == "conj" and t.head == roots[0] for t in tokens):
        at = roots[0]
        verb = verb_form(tokens[at].word, "VB")
        if (tokens[at].tag == "VBZ") == (verb == tokens[at].word) or not _agrees(caption, at):
            return
        yield Candidate(
            caption.edit({at: f"{HELPERS[tokens[at].tag]} not {verb}"} | _any(caption, at + 1), "negation"),
            0.8,
        )


def _agrees(caption: Caption, at: int) -> bool:
    """Whether a verb has the number of its subject; where it has not, the parse is wrong."""
    tokens = caption.tokens
    subject = next(i for i, t in enumerate(tokens) if t.dep == "nsubj" and t.head == at)
    if tokens[at].tag == "VBZ":
        return tokens[subject].tag != "NNS" or tokens[subject].text == "glasses"
    joined = any(t.dep == "conj" and t.head == subject for t in tokens)
    return (
        joined
        or tokens[subject].tag in ("NNS", "PRP", "CD")
        or tokens[subject].lemma in usage().kinds["measure"]
    )


def _fragments(caption: Caption) -> Iterator[Candidate]:
    """ "A man not riding a horse", "a cat not on a sofa", "no apples": said where there is little else."""
    tokens = caption.tokens
    if any(
        t.word in BE or t.tag in ("VBZ", "VBP", "VBD") or t.word in ("that", "which", "who") for t in tokens
    ):
        return
    subject = next((p for p in caption.affirmed if "subject" in caption.slots(p)), None)
    if subject is None:
        return
    first = tokens[subject.first]
    if first.word == "some" and subject.plural:
        yield Candidate(caption.edit({subject.first: "no"}, "negation"), 0.1)
    at = subject.at
    if (
        subject.word in usage().kinds["measure"] | SHOWN
        and not tokens[at].boundary
        and tokens[at + 1].word == "of"
    ):
        inner = next((p for p in caption.phrases if p.at > at), None)
        at = inner.at if inner is not None else at
    following = caption.after(at)
    joined = any(t.word in ("and", "while", "as") for t in tokens)
    if following is None:
        return
    deeds = [i for i, t in enumerate(tokens) if t.tag == "VBG" and i > at]
    if following.tag == "VBG" and (len(deeds) == 1 or not joined):
        yield Candidate(caption.edit({at + 1: f"not {following.text}"}, "negation"), 0.15)
    elif not joined and _is_thing(caption, at) and (following.word in PLACES or following.tag == "VBN"):
        yield Candidate(caption.edit({at + 1: f"not {following.text}"}, "negation"), 0.1)


def _is_thing(caption: Caption, at: int) -> bool:
    """Whether a noun is one that the lexicon knows: small models take "pants" of "a dog pants" for one."""
    return caption.tokens[at].noun is not None or usage().is_a(caption.tokens[at].lemma, ("person", "animal"))


def _relative(caption: Caption) -> Iterator[Candidate]:
    """ "that is not sleeping", "that does not have a clock"."""
    tokens = caption.tokens
    for at, token in enumerate(tokens[:-1]):
        if token.word not in ("that", "which", "who") or token.boundary or not at:
            continue
        verb = tokens[at + 1]
        if verb.word in BE:
            following = caption.after(at + 1)
            if following is not None and following.tag in ("VBG", "VBN", "JJ", "IN", "RB"):
                yield Candidate(caption.edit({at + 1: f"{verb.text} not"}, "negation"), 0.8)
        elif verb.word in ("has", "have"):
            yield Candidate(
                caption.edit(
                    {at + 1: "does not have" if verb.word == "has" else "do not have"}
                    | _any(caption, at + 2),
                    "negation",
                ),
                0.8,
            )


def _any(caption: Caption, at: int) -> dict[int, str]:
    """ "any" for "some" at a place."""
    here = at < len(caption.tokens) and caption.tokens[at].word == "some"
    return {at: "any"} if here else {}


def _things(caption: Caption) -> Iterator[Candidate]:
    tokens = caption.tokens
    for phrase in caption.affirmed:
        before = caption.before(phrase.first)
        if before is None or phrase.word in ONES_OWN or tokens[phrase.at].name:
            continue
        at = phrase.first - 1
        if (
            before.word == "with"
            and at > 0
            and _stands_by_itself(caption, phrase)
            and _hangs_on_noun(caption, at)
        ):
            drawn = removed(caption, at, last_of(caption, phrase)) if ends_here(tokens, phrase.at) else None
            changes = {at: "without"} | _indefinite(caption, phrase)
            yield Candidate(caption.edit(changes, "negation", avoid=caption.bare(phrase), draw=drawn), 1.0)
        elif (
            before.word == "with"
            and at > 0
            and _hangs_on_noun(caption, at)
            and (end := _list_end(caption, phrase))
        ):
            changes = {at: "without", end: "or"} | _indefinite(caption, phrase) | _any(caption, end + 1)
            yield Candidate(caption.edit(changes, "negation"), 0.5)
        elif (
            before.word == "wearing"
            and at > 0
            and _stands_by_itself(caption, phrase)
            and tokens[at - 1].tag.startswith("NN")
        ):
            drawn = removed(caption, at, last_of(caption, phrase))
            yield Candidate(
                caption.edit({at: "not wearing"} | _indefinite(caption, phrase), "negation",
                             avoid=caption.bare(phrase), draw=drawn), 1.0
            )  # fmt: skip
        elif (
            before.word in ("is", "are")
            and at > 0
            and tokens[at - 1].word == "there"
            and phrase.determiner is not None
            and tokens[phrase.determiner].word in ("a", "an")
            and phrase.word not in usage().kinds["measure"]
        ):
            yield Candidate(
                caption.edit({phrase.determiner: "no"}, "negation", avoid=caption.bare(phrase)), 1.0
            )
    for one, two in joined_pairs(tokens):
        if two.number is None and not two.modified and not two.adjectives and not _verb_follows(caption, two):
            joint = two.first - 1
            drawn = removed(caption, joint, two.at)
            changes = dict.fromkeys(range(two.first, two.at), "") | {
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
    return (
        {phrase.first: "any"}
        if first.word in ("several", "many", "various", "multiple") and first.head == phrase.at
        else {}
    )


def _stands_by_itself(caption: Caption, phrase: Phrase) -> bool:
    """Nothing is joined to it, and nothing is said of it: "with a dog that sleeps"."""
    if caption.in_list(phrase):
        return False
    after = caption.after(phrase.at)
    if any(token.word in ("and", "or", "both") for token in caption.tokens[phrase.at :]):
        return False
    return after is None or after.word not in ("of", "that", "which", "who")


def _list_end(caption: Caption, phrase: Phrase) -> int | None:
    """The place of "and" in the list that begins with a phrase, where the list ends the caption."""
    tokens = caption.tokens
    joints = [i for i in range(phrase.at + 1, len(tokens)) if tokens[i].word == "and"]
    if len(joints) != 1:
        return None
    last = caption.phrase_from(joints[0] + 1)
    listed = tokens[phrase.at : joints[0]]
    if last is None or any(t.tag.startswith("V") or t.word in BE for t in tokens[phrase.at :]):
        return None
    return None if any(t.kind == "relation" or t.word in PREPOSITIONS for t in listed) else joints[0]


def _hangs_on_noun(caption: Caption, at: int) -> bool:
    before = caption.tokens[at - 1]
    return before.kind == "noun" or before.tag.startswith("NN") or lexicon().noun(before.word) is not None


def _verb_follows(caption: Caption, phrase: Phrase) -> bool:
    after = caption.after(phrase.at)
    return after is not None and (after.word in BE or after.tag in ("VBZ", "VBP"))
