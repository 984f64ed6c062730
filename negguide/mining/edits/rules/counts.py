"""Another number of one thing."""

from __future__ import annotations

from collections.abc import Iterator

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import article, lexicon, plural, verb_form
from negguide.mining.edits.phrases import Phrase
from negguide.mining.edits.usage import usage

GROUPS = (
    "group", "herd", "bunch", "crowd", "flock", "couple", "row", "number", "assortment", "collection", "lot",
)  # fmt: skip
"""What counts three or more; a couple is two, so that "two" is refused for it as the same."""
SAID = {
    "a": 400.0,
    "some": 60.0,
    "group": 40.0,
    "one": 8.0,
    "two": 60.0,
    "three": 15.0,
    "four": 6.0,
    "five": 3.0,
    "several": 14.0,
}
"""How common each is, see ``usage.Exchange``."""
UNCOUNTED = frozenset(
    ("view", "picture", "photo", "photograph", "image", "close", "closeup", "shot", "scene", "lot", "kitchen",
     "bathroom", "room", "bedroom", "street", "beach", "field", "city", "area", "painting", "number", "variety", "day",
     "sky", "part", "playing", "sitting", "overview", "angle", "half", "dozen", "front", "back", "top", "side", "group",
     "bunch", "herd", "crowd", "flock", "row", "line", "pile", "collection", "assortment", "team", "toilet", "tub",
     "office", "shower", "reflection", "look", "model", "computer", "hand", "body", "game", "meal", "ocean", "restroom",
     "stall", "wall", "fire", "arrangement", "engine", "scissors", "glasses", "goggles", "pants", "skis", "clothes"),
)  # fmt: skip
"""Places, ways to show things, and words that count others."""
HELD = ("with", "hold", "holding", "watch", "watching", "eat", "eating", "carry", "carrying")
ALONE = frozenset(
    ("toilet", "lap", "one", "mirror", "sink", "selfie", "portrait", "head", "face", "tongue", "mouth", "hand", "only",
     "single", "lone", "another", "other", "each", "alone"),
)  # fmt: skip
"""Said of one."""
WORN = frozenset(
    ("wear", "shirt", "hat", "tie", "suit", "jacket", "dress", "chair", "stool", "skateboard", "surfboard",
     "snowboard", "ski", "board", "beard", "uniform", "bat", "racket", "racquet", "phone", "computer", "laptop",
     "keyboard", "toothbrush", "serve", "opponent", "pitch"),
)  # fmt: skip
"""Worn, ridden or held by one person at a time."""
MANY = frozenset(
    ("various", "many", "several", "numerous", "all", "around", "row", "line", "group", "gathered", "crowd", "crowded",
     "among", "assorted", "different", "multiple", "surround", "pair", "couple", "cover", "fill", "scatter", "pile",
     "full", "their", "they", "collection", "variety", "team", "game", "stack", "circle", "gather", "few", "more",
     "hundred", "there", "set", "lots"),
)  # fmt: skip
"""What is said of several as such."""
VESSELS = ("tray", "pan", "pot", "case", "jar", "cup", "glass", "platter")
TOGETHER = frozenset(
    ("fight", "race", "hug", "kiss", "talk", "meet", "shake", "compete", "cross", "third", "differ", "differing",
     "pair", "side-by-side", "match", "matching", "apart", "opposite", "battle", "wrestle", "argue", "pose", "line",
     "lean"),
)  # fmt: skip
"""What one alone does not do."""


def counts(caption: Caption) -> Iterator[Candidate]:
    """Number words, "several", and from one thing to more and back with all that agrees."""
    for phrase in caption.affirmed:
        if phrase.number is not None and phrase.plural:
            yield from _numbers(caption, phrase)
            if caption.tokens[phrase.number].word in ("two", "2") and _alone(caption, phrase):
                yield from _to_one(caption, phrase)
        elif phrase.plural and phrase.number is None:
            yield from _several_to_one(caption, phrase)
        elif phrase.determiner is not None and not phrase.plural and _multiplies(caption, phrase):
            yield from _to_many(caption, phrase)
        if phrase.word in GROUPS and not phrase.plural:
            yield from _ungrouped(caption, phrase)
        first = caption.tokens[phrase.first]
        if (
            first.word in ("several", "many", "multiple", "numerous")
            and phrase.plural
            and first.head == phrase.at
        ):
            yield Candidate(caption.edit({phrase.first: "two"}, "count"), _weight("several", "two"))


def _ungrouped(caption: Caption, phrase: Phrase) -> Iterator[Candidate]:
    """ "two men" for "a group of men", which may be four; of a couple, which is two, "three" and "four"."""
    tokens = caption.tokens
    of = caption.after(phrase.at)
    inner = caption.phrase_from(phrase.at + 2) if of is not None and of.word == "of" else None
    if (
        inner is None
        or caption.in_list(inner)
        or phrase.modified
        or phrase.adjectives
        or inner.determiner is not None
        or inner.number is not None
    ):
        return
    if (
        phrase.determiner is None
        or tokens[phrase.determiner].word not in ("a", "an")
        or tokens[phrase.at].name
    ):
        return
    changes = {phrase.determiner: "", phrase.at: "", phrase.at + 1: ""}
    if not inner.plural:
        if inner.noun is None or inner.noun.form != "count":
            return
        changes[inner.at] = plural(inner.noun.word)
    verbs = {i: verb_form(tokens[i].word, "VBP") for i in _finite(caption, (phrase.at, inner.at))}
    if any(word in caption.said for word in ("each other's", "both", "one", "its", "it", "huge", "all")):
        return
    for number in ("three", "four") if phrase.word == "couple" else ("two",):
        first = {phrase.determiner: number}
        yield Candidate(caption.edit(changes | first | verbs, "count"), _weight("group", number))


def _finite(caption: Caption, subjects: tuple[int, ...]) -> list[int]:
    return [
        i
        for i, t in enumerate(caption.tokens)
        if t.tag == "VBZ"
        and any(s.dep.startswith("nsubj") and s.head == i for s in (caption.tokens[n] for n in subjects))
    ] + [
        i
        for i, t in enumerate(caption.tokens)
        if t.tag == "VBZ"
        and t.dep in ("aux", "auxpass")
        and any(
            caption.tokens[n].head == t.head and caption.tokens[n].dep.startswith("nsubj") for n in subjects
        )
    ]


def _weight(old: str, new: str) -> float:
    before, after = SAID.get(old, 1.0), SAID.get(new, 1.0)
    return after / (before + after)


def _numbers(caption: Caption, phrase: Phrase) -> Iterator[Candidate]:
    words = lexicon().numbers
    assert phrase.number is not None
    now = caption.tokens[phrase.number]
    apart = {"both", "another", "third", "pair", "one", "second"}
    if apart & caption.said or ("other" in caption.said and "each" not in caption.said):
        return
    if phrase.word in ("half", "side", "end", "part", "thing", "hand", "arm", "leg", "eye"):
        return
    digits = now.word.isdigit()
    old = words[int(now.word) - 1] if digits and int(now.word) <= len(words) else now.word
    if old == "two" and not digits and phrase.determiner is None:
        yield Candidate(caption.edit({phrase.number: "several"}, "count"), _weight("two", "several"))
        subject = "subject" in caption.slots(phrase) and not caption.in_list(phrase)
        if (
            subject
            and usage().is_a(phrase.word, ("person", "animal", "bird"))
            and phrase.first == phrase.number
        ):
            yield Candidate(caption.edit({phrase.number: "a group of"}, "count"), _weight("two", "group"))
    for new in ("two", "three", "four", "five"):
        if new != old:
            said = str(words.index(new) + 1) if digits else new
            yield Candidate(caption.edit({phrase.number: said}, "count"), _weight(old, new))


def _to_one(caption: Caption, phrase: Phrase) -> Iterator[Candidate]:
    agreeing = caption.holders_number(phrase, many=False)
    if agreeing is None or phrase.number is None or phrase.determiner is not None or phrase.noun is None:
        return
    if phrase.noun.form != "count" or TOGETHER & caption.said:
        return
    after = caption.after(phrase.at)
    if after is not None and after.word == "of":
        return
    begins = caption.tokens[phrase.number + 1].word if phrase.number < phrase.at - 1 else phrase.word
    changes = {phrase.number: article(begins), phrase.at: phrase.word} | agreeing
    yield Candidate(caption.edit(changes, "count"), _weight("two", "a"))


def _several_to_one(caption: Caption, phrase: Phrase) -> Iterator[Candidate]:
    """ "a man" for "men" or "some men"."""
    tokens = caption.tokens
    some = tokens[phrase.first].word == "some"
    if (
        (phrase.determiner is not None and not some)
        or "subject" not in caption.slots(phrase)
        or not _alone(caption, phrase)
    ):
        return
    begins = phrase.first + some
    if phrase.noun is not None and phrase.noun.form != "count":
        return
    if plural(phrase.word) != tokens[phrase.at].word and phrase.word != "people":
        return
    if (
        phrase.word in UNCOUNTED
        or (TOGETHER | MANY) & caption.said
        or tokens[phrase.at].name
        or tokens[begins].tag == "VBN"
    ):
        return
    # what several hold, wear or ride is several things
    if any(
        p.plural
        and p.at > phrase.at
        and p.number is None
        and (
            tokens[p.first - 1].tag != "IN"
            or any(t.tag == "VBG" for t in tokens[p.first : p.at])
            or p.kind in ("container", "clothing", "sport", "cutlery", "device")
        )
        for p in caption.phrases
    ):
        return
    agreeing = caption.holders_number(phrase, many=False)
    after = caption.after(phrase.at)
    if agreeing is None or after is None or after.word in ("of", "and", "or") or after.tag.startswith("NN"):
        return
    single = _single(phrase.word)
    one = article(single if begins == phrase.at else tokens[begins].word)
    changes = {phrase.at: single} | agreeing
    if some:
        changes[phrase.first] = one
    else:
        first = single if begins == phrase.at else tokens[begins].text.lower()
        changes[begins] = f"{one} {first}"
    yield Candidate(caption.edit(changes, "count"), _weight("some", "a"))


def _single(word: str) -> str:
    return "person" if word == "people" else word


def _alone(caption: Caption, phrase: Phrase) -> bool:
    """Whether a phrase is no member of a list, and nothing is said of the several as such."""
    apart = {"each", "other", "together", "both", "another", "one", "between", "different", "same", "lined"}
    return (
        not caption.in_list(phrase)
        and not apart & caption.said
        and "side by side" not in caption.text
        and bool(caption.slots(phrase) & {"subject", *HELD})
    )


def _multiplies(caption: Caption, phrase: Phrase) -> bool:
    """Whether there may be more of a thing, all else being equal."""
    noun = phrase.noun
    if (
        phrase.word in UNCOUNTED
        or phrase.kind in ("place", "headwear", "clothing")
        or caption.tokens[phrase.at].name
    ):
        return False
    if noun is not None and noun.form != "count":
        return False
    assert phrase.determiner is not None
    begins = caption.after(phrase.determiner)
    if begins is not None and (
        begins.word in ("few", "little", "lot", "very", "woman", "man") or begins.tag == "NNP"
    ):
        return False
    after = caption.after(phrase.at)
    if after is not None and (
        after.tag.startswith("NN") or (noun is None and after.word == "of" and phrase.word not in VESSELS)
    ):
        return False
    if caption.tokens[phrase.determiner].word not in ("a", "an") or not _alone(caption, phrase):
        return False
    if "subject" in caption.slots(phrase):
        single = ALONE | WORN if usage().is_a(phrase.word, ("person",)) else ALONE
        return not (single & caption.said) and not any(
            p.word == phrase.word for p in caption.phrases if p.at != phrase.at
        )
    return noun is not None and usage().is_a(
        noun.word, ("animal", "fruit", "dish", "bird", "child", "girl", "boy", "container")
    )


def _to_many(caption: Caption, phrase: Phrase) -> Iterator[Candidate]:
    agreeing = caption.holders_number(phrase, many=True)
    if agreeing is None or phrase.determiner is None:
        return
    if "subject" in caption.slots(phrase) and _unagreed(caption, phrase, agreeing):
        return
    for number in ("two", "three"):
        changes = {phrase.determiner: number, phrase.at: plural(phrase.word)} | agreeing
        yield Candidate(caption.edit(changes, "count"), _weight("a", number))


def _unagreed(caption: Caption, phrase: Phrase, agreeing: dict[int, str]) -> bool:
    """Whether a verb in the singular is left behind a subject that has become plural, with no other noun to go with."""
    for at, token in enumerate(caption.tokens):
        if (
            at > phrase.at
            and at not in agreeing
            and (token.tag == "VBZ" or token.word in ("is", "was", "has"))
        ):
            subject = next(
                (i for i, t in enumerate(caption.tokens) if t.dep.startswith("nsubj") and t.head == at), -1
            )
            if token.dep in ("aux", "auxpass"):
                subject = next(
                    (
                        i
                        for i, t in enumerate(caption.tokens)
                        if t.dep.startswith("nsubj") and t.head == token.head
                    ),
                    -1,
                )
            if subject <= phrase.at:
                return True
    return False
