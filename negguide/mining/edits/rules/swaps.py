"""The same words in another order: attributes exchanged between things, or things between places."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from negguide.mining.edits.caption import Candidate, Caption
from negguide.mining.edits.lexicon import lexicon
from negguide.mining.edits.phrases import Phrase
from negguide.mining.edits.planner import normalised
from negguide.mining.edits.usage import usage

DIRECTED = (
    "look at", "watch", "chase", "follow", "carry", "face", "stare at", "pass", "lead", "pull", "behind", "in front of",
    "guide", "teach", "photograph", "lick", "kiss", "sniff", "push", "feed", "hug", "next to and behind",
)  # fmt: skip
"""What lies between two things that can trade places with another meaning."""
FIXTURES = frozenset(
    ("toilet", "sink", "bathtub", "tub", "bathroom", "shower", "refrigerator", "stove", "oven")
)
NO_ATTRIBUTES = frozenset(
    (
        "front",
        "back",
        "top",
        "side",
        "middle",
        "end",
        "background",
        "lot",
        "way",
        "game",
        "day",
        "night",
        "picture",
        "photo",
        "photograph",
        "image",
        "view",
        "air",
        "hand",
        "head",
        "face",
        "mouth",
        "line",
        "kind",
        "type",
        "piece",
        "slice",
        "time",
        "sun",
        "rain",
        "dark",
        "display",
        "corner",
        "camera",
        "close",
        "distance",
        "tennis",
    )
)
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
    if one.word == two.word and not _apart(caption, one, two):
        return
    for mine in one.adjectives:
        for theirs in two.adjectives:
            a, b = tokens[mine].word, tokens[theirs].word
            kinds = [book.adjective(a), book.adjective(b)]
            if a == b or book.related_adjectives(a, b) or tokens[mine].name or tokens[theirs].name:
                continue
            if _paired(caption, mine) or _paired(caption, theirs):
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
    """An attribute of the first thing said of the second instead: "a white cat on a bed" -> "a cat on a white bed"."""
    book, tokens = lexicon(), caption.tokens
    if one.word == two.word or two.adjectives or two.number is not None or len(one.adjectives) != 1:
        return
    if two.modified and not two.compound:
        return
    at = one.adjectives[0]
    word = tokens[at].word
    kind = book.adjective(word)
    if (
        kind is None
        or _paired(caption, at)
        or tokens[at].name
        or tokens[two.at].name
        or (one.modified and not one.compound)
    ):
        return
    if two.noun is None and not usage().is_a(two.word, LARGE):
        return
    if two.determiner is not None and tokens[two.determiner].word not in ("a", "an", "the"):
        return
    if (
        word not in usage().commonness
        or two.word in usage().kinds["measure"]
        or one.word in usage().kinds["measure"]
    ):
        return
    sizes = kind == "opposite" and word in ("large", "small", "big", "tall", "little")
    if not (sizes or kind in ("color", "pattern")) or (two.noun is not None and two.noun.form == "mass"):
        return
    if word == "white" and FIXTURES & {one.word, two.word}:
        return  # where one is white, so is the other
    if {two.word, one.word} & NO_ATTRIBUTES:
        return
    if (sizes and usage().is_a(two.word, ("person",))) or not usage().suits(word, two.word, kind):
        return
    begins = two.first + 1 if two.determiner == two.first else two.first
    changes = {at: "", begins: f"{word} {tokens[begins].text}"}
    if two.determiner is None and not two.plural:
        return
    yield from _written(caption, changes, moved=True)


def _sized(caption: Caption, one: Phrase, two: Phrase, kinds: list[str | None]) -> bool:
    """Whether a size and a colour can trade places: between things that are made, or between animals."""
    made = ("furniture", "container", "vehicle", "device", "clothing", "sport", "appliance", "building")
    return all(usage().is_a(p.word, made) for p in (one, two)) or (
        one.kind == two.kind and one.kind in ("animal", "bird")
    )


def _paired(caption: Caption, at: int) -> bool:
    """Whether an adjective is one of two that are joined: "black and white"."""
    before, after = caption.before(at), caption.after(at)
    if caption.tokens[at].boundary or (at and caption.tokens[at - 1].boundary):
        return True
    return any(token is not None and token.word in ("and", "or", "very") for token in (before, after))


def _apart(caption: Caption, one: Phrase, two: Phrase) -> bool:
    return bool(set(one.adjectives) and set(two.adjectives))


def _things(caption: Caption, one: Phrase, two: Phrase) -> Iterator[Candidate]:
    tokens = caption.tokens
    if one.word == two.word or lexicon().related_nouns(one.word, two.word) or _hangs(caption, one, two):
        return
    if any(tokens[p.at].name for p in (one, two)) or one.compound or two.compound:
        return
    between = tokens[one.at + 1 : two.first]
    if not between or any(token.word in ("and", "or", "that", "with", "who") for token in between):
        if _both_described(caption, one, two):
            yield from _written(caption, {one.at: tokens[two.at].text, two.at: tokens[one.at].text})
        return
    words = {word for token in between for word in (token.lemma, token.word)}
    words |= {f"{a.lemma} {b.word}" for a, b in pairwise(between)}
    directed = any(word in words for word in DIRECTED)
    if not directed or any(token.boundary for token in tokens[one.at : two.first]) or "of" in words:
        return
    large = STANDING if len(between) == 1 else LARGE
    if (
        not all(usage().is_a(p.word, large) for p in (one, two))
        or caption.in_list(one)
        or caption.in_list(two)
    ):
        return
    if one.plural == two.plural:
        yield from _written(
            caption, {one.at: tokens[two.at].text, two.at: tokens[one.at].text}, keep=(one, two)
        )
    yield from _whole(caption, one, two)


def _hangs(caption: Caption, one: Phrase, two: Phrase) -> bool:
    """Whether words of the caption point to one of them: "his", "which"."""
    pointing = {"his", "her", "its", "himself", "herself", "itself", "it", "he", "she"}
    return bool(pointing & caption.said)


def _both_described(caption: Caption, one: Phrase, two: Phrase) -> bool:
    """Two of a kind, each with something of its own: "a man with a hat and a woman with an umbrella"."""
    if not all(usage().is_a(p.word, ("person",)) for p in (one, two)) and (
        not one.kind or one.kind != two.kind or one.kind not in ("animal", "bird", "vehicle")
    ):
        return False
    if one.plural != two.plural or (one.noun is None or two.noun is None):
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
    if _words(edit.caption) == _words(caption.text):
        yield Candidate(edit, 0.4 if moved else 1.0)


def _words(text: str) -> list[str]:
    """The words of a text in one order; "an" counts as "a"."""
    return sorted("a" if word == "an" else word for word in normalised(text).split())
