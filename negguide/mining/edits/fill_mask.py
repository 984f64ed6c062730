"""Edits by a masked language model: one word is covered, and what the model would rather see there is proposed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negguide._utils.text import normalised
from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.english import make_tagger
from negguide.mining.edits.lexicon import article, lexicon, parts_of_speech, singular
from negguide.mining.edits.phrases import affirmed, phrases
from negguide.mining.edits.planner import check_categories, naming
from negguide.mining.edits.reading import Span, read
from negguide.mining.edits.tagging import Tagger
from negguide.mining.edits.toyworld import world_naming, world_objection
from negguide.mining.item import Edit
from negguide.toyworld.language import PLURALS, parse

CATEGORIES = ("object", "attribute", "count", "relation")
"""What a masked model can do: it puts one word in the place of one word."""


@dataclass(frozen=True)
class Target:
    """A word to cover: its span, what an edit of it is called, and what it takes out of the picture."""

    span: Span
    category: str
    avoid: str = ""


class FillMask:
    """Nouns, adjectives, numbers and spatial words, each replaced by what a masked model expects in its place.

    Only words of the same part of speech and number are proposed, each with the article that it needs. Of a word
    that the lexicon does not know, the part of speech must be beyond doubt.

    A caption that is longer than the model takes has no edits, and is counted in ``failures``.

    Args:
        model: a name on the hub, a folder, or a loaded ``(model, tokenizer)``.
        world: captions of the toy world; they are read by its parser.
        revision: of a model on the hub.
        top_k: how many of the model's words are looked at for each covered one.
        device: where a model that is loaded here goes.
        english_model: what finds the words in everyday English, see ``make_tagger``.

    Raises:
        ValueError: the model cannot be loaded, or its tokenizer has no mask.
    """

    name = "fill-mask"

    def __init__(
        self,
        *,
        model: str | Path | tuple[Any, Any],
        world: bool = False,
        revision: str | None = None,
        top_k: int = 20,
        device: str = "cpu",
        english_model: str | None = None,
    ) -> None:
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k={top_k!r} must be a whole number of 1 or more")
        self.world = world
        self.top_k = top_k
        self.revision = revision
        self._tagger: Tagger | None = None if world else make_tagger(english_model)
        self._model, self._tokenizer = (
            model if isinstance(model, tuple) else _load(str(model), revision, device)
        )
        if getattr(self._tokenizer, "mask_token_id", None) is None:
            raise ValueError(
                "model: its tokenizer has no mask token; use a masked model, like BERT or RoBERTa"
            )
        self._model.eval()
        self.failures: Counter[str] = Counter()

    @property
    def description(self) -> dict[str, Any]:
        """As JSON; see `Planner.description`."""
        config = self._model.config
        return {
            "backend": self.name,
            "world": self.world,
            "model": config.name_or_path or type(self._model).__name__,
            "revision": self.revision or getattr(config, "_commit_hash", None),
            "top_k": self.top_k,
            "tagger": None if self._tagger is None else self._tagger.name,
        }

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """What the model expects in the place of each word, in random order; categories it cannot do give none."""
        wanted = check_categories(categories)
        targets = self._world_targets(caption) if self.world else self._english_targets(caption)
        targets = [target for target in targets if target.category in wanted]
        edits = []
        for target, guesses in zip(targets, self._guesses(caption, targets), strict=True):
            for guess in guesses:
                edit = _edit(caption, target, guess)
                if self.world:
                    if (
                        _agrees(caption, target, guess)
                        and world_objection(caption, edit) != "not of this world"
                    ):
                        edits.append(world_naming(edit, target.avoid) if target.avoid else edit)
                elif self._same_part(caption, target, guess):
                    edits.append(naming(edit, target.avoid))
        rng.shuffle(edits)
        return edits

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """None: what a masked model expects need not mean the same."""
        return []

    def objection(self, caption: str, edit: Edit) -> str | None:
        """Why an edit is not what it says it is, by the world or the lexicon; None = it is."""
        if self._tagger is None:
            return world_objection(caption, edit)
        return english_objection(caption, edit, self._tagger)

    def _world_targets(self, caption: str) -> list[Target]:
        parse(caption, negation=True)
        try:
            reading = read(caption)
        except ValueError:  # a fragment, like "a red hat"
            return []
        targets = []
        for group, character in zip(reading.groups, reading.scene.characters, strict=False):
            if group.kind is not None and group.number is not None:
                targets.append(Target(group.kind, "object", character.kind or ""))
                if group.fur is not None:
                    targets.append(Target(group.fur, "attribute", f"{character.fur} fur"))
                if reading.relation is None and reading.scene.count > 1:
                    targets.append(Target(group.number, "count"))
            for said in group.worn:
                if said.color is not None:
                    color = reading.words(said.color).lower()
                    targets.append(Target(said.color, "attribute", f"{color} {said.name}"))
        if reading.relation is not None:
            targets.append(Target(reading.relation, "relation"))
        return targets

    def _english_targets(self, caption: str) -> list[Target]:
        assert self._tagger is not None
        tokens = self._tagger.tag(caption)
        targets = []
        for phrase in affirmed(tokens):
            token = tokens[phrase.at]
            if phrase.noun is not None and phrase.noun.editable and " " not in token.word:
                targets.append(Target((token.start, token.end), "object", phrase.word))
            if phrase.number is not None:
                number = tokens[phrase.number]
                targets.append(Target((number.start, number.end), "count"))
            for at in phrase.adjectives:
                avoid = f"{tokens[at].word} {phrase.word}"
                targets.append(Target((tokens[at].start, tokens[at].end), "attribute", avoid))
        starts = {phrase.first for phrase in phrases(tokens)}
        for at, token in enumerate(tokens):
            # of a longer phrase, one word cannot be exchanged alone
            if token.kind == "relation" and " " not in token.word and at + 1 in starts:
                targets.append(Target((token.start, token.end), "relation"))
        return targets

    def _guesses(self, caption: str, targets: list[Target]) -> list[list[str]]:
        """For each target the model's whole words, the likeliest first."""
        if not targets:
            return []
        import torch

        mask = self._tokenizer.mask_token
        texts = [caption[: t.span[0]] + mask + caption[t.span[1] :] for t in targets]
        longest = max(len(ids) for ids in self._tokenizer(texts, verbose=False)["input_ids"])
        if longest > _most_tokens(self._model, self._tokenizer):
            self.failures["the caption is too long for the masked model"] += 1
            return [[] for _ in targets]
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True).to(self._model.device)
        places = inputs["input_ids"] == self._tokenizer.mask_token_id
        with torch.no_grad():
            logits = self._model(**inputs).logits
        found = []
        for row, target in enumerate(targets):
            at = int(places[row].nonzero()[0])
            best = logits[row, at].topk(min(self.top_k, logits.shape[-1])).indices.tolist()
            old = caption[target.span[0] : target.span[1]].lower()
            words = []
            for token in best:
                word = self._tokenizer.decode([token]).strip()
                if (
                    word.isalpha()
                    and word.lower() != old
                    and self._stands_alone(inputs, row, at, token, caption, target)
                ):
                    words.append(word.lower())
            found.append(list(dict.fromkeys(words)))
        return found

    def _stands_alone(self, inputs: Any, row: int, at: int, token: int, caption: str, target: Target) -> bool:
        """Whether a token is a word in this place, and not the beginning or the rest of one."""
        ids = inputs["input_ids"][row].clone()
        ids[at] = token
        word = self._tokenizer.decode([token]).strip()
        text = caption[: target.span[0]] + word + caption[target.span[1] :]
        return normalised(self._tokenizer.decode(ids, skip_special_tokens=True)) == normalised(text)

    def _same_part(self, caption: str, target: Target, guess: str) -> bool:
        book = lexicon()
        old = caption[target.span[0] : target.span[1]].lower()
        if target.category == "count":
            return guess in book.numbers[1:] and old in book.numbers[1:]
        if target.category == "relation":
            return guess in book.opposite_relations(old)
        if target.category == "attribute":
            return book.adjective(guess) == book.adjective(old)
        noun, known = book.noun(old), book.noun(guess)
        if noun is not None and known is not None:
            return (noun.form, noun.plural) == (known.form, known.plural) and known.editable
        certain = parts_of_speech(guess) == ("NOUN",)
        return (
            certain
            and noun is not None
            and noun.form == "count"
            and (singular(guess) != guess) == noun.plural
        )


def _most_tokens(model: Any, tokenizer: Any) -> float:
    """How many tokens the model takes; inf where it says no number."""
    config = model.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return float(tokenizer.model_max_length)
    # RoBERTa and its like count positions from the one after the padding's
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return min(float(tokenizer.model_max_length), float(positions - (0 if padding is None else padding + 1)))


def _agrees(caption: str, target: Target, guess: str) -> bool:
    """Whether a word of the toy world has the number of the one it replaces; its parser does not mind."""
    old = caption[target.span[0] : target.span[1]].lower()
    if target.category == "count":
        return guess in ("two", "three")
    return (guess in PLURALS) == (old in PLURALS)


def _edit(caption: str, target: Target, guess: str) -> Edit:
    """The guess in place of the target, with the article before it put right."""
    start, end = target.span
    if caption[start].isupper():
        guess = guess.capitalize()
    before = caption[:start].rstrip().rpartition(" ")[2]
    right = article(guess) if before.lower() in ("a", "an") else before.lower()
    if right != before.lower():
        gap = caption[:start].rstrip()
        begin = len(gap) - len(before)
        guess = (right.capitalize() if before[0].isupper() else right) + caption[len(gap) : start] + guess
        start = begin
    return Edit.replacing(caption, start, end, guess, category=target.category, backend="fill-mask")


def _load(model: str, revision: str | None, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        network = AutoModelForMaskedLM.from_pretrained(model, revision=revision, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model={model!r} cannot be loaded as a masked model: {reason}; use one like BERT or RoBERTa"
        ) from error
    return network.to(device), tokenizer
