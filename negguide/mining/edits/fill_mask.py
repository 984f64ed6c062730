"""Edits by a masked language model: one word is covered, and what the model would rather see there is proposed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negguide._utils.text import normalised
from negguide.domain import find_domain
from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.closed import NOT_OF_THIS_WORLD, ClosedPlanner, Target
from negguide.mining.edits.english import make_tagger
from negguide.mining.edits.lexicon import article, lexicon, parts_of_speech, singular
from negguide.mining.edits.phrases import affirmed, phrases
from negguide.mining.edits.planner import check_categories, naming
from negguide.mining.edits.tagging import Tagger
from negguide.mining.item import Edit
from negguide.models import loaded_revision

CATEGORIES = ("object", "attribute", "count", "relation")
"""What a masked model can do: it puts one word in the place of one word."""


class FillMask:
    """Nouns, adjectives, numbers and spatial words, each replaced by what a masked model expects in its place.

    Only words of the same part of speech and number are proposed, each with the article that it needs. Of a word
    that the lexicon does not know, the part of speech must be beyond doubt.

    A caption that is longer than the model takes has no edits, and is counted in ``failures``.

    Args:
        model: a name on the hub, a folder, or a loaded ``(model, tokenizer)``.
        world: the name of the closed world that the captions are of; they are read by its planner. None = English.
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
        world: str | None = None,
        revision: str | None = None,
        top_k: int = 20,
        device: str = "cpu",
        english_model: str | None = None,
    ) -> None:
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k={top_k!r} must be a whole number of 1 or more")
        self._world: ClosedPlanner | None = None if world is None else find_domain(world).planner()
        self.top_k = top_k
        self._tagger: Tagger | None = None if world is not None else make_tagger(english_model)
        self._model, self._tokenizer = (
            model if isinstance(model, tuple) else _load(str(model), revision, device)
        )
        if getattr(self._tokenizer, "mask_token_id", None) is None:
            raise ValueError(
                "model: its tokenizer has no mask token; use a masked model, like BERT or RoBERTa"
            )
        self._model.eval()
        config = self._model.config
        self.revision = revision or loaded_revision(config.name_or_path, config)
        self.failures: Counter[str] = Counter()

    @property
    def description(self) -> dict[str, Any]:
        """As JSON; see `Planner.description`."""
        config = self._model.config
        return {
            "backend": self.name,
            "world": self._world is not None,
            "model": config.name_or_path or type(self._model).__name__,
            "revision": self.revision,
            "top_k": self.top_k,
            "tagger": None if self._tagger is None else self._tagger.name,
        }

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """What the model expects in the place of each word, in random order; categories it cannot do give none."""
        wanted = check_categories(categories)
        world = self._world
        targets = self._english_targets(caption) if world is None else world.targets(caption)
        targets = [target for target in targets if target.category in wanted]
        edits = []
        for target, guesses in zip(targets, self._guesses(caption, targets), strict=True):
            for guess in guesses:
                edit = _edit(caption, target, guess)
                if world is not None:
                    old = caption[target.span[0] : target.span[1]].lower()
                    if world.fits(old, target, guess) and world.objection(caption, edit) != NOT_OF_THIS_WORLD:
                        edits.append(world.naming(edit, target.avoid) if target.avoid else edit)
                elif self._same_part(caption, target, guess):
                    edits.append(naming(edit, target.avoid))
        rng.shuffle(edits)
        return edits

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """None: what a masked model expects need not mean the same."""
        return []

    def objection(self, caption: str, edit: Edit) -> str | None:
        """Why an edit is not what it says it is, by the world or the lexicon; None = it is."""
        if self._world is not None:
            return self._world.objection(caption, edit)
        assert self._tagger is not None
        return english_objection(caption, edit, self._tagger)

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
