"""The same words in another order: attributes exchanged between things, or things between places."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from negguide._utils.text import normalised
from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.phrases import Phrase
from negguide.mining.edits.tagging import PREPOSITIONS
from negguide.mining.edits.usage import usage

DIRECTED = (
    "watch", "look at", "stare at", "chase", "follow", "face", "lead", "guide", "teach", "photograph", "lick", "kiss",
    "sniff", "feed", "hug", "bite", "serve", "approach", "help", "point at", "wave at", "smile at", "look on",
    "run away from", "walk towards", "walk toward", "run towards", "carry", "pull",
)  # fmt: skip
"""What one living being does to another, and the other could do to it."""
ASIDE = (
    "behind", "in front of", "pass", "ahead of", "next to and behind", "to the left of", "to the right of",
    "on the left of", "on the right of",
)  # fmt: skip
"""What lies between two large things that can trade places with another meaning."""
ASIDE_ENDS = frozenset((*ASIDE, "passes", "passing", "of", "behind"))
BESIDE = ("next to", "near", "beside", "behind", "in front of", "by")
LIVING = ("person", "animal", "swimmer", "bird")
NO_ATTRIBUTES = frozenset(
    ("front", "back", "top", "side", "middle", "end", "background", "lot", "way", "game", "day", "night", "picture",
     "photo", "photograph", "image", "view", "air", "hand", "head", "face", "mouth", "line", "kind", "type", "piece",
     "slice", "time", "sun", "rain", "dark", "display", "corner", "camera", "close", "distance", "tennis", "room",
     "bathroom", "kitchen", "bedroom", "body", "area", "scene", "shade", "ball", "group", "person"),
)  # fmt: skip
"""What is no thing of its own, or has no colour and no size that is worth a word."""
LARGE = ("person", "animal", "vehicle", "furniture", "bus", "truck", "train", "boat", "swimmer", "bird")
STANDING = (*LARGE, "building", "fixture", "plant", "appliance", "device")
"""What is behind or in front of another thing where no verb says what it does there."""


def swaps(caption: Caption) -> Iterator[Candidate]:
    """Attributes that suit either thing, and things that can do the same to each other or stand in the same places."""
    for one, two in combinations(caption.affirmed, 2):
        yield from _attributes(caption, one, two)
        yield from _moved(caption, one, two)
        yield from _moved(caption, two, one)
        yield from _things(caption, one, two)


def _attributes(caption: Caption, one: Phrase, two: Phrase) -> Iterator[Candidate]:
    book, tokens = lexicon(), caption.tokens
    if (one.word == two.word and not _apart(caption, one, two)) or (
        {one.word, two.word} & usage().kinds["measure"]
    ):
        return
    for mine in one.adjectives:
        for theirs in two.adjectives:
            a, b = tokens[mine].word, tokens[theirs].word
            kinds = [book.adjective(a), book.adjective(b)]
            if a == b or book.related_adjectives(a, b) or tokens[mine].name or tokens[theirs].name:
                continue
            if any(_paired(caption, at) or _fused(caption, at, p) for at, p in ((mine, one), (theirs, two))):
                continue
            if not (usage().suits(b, one.word, kinds[1]) and usage().suits(a, two.word, kinds[0])):
                continue
            looks = kinds[0] == kinds[1] or {*kinds} <= {"color", "material", "pattern"}
            if not looks and not _sized(caption, one, two, kinds):
                continue
            yield from _written(caption, {mine: tokens[theirs].word, theirs: tokens[mine].word})
    numbers = (one.number, two.number)
    if one.plural and two.plural and None not in numbers:
        left, right = (tokens[at].word for at in numbers if at is not None)
        if left != right and one.number is not None and two.number is not None:
            yield from _written(caption, {one.number: right, two.number: left})


def _moved(caption: Caption, one: Phrase, two: Phrase) -> Iterator[Candidate]:
    """A colour of the first thing said of the second instead: "a red car by a bus" -> "a car by a red bus".

    The caption does not say what colour the second thing has, so only colours move that it is seldom found in.
    """
    book, tokens = lexicon(), caption.tokens
    if one.word == two.word or two.adjectives or two.number is not None or len(one.adjectives) != 1:
        return
    if any(phrase.modified and not phrase.compound for phrase in (one, two)) or two.negated:
        return
    at = one.adjectives[0]
    word = tokens[at].word
    if book.adjective(word) != "color" or _paired(caption, at) or tokens[at].name or tokens[two.at].name:
        return
    if not _seldom(word, two) or not usage().suits(word, two.word, "color"):
        return
    if two.determiner is None and not two.plural:
        return
    if two.determiner is not None and tokens[two.determiner].word not in ("a", "an", "the"):
        return
    if {two.word, one.word} & (NO_ATTRIBUTES | usage().kinds["measure"]):
        return
    if two.at + 1 < len(tokens) and tokens[two.at + 1].tag.startswith("NN") and not tokens[two.at].boundary:
        return
    left, right = sorted((one, two), key=lambda phrase: phrase.at)
    between = [token.word for token in tokens[left.at + 1 : right.first]]
    if between in (["and"], ["or"], ["with"], []):
        return  # "a red shirt and tie": both may be red as it is
    if tokens[at - 1].boundary or sum(token.word == word for token in tokens) > 1:
        return
    begins = two.first + 1 if two.determiner == two.first else two.first
    yield from _written(caption, {at: "", begins: f"{word} {tokens[begins].text}"}, moved=True)


def _seldom(colour: str, phrase: Phrase) -> bool:
    """Whether it is news that such a thing has such a colour."""
    table = usage().seldom
    return usage().is_a(phrase.word, table.get(colour, table["other"]))


def _sized(caption: Caption, one: Phrase, two: Phrase, kinds: list[str | None]) -> bool:
    """Whether a size and a colour can trade places: between things that are made, or between animals."""
    made = ("furniture", "container", "vehicle", "device", "clothing", "sport", "appliance", "building")
    return all(usage().is_a(p.word, made) for p in (one, two)) or (
        one.kind == two.kind and one.kind in ("animal", "bird")
    )


def _paired(caption: Caption, at: int) -> bool:
    """Whether an adjective is one of two that are joined: "black and white"."""
    tokens = caption.tokens
    before, after = caption.before(at), caption.after(at)
    if tokens[at].boundary or (at and tokens[at - 1].boundary and tokens[at - 1].kind == "adjective"):
        return True
    if after is not None and after.word in ("and", "or"):
        return True
    if before is None or before.word not in ("and", "or", "very"):
        return False
    # "a pink shoe and blue jeans" joins two things
    return at < 2 or before.word == "very" or tokens[at - 2].kind == "adjective" or tokens[at - 2].tag == "JJ"


def _fused(caption: Caption, at: int, phrase: Phrase) -> bool:
    """Whether an adjective goes with the word after it: "old fashioned", "blue plastic"."""
    following = caption.tokens[at + 1]
    return at + 1 < phrase.at and not following.tag.startswith("NN")


def _apart(caption: Caption, one: Phrase, two: Phrase) -> bool:
    return bool(set(one.adjectives) and set(two.adjectives))


def _things(caption: Caption, one: Phrase, two: Phrase) -> Iterator[Candidate]:
    tokens = caption.tokens
    if one.word == two.word or lexicon().related_nouns(one.word, two.word) or _hangs(caption, one, two):
        return
    if any(tokens[p.at].name for p in (one, two)) or {one.word, two.word} & {
        "someone",
        "somebody",
        "everyone",
    }:
        return
    if _supports(caption, one, two):
        yield from _written(
            caption, {one.at: tokens[two.at].text, two.at: tokens[one.at].text}, keep=(one, two)
        )
        return
    between = tokens[one.at + 1 : two.first]
    if not between or any(token.word in ("and", "or", "that", "with", "who") for token in between):
        if _both_described(caption, one, two) and not (one.compound or two.compound):
            yield from _written(caption, {one.at: tokens[two.at].text, two.at: tokens[one.at].text})
        return
    words = {word for token in between for word in (token.lemma, token.word)}
    words |= {f"{a.lemma} {b.word}" for a, b in pairwise(between)}
    words |= {
        f"{a.lemma} {b.word} {c.word}" for a, b, c in zip(between, between[1:], between[2:], strict=False)
    }
    if any(token.boundary for token in tokens[one.at : two.first]) or "of" in words:
        return
    if words & set(DIRECTED):
        kinds: tuple[str, ...] = LIVING
    elif words & set(ASIDE) and tokens[two.first - 1].word in ASIDE_ENDS:
        kinds = STANDING if len(between) == 1 else LARGE
    else:
        return
    if not all(usage().is_a(p.word, kinds) and not caption.in_list(p) for p in (one, two)):
        return
    # what is on, in or of another thing does not do anything by itself
    before = tokens[one.first - 1] if one.first else None
    if before is not None and (
        before.word in PREPOSITIONS or (kinds is not LIVING and before.tag.startswith("V"))
    ):
        return
    if one.plural == two.plural and not (one.compound or two.compound):
        yield from _written(
            caption, {one.at: tokens[two.at].text, two.at: tokens[one.at].text}, keep=(one, two)
        )
    yield from _whole(caption, one, two)


def _hangs(caption: Caption, one: Phrase, two: Phrase) -> bool:
    """Whether words of the caption point to one of them: "his", "which"."""
    pointing = {"his", "her", "himself", "herself", "he", "she"}
    if not all(usage().is_a(phrase.word, ("person",)) for phrase in (one, two)):
        pointing |= {"its", "it's", "itself", "it"}
    return bool(pointing & caption.said)


def _supports(caption: Caption, one: Phrase, two: Phrase) -> bool:
    """Two of a kind that others are on or in: "on a chair next to a bed", "a man on a bus and a woman on a train"."""
    tokens = caption.tokens
    if not one.kind or one.kind != two.kind or one.kind not in ("furniture", "vehicle", "container"):
        return False
    if one.plural != two.plural or one.compound or two.compound or two.first <= one.at + 1:
        return False
    before = [tokens[p.first - 1].word if p.first else "" for p in (one, two)]
    if before[0] not in ("on", "in") or before[1] not in (*BESIDE, before[0]):
        return False
    if before[1] in BESIDE:
        return two.first == one.at + 2
    apart = [p.word for p in caption.phrases if one.at < p.at < two.at]
    return bool(apart) and any(t.word in ("and", "while", "as") for t in tokens[one.at : two.first])


def _both_described(caption: Caption, one: Phrase, two: Phrase) -> bool:
    """Two of a kind, each with something of its own: "a man with a hat and a woman with an umbrella"."""
    if not all(usage().is_a(p.word, ("person",)) for p in (one, two)) and (
        not one.kind or one.kind != two.kind or one.kind not in ("animal", "bird", "vehicle")
    ):
        return False
    if one.plural != two.plural or one.modified or two.modified:
        return False
    if {one.word, two.word} & usage().kinds["measure"]:
        return False
    between = caption.tokens[one.at + 1 : two.first]
    joint = [i for i, token in enumerate(between) if token.word in ("and", "while", "with")]
    # something stands between the first and what joins them, or the second has what the first has not
    return bool(joint) and (joint[-1] > 1 or bool(one.adjectives) != bool(two.adjectives))


def _whole(caption: Caption, one: Phrase, two: Phrase) -> Iterator[Candidate]:
    """Noun phrases exchanged with all that stands before the nouns, where no verb has to follow their number."""
    text, tokens = caption.text, caption.tokens
    if any(t.tag in ("VBZ", "VBP") or t.word in ("is", "are") for t in tokens) and one.plural != two.plural:
        return
    if one.first == one.at and two.first == two.at:
        return
    if {"other", "another"} & {token.word for p in (one, two) for token in tokens[p.first : p.at]}:
        return
    left, right = (text[tokens[p.first].start : tokens[p.at].end] for p in (one, two))
    if tokens[one.first].start == 0 and left[0].isupper() and not text.isupper():
        left = left[0].lower() + left[1:]
    changes = {one.first: right, two.first: left}
    changes |= {at: "" for p in (one, two) for at in range(p.first + 1, p.at + 1)}
    yield from _written(caption, changes)


def _written(
    caption: Caption, changes: dict[int, str], keep: tuple[Phrase, ...] = (), *, moved: bool = False
) -> Iterator[Candidate]:
    adjectives = [at for phrase in keep for at in phrase.adjectives]
    if adjectives and not all(
        usage().suits(caption.tokens[at].word, other.word, lexicon().adjective(caption.tokens[at].word))
        for phrase, other in ((keep[0], keep[1]), (keep[1], keep[0]))
        for at in phrase.adjectives
    ):
        return
    edit = caption.edit(
        {at: word.lower() if word.istitle() and at else word for at, word in changes.items()}, "swap"
    )
    doubled = any(a == b for a, b in pairwise(normalised(edit.caption).split()))
    if not doubled and _words(edit.caption) == _words(caption.text):
        yield Candidate(edit, 0.4 if moved else 1.0)


def _words(text: str) -> list[str]:
    """The words of a text in one order; "an" counts as "a"."""
    return sorted("a" if word == "an" else word for word in normalised(text).split())
