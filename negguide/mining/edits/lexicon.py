"""The words that edits are sure of: which stand for each other, and which mean the same (``lexicon.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

EXTRA = "pip install inflect lemminflect"


@dataclass(frozen=True)
class Noun:
    """A noun of the lexicon in one of its forms.

    Attributes:
        word: in the singular ("puppy"); the word itself for nouns without one ("jeans").
        base: the word of the lexicon that it is filed under ("dog").
        kind: its class ("animal").
        form: "count", "mass" or "plural".
        plural: whether this form is a plural.
        editable: False for words that often mean something else.
    """

    word: str
    base: str
    kind: str
    form: str
    plural: bool
    editable: bool


class Lexicon:
    """Look up words. All arguments are lower case, and all relations go both ways."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.classes: dict[str, dict[str, Any]] = data["nouns"]
        self.adjectives: dict[str, dict[str, Any]] = data["adjectives"]
        self.opposites: list[list[list[str]]] = list(data["opposites"].values())
        self.numbers: list[str] = data["numbers"]["words"]
        self.places: list[list[str]] = [list(row["words"]) for row in data["places"]]
        self.fixed: list[str] = data["fixed"]["phrases"]
        self.same: list[list[str]] = data["same"]["phrases"]
        self._nouns: dict[str, Noun] = {}
        self._units: dict[str, str] = {}
        self._related: dict[tuple[str, str], str | None] = {}
        self._listed = {
            name: {
                (base, other)
                for group in self.classes.values()
                for base, related in group["words"].items()
                for other in related.get(name, ())
            }
            for name in ("synonyms", "near")
        }
        self._adjectives = {word: "opposite" for sides in self.opposites for side in sides for word in side}
        for kind, group in reversed(self.adjectives.items()):
            self._adjectives |= dict.fromkeys(group["words"], kind)
        ambiguous = set(data["ambiguous"]["words"])
        for kind, group in self.classes.items():
            for base, related in group["words"].items():
                for word in (base, *related.get("synonyms", ()), *related.get("hyponyms", ())):
                    self._add(word, base, kind, group["form"], word not in ambiguous)

    def _add(self, word: str, base: str, kind: str, form: str, editable: bool) -> None:
        # A word is filed under itself where it has a place of its own, else where it comes first.
        own = word in self.classes[kind]["words"]
        forms = {word: form == "plural"}
        if form == "count":
            forms[plural(word)] = True
        for text, is_plural in forms.items():
            if (own and word == base) or text not in self._nouns:
                self._nouns[text] = Noun(word, base, kind, form, is_plural, editable)

    @property
    def units(self) -> dict[str, str]:
        """What is read as one: fixed phrases ("fixed"), spatial phrases ("relation"), nouns of two words ("other")."""
        if not self._units:
            self._units = {word: "fixed" for phrase in self.fixed for word in (phrase, plural(phrase))}
            self._units |= {word: "other" for word in self._nouns if " " in word}
            self._units |= {phrase: "relation" for row in self.places for phrase in row}
        return self._units

    def noun(self, word: str) -> Noun | None:
        """The entry of a noun, in the singular or the plural; None = not known."""
        return self._nouns.get(word)

    def adjective(self, word: str) -> str | None:
        """The class of an adjective: "color", "material", "pattern" or "opposite"."""
        return self._adjectives.get(word)

    def adjectives_instead(self, word: str) -> list[str]:
        """Adjectives that exclude ``word``."""
        found: list[str] = []
        for group in self.adjectives.values():
            if word in group["words"]:
                found += [other for other in group["choices"] if self.related_adjectives(word, other) is None]
        for one, two in self.opposites:
            found += two if word in one else one if word in two else []
        return list(dict.fromkeys(found))

    def related(self, one: str, two: str) -> str | None:
        """How two words may both be true of one thing: "synonym", "hypernym" (the second is broader), "hyponym"."""
        return self.related_nouns(one, two) or self.related_adjectives(one, two)

    def related_nouns(self, one: str, two: str) -> str | None:
        """As ``related``, of nouns."""
        if (one, two) not in self._related:
            self._related[one, two] = self._relation_of_nouns(one, two)
        return self._related[one, two]

    def _relation_of_nouns(self, one: str, two: str) -> str | None:
        first, second = self.noun(one), self.noun(two)
        one, two = first.word if first else one, second.word if second else two
        if one == two:
            return "synonym"
        for low, high, name in ((first, two, "hypernym"), (second, one, "hyponym")):
            if low is not None and high in self._broader(low):
                return name
        if any(
            self._named_by(*pair, name) for pair in ((one, two), (two, one)) for name in ("synonyms", "near")
        ):
            return "synonym"
        if first is not None and second is not None and first.base == second.base:
            return "hypernym" if two == first.base else "hyponym" if one == second.base else "synonym"
        return None

    def _broader(self, noun: Noun) -> set[str]:
        words = self.classes[noun.kind]["words"]
        narrow_in = {base for base, related in words.items() if noun.word in related.get("hyponyms", ())}
        return {*self.classes[noun.kind]["hypernyms"], *narrow_in}

    def _named_by(self, one: str, two: str, name: str) -> bool:
        """Whether ``two``, or what it is filed under, stands under ``name`` of ``one``, or of what that is under."""
        listed = self._listed[name]
        return any((base, other) in listed for base in self._with_base(one) for other in self._with_base(two))

    def _with_base(self, word: str) -> set[str]:
        noun = self.noun(word)
        return {word, noun.base} if noun else {word}

    def related_adjectives(self, one: str, two: str) -> str | None:
        """How two adjectives may both be true of one thing; None = they exclude each other, or are not known."""
        if one == two:
            return "synonym"
        for group in self.adjectives.values():
            if any(one in words and two in words for words in (*group["synonyms"], *group["near"])):
                return "synonym"
        same_side = any(one in side and two in side for sides in self.opposites for side in sides)
        return "synonym" if same_side else None

    def exclude(self, one: str, two: str) -> bool:
        """Whether two adjectives cannot both be true of one thing: two of a list, or opposites."""
        if self.related_adjectives(one, two):
            return False
        listed = any(one in group["words"] and two in group["words"] for group in self.adjectives.values())
        return listed or any(
            (one in left and two in right) or (one in right and two in left) for left, right in self.opposites
        )

    def opposite_relations(self, words: str) -> list[str]:
        """Phrases that exclude a spatial phrase, at least before some landmarks."""
        return list(
            dict.fromkeys(other for row in self.places if words in row for other in row if other != words)
        )

    def wordings(self, words: str) -> list[str]:
        """Other wordings with the same meaning."""
        return [other for group in self.same if words in group for other in group if other != words]


@lru_cache
def lexicon() -> Lexicon:
    """The lexicon of the package."""
    folder = Path(__file__).parent
    files = (folder / "lexicon.toml", folder / "words" / "places.toml")
    data: dict[str, Any] = {}
    for file in files:
        data |= tomllib.loads(file.read_text(encoding="utf-8"))
    return Lexicon(data)


@lru_cache
def _inflect() -> Any:
    try:
        import inflect
    except ImportError as error:
        raise ImportError(f"edits of English need the package inflect: {EXTRA}") from error
    engine = inflect.engine()
    engine.defnoun("cattle", "cattle")  # "cattles" to inflect
    return engine


@lru_cache(maxsize=4096)
def plural(word: str) -> str:
    """The plural of a noun, "knife" -> "knives"."""
    return str(_inflect().plural_noun(word))


@lru_cache(maxsize=4096)
def singular(word: str) -> str:
    """The singular of a plural, and any other word as it is."""
    return str(_inflect().singular_noun(word) or word)


@lru_cache(maxsize=4096)
def article(following: str) -> str:
    """ "a" or "an", by the sound of the word that follows ("an hour", "a unicorn")."""
    return str(_inflect().a(following)).partition(" ")[0]


@lru_cache(maxsize=4096)
def parts_of_speech(word: str) -> tuple[str, ...]:
    """What a word of English can be ("NOUN", "VERB", "ADJ", "ADV"); nothing for a word that is not known."""
    return tuple(_lemminflect().getAllLemmas(word))


@lru_cache(maxsize=8192)
def lemma_of(word: str, tag: str = "") -> str:
    """The base form of a word: of a verb where ``tag`` (Penn treebank) says so, else of a noun where it can be one."""
    if word in ("is", "are", "was", "were"):
        return "be"
    if " " in word:
        known = lexicon().noun(word)
        return known.word if known else word
    found = _lemminflect().getAllLemmas(word)
    order = ("VERB",) if tag.startswith("V") else ("NOUN", "VERB", "ADJ")
    return next((str(found[part][0]) for part in order if part in found), word)


def _lemminflect() -> Any:
    try:
        import lemminflect
    except ImportError as error:
        raise ImportError(f"edits of English need the package lemminflect: {EXTRA}") from error
    return lemminflect


def verb_form(verb: str, tag: str) -> str:
    """A verb in another form, as ``tag`` of the Penn treebank: "sits" as "VBP" is "sit"."""
    irregular = {"is": "are", "was": "were", "has": "have", "does": "do"}
    if tag == "VBP" and (verb in irregular or verb in irregular.values()):
        return irregular.get(verb, verb)
    if tag == "VBZ" and verb in irregular.values():
        return next(one for one, many in irregular.items() if many == verb)
    lemma = lemma_of(verb, "VB")
    if tag in ("VB", "VBP"):
        return lemma
    return IRREGULAR.get((lemma, tag)) or str(_lemminflect().getInflection(lemma, tag)[0])


IRREGULAR = {("lie", "VBG"): "lying", ("lie", "VBD"): "lay", ("lie", "VBN"): "lain", ("be", "VBG"): "being"}
