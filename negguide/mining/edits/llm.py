"""Edits by a chat model: asked for JSON, held to a schema, and to the caption's own words."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from negguide.mining.edits.chat import Chat, EndpointChat, LocalChat, NoAnswer
from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.english import make_tagger
from negguide.mining.edits.planner import check_categories, naming, normalised, smallest
from negguide.mining.edits.tagging import Tagger
from negguide.mining.edits.toyworld import world_objection
from negguide.mining.item import Edit, Meaning

MEANINGS = {
    "object": "another thing in the place of one: a dog becomes a cat",
    "attribute": "another colour, size or material of one thing",
    "count": "another number of one thing",
    "relation": "the opposite place: left becomes right, on becomes under, in front of becomes behind",
    "swap": "two things or two attributes exchanged; exactly the same words in another order",
    "add": "one more thing, named in a few words",
    "remove": "one thing and the words that join it left out",
    "negation": 'a thing denied, as in "without a hat"; give in "draw" the caption with the thing simply left out',
    "paraphrase": "other words with exactly the same meaning",
}
SYSTEM = """You change captions of pictures. You answer with one JSON object and nothing else:
{"edits": [{"category": "...", "before": "...", "after": "...", "draw": "...", "avoid": "..."}]}
"before" is copied letter for letter from the caption, where it must occur exactly once; "after" replaces it. Change
as few words as possible, and keep grammar, articles and agreement right. "draw" is for the category negation only.
"avoid" names in a few words what is no longer in the picture ("red hat"), or is left out. Synonyms, broader and
narrower words are wrong, because the caption would still be true of the same picture."""
POSITIVE_SYSTEM = """You reword captions of pictures. You answer with one JSON object and nothing else:
{"edits": [{"category": "paraphrase", "before": "...", "after": "..."}]}
"before" is copied letter for letter from the caption, where it must occur exactly once; "after" replaces it with
other words that mean exactly the same: the same things, colours, numbers and places."""


class LanguageModel:
    """Edits that a chat model thinks of.

    Each answer must be JSON of one schema. One that is not is sent back with what is wrong, at most ``attempts``
    times; single edits that name unknown categories or words that are not in the caption are left out. Every failure
    is counted in ``failures`` by its reason.

    Args:
        model: for a model that runs here, its name on the hub, a folder, or a loaded ``(model, tokenizer)``; for an
            endpoint, the name that it knows.
        base_url: of an OpenAI-compatible endpoint; None runs the model here.
        world: captions of the toy world; edits that its parser does not know are refused.
        per_category: how many edits of each category are asked for.
        attempts: how often a model is asked for one caption at most.
        tagger, spacy_model: what checks edits of everyday English, see ``make_tagger``.
        chat: of ``LocalChat`` (revision, device, max_tokens, temperature) or ``EndpointChat`` (key_variable, timeout,
            retries, pause, max_tokens, temperature).

    Raises:
        ValueError, ConnectionError: the model cannot be loaded, or its endpoint does not answer.
    """

    name = "llm"

    def __init__(
        self,
        *,
        model: str | Path | tuple[Any, Any],
        base_url: str | None = None,
        world: bool = False,
        per_category: int = 2,
        attempts: int = 3,
        tagger: str = "auto",
        spacy_model: str | None = None,
        **chat: Any,
    ) -> None:
        for name, value in (("per_category", per_category), ("attempts", attempts)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more")
        self.world = world
        self.per_category = per_category
        self.attempts = attempts
        self._tagger: Tagger | None = None if world else make_tagger(tagger, spacy_model)
        self._chat: Chat
        if base_url is None:
            self._chat = LocalChat(model, **chat)
        elif isinstance(model, str):
            self._chat = EndpointChat(base_url, model, **chat)
        else:
            raise TypeError(f"model must be the name that the endpoint knows (a string), got {model!r}")

    @property
    def failures(self) -> Counter[str]:
        """How often what went wrong so far."""
        return self._chat.failures

    @property
    def description(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "world": self.world,
            **self._chat.description,
            "per_category": self.per_category,
            "attempts": self.attempts,
            "tagger": None if self._tagger is None else self._tagger.name,
        }

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """What the model thinks of, in random order; none when all its answers were malformed.

        Raises:
            ConnectionError: the endpoint has stopped answering.
        """
        wanted = check_categories(categories)
        asked = "\n".join(f"- {name}: {MEANINGS[name]}" for name in wanted)
        task = (
            f"Caption: {caption}\nMake the caption false of its picture, in exactly one way each time: up to "
            f"{self.per_category} edits of each of these categories that apply to it.\n{asked}"
        )
        return self._ask(caption, SYSTEM, task, wanted, "negative", rng)

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """Paraphrases that the model thinks of."""
        task = f"Caption: {caption}\nReword it in up to {self.per_category} ways."
        return self._ask(caption, POSITIVE_SYSTEM, task, ("paraphrase",), "positive", rng)

    def objection(self, caption: str, edit: Edit) -> str | None:
        if self._tagger is None:
            return world_objection(caption, edit)
        return english_objection(caption, edit, self._tagger)

    def _ask(
        self,
        caption: str,
        system: str,
        task: str,
        categories: Sequence[str],
        meaning: Meaning,
        rng: random.Random,
    ) -> list[Edit]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": task}]
        for _ in range(self.attempts):
            try:
                answer = self._chat.answer(messages, rng.getrandbits(31))
            except NoAnswer:  # counted by the chat, which has tried again already
                break
            try:
                proposals = parse_answer(answer)
            except ValueError as error:
                self.failures[str(error)] += 1
                messages = [
                    *messages[:2],
                    {"role": "assistant", "content": answer},
                    {
                        "role": "user",
                        "content": f"That was wrong ({error}). Answer with the JSON object alone.",
                    },
                ]
                continue
            edits = self._edits(caption, proposals, categories, meaning)
            rng.shuffle(edits)
            return edits
        self.failures["gave up"] += 1
        return []

    def _edits(
        self, caption: str, proposals: list[dict[str, str]], categories: Sequence[str], meaning: Meaning
    ) -> list[Edit]:
        edits = []
        for proposal in proposals:
            try:
                edits.append(to_edit(caption, proposal, categories, meaning))
            except ValueError as error:
                self.failures[str(error)] += 1
        return edits


def parse_answer(answer: str) -> list[dict[str, str]]:
    """The proposals in a model's answer, checked against the schema; a code fence around it is taken off.

    Raises:
        ValueError: "not JSON", or "wrong schema: " and where.
    """
    text = answer.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n\s*```", text, re.DOTALL)
    try:
        data = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(data, dict) or set(data) != {"edits"} or not isinstance(data["edits"], list):
        raise ValueError('wrong schema: not {"edits": [...]}')
    required, optional = {"category", "before", "after"}, {"draw", "avoid"}
    for proposal in data["edits"]:
        if not isinstance(proposal, dict):
            raise ValueError("wrong schema: an edit is no object")
        if not required <= set(proposal) <= required | optional:
            raise ValueError("wrong schema: an edit has other fields")
        if not all(isinstance(value, str) for value in proposal.values()):
            raise ValueError("wrong schema: a field is no string")
    proposals: list[dict[str, str]] = data["edits"]
    return proposals


def to_edit(caption: str, proposal: dict[str, str], categories: Sequence[str], meaning: Meaning) -> Edit:
    """One proposal of a model as an edit of ``caption``.

    Raises:
        ValueError: with the reason: "wrong category", "words not found", "words found twice", "unchanged",
            "nothing left", "no picture".
    """
    category, before, after = proposal["category"], proposal["before"], proposal["after"]
    if category not in categories:
        raise ValueError("wrong category")
    places = list(re.finditer(rf"(?<!\w){re.escape(before)}(?!\w)", caption)) if before.strip() else []
    if len(places) != 1:
        raise ValueError("words found twice" if places else "words not found")
    if after == before:
        raise ValueError("unchanged")
    edit = smallest(
        Edit.replacing(caption, *places[0].span(), after, category=category, backend="llm", meaning=meaning)
    )
    if not normalised(edit.caption):
        raise ValueError("nothing left")
    if category != "negation":
        return naming(edit, proposal.get("avoid", ""))
    drawn = proposal.get("draw", "").strip()
    if not drawn or normalised(drawn) == normalised(edit.caption):
        raise ValueError("no picture")
    return naming(replace(edit, draw=drawn), proposal.get("avoid", ""))
