"""Rules for captions in everyday English: only words that the lexicon knows, and only where they are sure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.lexicon import article, lexicon, plural
from negguide.mining.edits.phrases import (
    HOLDING,
    Phrase,
    affirmed,
    agreement,
    ends_here,
    form_of,
    joined_pairs,
    phrases,
    stands_alone,
    with_article,
)
from negguide.mining.edits.planner import check_categories, naming, normalised, smallest
from negguide.mining.edits.rewordings import rewordings
from negguide.mining.edits.tagging import BE, LexiconTagger, SpacyTagger, Tagger, Token
from negguide.mining.item import Edit

SPACY_MODEL = "en_core_web_sm"
WEARABLE = frozenset(("headwear", "clothing", "wear"))
NUMBERS = ("two", "three", "four", "five", "six")


def make_tagger(tagger: str = "auto", spacy_model: str | None = None) -> Tagger:
    """The evidence that rules go by.

    Args:
        tagger: "lexicon", "spacy", or "auto": spaCy where it is installed together with its small English model.
        spacy_model: name or folder of a spaCy model; naming one asks for spaCy.

    Raises:
        ValueError: no such tagger, its model is missing, or a model is given that would not be used.
        ImportError: spaCy was asked for and is not installed.
    """
    if tagger not in ("auto", "lexicon", "spacy"):
        raise ValueError(f"tagger={tagger!r} is unknown; use auto, lexicon or spacy")
    if tagger == "lexicon" and spacy_model is not None:
        raise ValueError(f"spacy_model={spacy_model!r} is not used by tagger='lexicon'; use tagger='spacy'")
    if tagger == "lexicon" or (tagger == "auto" and spacy_model is None and not _spacy_is_there()):
        return LexiconTagger()
    return SpacyTagger(spacy_model or SPACY_MODEL)


def _spacy_is_there() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("spacy", SPACY_MODEL))


class EnglishRules:
    """Edits of everyday English in all categories, with agreement and articles right.

    ``object``: another noun of its class. ``attribute``: another colour, material or pattern, or the opposite (big,
    small). ``count``: another number. ``relation``: the opposite of a spatial phrase. ``swap``: adjectives exchanged
    between nouns, or nouns of one class around a relation that is not symmetric. ``add``: "and a cat". ``remove``:
    "and a cat" or "with a hat" left out: the caption of a picture without it. ``negation``: "without" for "with" or
    "wearing", "but no" for "and", and the other way round.

    Args:
        tagger: see ``make_tagger``.
        spacy_model: see ``make_tagger``.
    """

    name = "rules"

    def __init__(self, *, tagger: str = "auto", spacy_model: str | None = None) -> None:
        self.tagger = make_tagger(tagger, spacy_model)
        lexicon()  # so that a missing package is an error at the start

    @property
    def description(self) -> dict[str, Any]:
        return {"backend": self.name, "world": False, "tagger": self.tagger.name}

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """All edits that the rules are sure of; none for a caption without known words.

        Raises:
            ValueError: a category is unknown.
        """
        wanted = check_categories(categories)
        tokens = self.tagger.tag(caption)
        edits = [edit for name in wanted for edit in _RULES[name](caption, tokens)]
        if any(phrase.negated for phrase in phrases(tokens)):
            edits = [replace(edit, draw=self._without_negations(edit.prompt)) for edit in edits]
        rng.shuffle(edits)
        return edits

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """Synonyms and other wordings, and "a cat and a dog" for "a dog and a cat"."""
        edits = list(rewordings(caption, self.tagger.tag(caption)))
        rng.shuffle(edits)
        return edits

    def _without_negations(self, caption: str) -> str | None:
        """What to draw: text-to-image models do not read "without a hat" and "but no cat". None = as it is."""
        text, tokens = caption, self.tagger.tag(caption)
        for phrase in reversed(phrases(tokens)):
            joint = phrase.first - 1
            if phrase.negated and joint > 0 and tokens[joint].word in ("without", "but"):
                text = text[: tokens[joint - 1].end] + text[tokens[phrase.at].end :]
        return text if text != caption else None

    def objection(self, caption: str, edit: Edit) -> str | None:
        return english_objection(caption, edit, self.tagger)


def _edit(
    caption: str,
    tokens: list[Token],
    first: int,
    last: int,
    after: str,
    category: str,
    avoid: str = "",
    **more: Any,
) -> Edit:
    """The edit that puts ``after`` in the place of the tokens from ``first`` to ``last``."""
    start, end = tokens[first].start, tokens[last].end
    if caption[start].isupper():
        after = after[:1].upper() + after[1:]
    edit = Edit.replacing(caption, start, end, after, category=category, backend="rules", **more)
    return smallest(naming(edit, avoid))


def _objects(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    words = lexicon()
    gendered = any(token.word in words.gendered for token in tokens)
    said = {token.noun.word for token in tokens if token.noun is not None}
    for phrase in affirmed(tokens):
        noun = phrase.noun
        if not noun.editable or (noun.kind == "person" and gendered):
            continue
        for word in words.nouns_instead(noun):
            if any(words.related_nouns(word, other) for other in said):
                continue  # "jeans and trousers" say one thing twice
            first, after = with_article(tokens, phrase.at, form_of(word, noun))
            yield _edit(caption, tokens, first, phrase.at, after, "object", avoid=noun.word)


def _attributes(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    found = phrases(tokens)
    for at, token in enumerate(tokens):
        head = next((phrase for phrase in found if at in phrase.adjectives), None)
        if token.kind == "adjective" and not (head and head.negated):
            avoid = f"{token.word} {head.noun.word}" if head else ""
            for word in lexicon().adjectives_instead(token.word):
                first, after = with_article(tokens, at, word)
                yield _edit(caption, tokens, first, at, after, "attribute", avoid=avoid)


def _counts(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    words = lexicon()
    for phrase in affirmed(tokens):
        if phrase.number is not None and phrase.plural:
            now = tokens[phrase.number]
            digits = now.word.isdigit()
            value = int(now.word) if digits else words.numbers.index(now.word) + 1
            for other in NUMBERS:
                count = words.numbers.index(other) + 1
                if count != value:
                    after = str(count) if digits else other
                    yield _edit(caption, tokens, phrase.number, phrase.number, after, "count")
        if phrase.noun.form == "count" and phrase.first != phrase.at and stands_alone(tokens, phrase):
            yield from _across_one(caption, tokens, phrase)


def _across_one(caption: str, tokens: list[Token], phrase: Phrase) -> Iterator[Edit]:
    """From one to several, and back: noun, article and verb change together."""
    single = not phrase.plural
    begin = phrase.first if single else phrase.number
    if begin is None or (single and tokens[begin].word not in ("a", "an", "one")):
        return
    if not single and phrase.determiner is not None:
        return
    verb = agreement(tokens, phrase, becomes_plural=single)
    if verb is None:
        return
    last, form = verb
    between = caption[tokens[begin].end : tokens[phrase.at].start]
    noun = plural(phrase.noun.word) if single else phrase.noun.word
    behind = caption[tokens[phrase.at].end : tokens[last].start] + form if form else ""
    for number in NUMBERS[:3] if single else ("one",):
        yield _edit(caption, tokens, begin, last, number + between + noun + behind, "count")


def _relations(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    words = lexicon()
    heads = {phrase.first: phrase for phrase in phrases(tokens)}
    for at, token in enumerate(tokens[:-1]):
        if token.kind != "relation" or token.boundary:
            continue
        follows = heads.get(at + 1)
        for relation in words.relations:
            needs = relation.get("needs")
            if needs and follows is None:
                continue
            if needs == "support" and not words.classes[follows.noun.kind].get("support"):  # type: ignore[union-attr]
                continue
            one, two = relation["sides"]
            if token.word in (*one, *two):
                other = two[0] if token.word in one else one[0]
                yield _edit(caption, tokens, at, at, other, "relation")


def _swaps(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    words = lexicon()
    for one, two in combinations(affirmed(tokens), 2):
        for mine in one.adjectives:
            for theirs in two.adjectives:
                kinds = {words.adjective(tokens[at].word) for at in (mine, theirs)}
                same = words.related_adjectives(tokens[mine].word, tokens[theirs].word) is not None
                if len(kinds) == 1 and not same:
                    yield from _exchanged(caption, tokens, mine, theirs)
        if _can_trade_places(tokens, one, two):
            yield from _exchanged(caption, tokens, one.at, two.at)


def _can_trade_places(tokens: list[Token], one: Phrase, two: Phrase) -> bool:
    """Whether exchanging two nouns gives another meaning, and a picture that one can think of."""
    words = lexicon()
    if (
        one.plural != two.plural
        or one.noun.form != two.noun.form
        or words.related_nouns(one.noun.word, two.noun.word)
    ):
        return False
    living = all(words.classes[p.noun.kind].get("living") for p in (one, two))
    if one.noun.kind != two.noun.kind and not living:
        return False
    if [tokens[at].word for at in one.adjectives] != [tokens[at].word for at in two.adjectives]:
        return True
    between = tokens[one.at + 1 : two.first]
    directed = any(
        token.kind == "relation"
        or token.word in ("chasing", "holding", "carrying", "riding", "watching", "following")
        for token in between
    )
    return directed and not any(token.boundary for token in tokens[one.at : two.first])


def _exchanged(caption: str, tokens: list[Token], one: int, two: int) -> Iterator[Edit]:
    left, mine = with_article(tokens, one, tokens[two].text)
    right, theirs = with_article(tokens, two, tokens[one].text)
    middle = caption[tokens[one].end : tokens[right].start]
    edit = _edit(caption, tokens, left, two, mine + middle + theirs, "swap")
    if sorted(normalised(edit.caption).split()) == sorted(normalised(caption).split()):
        yield edit


def _additions(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    words = lexicon()
    said = {token.noun.word for token in tokens if token.noun is not None}
    for phrase in affirmed(tokens):
        noun = phrase.noun
        verb = agreement(tokens, phrase, becomes_plural=True) if stands_alone(tokens, phrase) else None
        if noun.form != "count" or noun.plural or verb is None:
            continue
        if not verb[1] and not ends_here(tokens, phrase.at):
            continue
        if phrase.determiner is None or tokens[phrase.determiner].word not in ("a", "an"):
            continue
        last, form = verb
        behind = caption[tokens[phrase.at].end : tokens[last].start] + form if form else ""
        for word in words.nouns_instead(noun):
            if not any(words.related_nouns(word, other) for other in said):
                after = f"{tokens[phrase.at].text} and {article(word)} {word}{behind}"
                yield _edit(caption, tokens, phrase.at, last, after, "add")


def _pairs(tokens: list[Token]) -> Iterator[tuple[Phrase, Phrase, tuple[int, str]]]:
    """Noun phrases joined by "and", with the verb that changes when only the first of them is left."""
    for one, two in joined_pairs(tokens):
        after = None if tokens[two.at].boundary else tokens[two.at + 1]
        if after is None or after.word not in BE:
            if agreement(tokens, Phrase(one.first, two.at, one.noun), becomes_plural=False) == (two.at, ""):
                yield one, two, (two.at, "")
        elif one.first == 0:
            single = {"are": "is", "were": "was"}.get(after.word, after.word)
            yield one, two, (two.at + 1, after.word if one.plural else single)


def _removals(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    for one, two, (last, form) in _pairs(tokens):
        behind = caption[tokens[two.at].end : tokens[last].start] + form if form else ""
        kept = caption[tokens[one.first].start : tokens[one.at].end]
        yield _edit(
            caption, tokens, one.first, last, kept + behind, "remove", avoid=_bare(caption, tokens, two)
        )
    for at, phrase in _held(tokens):
        yield _edit(caption, tokens, at, phrase.at, "", "remove", avoid=_bare(caption, tokens, phrase))


def _negations(caption: str, tokens: list[Token]) -> Iterator[Edit]:
    for one, two, (last, form) in _pairs(tokens):
        if two.number is None:
            behind = caption[tokens[two.at].end : tokens[last].start] + form if form else ""
            kept = caption[tokens[one.first].start : tokens[one.at].end]
            drawn = _edit(caption, tokens, one.first, last, kept + behind, "remove").caption
            avoid = _bare(caption, tokens, two)
            after = f"{kept} but no {tokens[two.at].text}{behind}"
            yield _edit(caption, tokens, one.first, last, after, "negation", avoid=avoid, draw=drawn)
    for at, phrase in _held(tokens):
        drawn = _edit(caption, tokens, at, phrase.at, "", "remove").caption
        noun = tokens[phrase.at].text
        single = phrase.noun.form == "count" and not phrase.plural
        after = f"without {article(noun)} {noun}" if single else f"without {noun}"
        avoid = _bare(caption, tokens, phrase)
        yield _edit(caption, tokens, at, phrase.at, after, "negation", avoid=avoid, draw=drawn)
    for phrase in phrases(tokens):
        before = phrase.first - 1
        if before >= 0 and tokens[before].word == "without" and not tokens[before].boundary:
            yield _edit(caption, tokens, before, before, "with", "negation")


def _held(tokens: list[Token]) -> Iterator[tuple[int, Phrase]]:
    """What someone has on or with them, by itself: the place of "with" or "wearing", and the thing."""
    for phrase in affirmed(tokens):
        before = phrase.first - 1
        if before < 1 or tokens[before].word not in HOLDING or tokens[before].boundary:
            continue
        if (
            tokens[before - 1].boundary
            or tokens[before - 1].kind != "noun"
            or not ends_here(tokens, phrase.at)
        ):
            continue
        if phrase.noun.kind in WEARABLE or tokens[before].word == "with":
            yield before, phrase


def _bare(caption: str, tokens: list[Token], phrase: Phrase) -> str:
    """A noun phrase without its article or number."""
    first = phrase.adjectives[0] if phrase.adjectives else phrase.at
    return caption[tokens[first].start : tokens[phrase.at].end]


_RULES: dict[str, Callable[[str, list[Token]], Iterator[Edit]]] = {
    "object": _objects,
    "attribute": _attributes,
    "count": _counts,
    "relation": _relations,
    "swap": _swaps,
    "add": _additions,
    "remove": _removals,
    "negation": _negations,
}
