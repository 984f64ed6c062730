"""A caption as the rules see it: its words, phrases and heads, and how an edit of it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from negguide.mining.edits.lexicon import article, lemma_of, verb_form
from negguide.mining.edits.phrases import Phrase, denied_from, phrases
from negguide.mining.edits.planner import naming, smallest
from negguide.mining.edits.tagging import FINITE, PREPOSITIONS, Token
from negguide.mining.edits.usage import usage
from negguide.mining.item import Edit

MALE = {"he": "she", "his": "her", "him": "her", "himself": "herself"}
FEMALE = {"she": "he", "her": "his", "hers": "his", "herself": "himself"}
PLURAL = {
    "his": "their", "her": "their", "its": "their", "it's": "their",
    "himself": "themselves", "herself": "themselves", "itself": "themselves",
}  # fmt: skip
SHOWN = frozenset(
    (
        "up",
        "closeup",
        "close-up",
        "photo",
        "photograph",
        "picture",
        "image",
        "view",
        "painting",
        "shot",
        "reflection",
    )
)
"""Words of pictures: "a photo of a cat" is about the cat."""
SINGULAR = frozenset((*MALE, *FEMALE, *PLURAL, "it"))


@dataclass(frozen=True)
class Candidate:
    """An edit, and how often it is made beside others of its category."""

    edit: Edit
    weight: float = 1.0


@dataclass(frozen=True)
class Caption:
    """A caption with its tokens; ``parses`` says whether they know their heads."""

    text: str
    tokens: list[Token]
    parses: bool

    @cached_property
    def phrases(self) -> list[Phrase]:
        """All noun phrases; where there is no parse, those that the lexicon knows."""
        return phrases(self.tokens, known=False)

    @cached_property
    def affirmed(self) -> list[Phrase]:
        """The noun phrases that are not denied."""
        return [phrase for phrase in self.phrases if not phrase.negated]

    @cached_property
    def denied_from(self) -> int:
        """The place from which on nothing is sure to be in the picture; past the end where all is."""
        return denied_from(self.tokens)

    @cached_property
    def said(self) -> frozenset[str]:
        """Every word of the caption, and its base form; of units also each word."""
        found = set()
        for token in self.tokens:
            found |= {token.word, token.lemma, *token.word.split()}
        return frozenset(found)

    def before(self, at: int) -> Token | None:
        """The token before a place, unless a mark stands between."""
        return self.tokens[at - 1] if at > 0 and not self.tokens[at - 1].boundary else None

    def after(self, at: int) -> Token | None:
        """The token behind a place, unless a mark stands between."""
        return None if self.tokens[at].boundary else self.tokens[at + 1]

    def phrase_from(self, first: int) -> Phrase | None:
        """The noun phrase that begins at a place."""
        return next((phrase for phrase in self.phrases if phrase.first == first), None)

    def in_list(self, phrase: Phrase) -> bool:
        """Whether it is one of several that are named together."""
        before, after = self.before(phrase.first), self.after(phrase.at)
        if (before is not None and before.word in ("and", "or")) or (
            after is not None and after.word in ("and", "or")
        ):
            return True
        named = {p.first for p in self.phrases}
        return any(
            0 < at < len(self.tokens)
            and self.text[self.tokens[at - 1].end : self.tokens[at].start].strip() in (",", "&", "/")
            and (at in named or self.tokens[at].word in ("and", "or"))
            and at - 1 in {p.at for p in self.phrases}
            for at in (phrase.at + 1, phrase.first)
        )

    def slots(self, phrase: Phrase) -> frozenset[str]:
        """Where a phrase stands: "subject", or the words before it as far as they choose it ("on", "slice of")."""
        before = self.before(phrase.first)
        if before is None:
            return frozenset(("subject",)) if not phrase.first else frozenset()
        if (
            before.word in ("is", "are")
            and phrase.first >= 2
            and self.tokens[phrase.first - 2].word == "there"
        ):
            return frozenset(("subject",))
        if before.kind == "relation" or before.word in PREPOSITIONS or before.word == "next to":
            earlier = self.before(phrase.first - 1)
            found = {before.word} if before.word != "of" else set()
            if earlier is not None and before.word == "of" and earlier.word in SHOWN:
                found.add("subject")
            if earlier is not None:
                found |= {f"{earlier.lemma} {before.word}", f"{earlier.word} {before.word}"}
            return frozenset(found)
        return frozenset((before.lemma if not before.tag else _verb(before), before.word))

    def doer_of(self, at: int) -> str:
        """The word for who does what the verb at a place says; empty where that is not sure."""
        tokens = self.tokens
        if not self.parses:
            first = next((p for p in self.phrases if p.at < at), None)
            return first.word if first else ""
        subject = next((i for i, t in enumerate(tokens) if t.head == at and t.dep.startswith("nsubj")), None)
        verb = tokens[at]
        if subject is not None and tokens[subject].word in ("that", "which", "who"):
            subject = verb.head
        if subject is None and verb.dep in ("acl", "relcl", "advcl", "conj", "xcomp", "pcomp", "dep"):
            head = verb.head
            if head >= 0 and tokens[head].tag.startswith("NN"):
                subject = head
            elif head >= 0 and head != at and tokens[head].tag.startswith("V"):
                return self.doer_of(head) if head < at else ""
        if subject is None and verb.dep == "ROOT":
            subject = next((p.at for p in self.phrases if p.at < at), None)
            subject = None if subject is not None and tokens[subject].tag.startswith("V") else subject
        if subject is None or subject < 0:
            return ""
        return self.counted(subject)

    def counted(self, at: int) -> str:
        """The thing itself: "man" of "a group of men"."""
        word = self.tokens[at].noun.word if self.tokens[at].noun else self.tokens[at].lemma  # type: ignore[union-attr]
        if (
            word in usage().kinds["measure"]
            and at + 2 < len(self.tokens)
            and self.tokens[at + 1].word == "of"
        ):
            inner = next((p for p in self.phrases if p.first == at + 2), None)
            if inner is not None:
                return inner.word
        return word

    def holders_number(self, phrase: Phrase, *, many: bool) -> dict[int, str] | None:
        """What else changes when the number of a phrase does: its verbs, and words that point to it.

        Returns:
            New words by their places; None where that is not sure.
        """
        tokens = self.tokens
        changes: dict[int, str] = {}
        if self.parses:
            verbs = self._verbs_of(phrase.at)
        else:
            verb = self.after(phrase.at)
            later = [t for t in tokens[phrase.at + 2 :] if t.word in FINITE]
            if phrase.first or later or any(t.word in ("that", "which", "who") for t in tokens):
                return None
            verbs = [phrase.at + 1] if verb is not None and verb.word in FINITE else []
            if (
                verb is not None
                and not verbs
                and verb.word not in PREPOSITIONS
                and not verb.word.endswith("ing")
            ):
                return None
        for at in verbs:
            tag = tokens[at].tag or "VBZ"
            if tag in ("VBZ", "VBP") or tokens[at].word in ("was", "were"):
                changes[at] = verb_form(tokens[at].word, "VBP" if many else "VBZ")
        pointing = [at for at, token in enumerate(tokens) if token.word in SINGULAR]
        if not many:
            return (
                None
                if any(t.word in ("their", "they", "them", "themselves", "each") for t in tokens)
                else changes
            )
        for at in pointing:
            others = [p for p in self.phrases if p.at != phrase.at and p.at < at and self._living(p)]
            if tokens[at].word not in PLURAL or others or at < phrase.at or not self._living(phrase):
                return None
            changes[at] = PLURAL[tokens[at].word]
        return changes

    def _living(self, phrase: Phrase) -> bool:
        return usage().is_a(phrase.word, ("person", "animal", "bird", "swimmer"))

    def _verbs_of(self, at: int) -> list[int]:
        """The finite verbs that agree with a noun."""
        tokens = self.tokens
        heads = [
            tokens[at].head if tokens[at].dep.startswith("nsubj") else -1,
            *(i for i, t in enumerate(tokens) if t.dep == "relcl" and t.head == at),
            tokens[at].head if tokens[at].dep == "attr" and tokens[0].word == "there" else -1,
        ]
        found = []
        for head in [h for h in heads if h >= 0]:
            subjects = {t.head for t in tokens if t.dep.startswith(("nsubj", "expl"))}
            joined = (
                i for i, t in enumerate(tokens) if t.head == head and t.dep == "conj" and i not in subjects
            )
            group = [head, *joined]
            for verb in group:
                helpers = [i for i, t in enumerate(tokens) if t.head == verb and t.dep in ("aux", "auxpass")]
                found += helpers or ([verb] if tokens[verb].tag in ("VBZ", "VBP", "VBD") else [])
        return sorted(set(found))

    def edit(
        self,
        changes: Mapping[int, str],
        category: str,
        *,
        avoid: str = "",
        draw: str | None = None,
        **more: Any,
    ) -> Edit:
        """The edit that writes other words in the places of tokens; an empty word takes a token out.

        Articles before what changes, capitals at the beginning, and captions in capitals are put right.
        """
        tokens, text = self.tokens, self.text
        changes = dict(changes)
        for at, token in enumerate(tokens):
            if token.word in ("a", "an") and at not in changes and at + 1 in changes and not token.boundary:
                following = next(
                    (
                        changes.get(i, tokens[i].text)
                        for i in range(at + 1, len(tokens))
                        if changes.get(i, "x")
                    ),
                    "",
                )
                right = article(following) if following else token.word
                if right != token.word:
                    changes[at] = right
        if text.isupper():
            changes = {at: new.upper() for at, new in changes.items()}
        first, last = min(changes), max(changes)
        parts = []
        for at in range(first, last + 1):
            new = changes.get(at, tokens[at].text)
            gap = text[tokens[at - 1].end : tokens[at].start] if at > first else ""
            if new:
                parts.append(gap + new)
        after = "".join(parts)
        if not changes[first] and after:
            after = after.lstrip(" ")
        if text[tokens[first].start].isupper() and not text.isupper():
            after = after[:1].upper() + after[1:]
        made = Edit.replacing(
            text,
            tokens[first].start,
            tokens[last].end,
            after,
            category=category,
            backend="rules",
            draw=draw,
            **more,
        )
        return smallest(naming(made, avoid))

    def bare(self, phrase: Phrase) -> str:
        """A noun phrase without its article or number."""
        first = phrase.first
        for place in (phrase.determiner, phrase.number):
            if place is not None and place >= first:
                first = place + 1
        return self.text[self.tokens[first].start : self.tokens[phrase.at].end].lower()


def _verb(token: Token) -> str:
    return (
        lemma_of(token.word, "V")
        if token.tag.startswith("V") or re.search("ing$", token.word)
        else token.lemma
    )
