"""Edits by a chat model: asked for JSON, held to a schema, and to the caption's own words."""

from __future__ import annotations

import copy
import random
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from negguide._utils.text import normalised
from negguide.domain import find_domain
from negguide.mining.categories import ALL
from negguide.mining.edits.answers import REQUIRED, parse_answer, schema, without_thoughts
from negguide.mining.edits.chat import Chat, LocalChat, NoAnswerError, RememberedChat
from negguide.mining.edits.checks import english_objection
from negguide.mining.edits.closed import ClosedPlanner
from negguide.mining.edits.endpoint import EndpointChat
from negguide.mining.edits.english import make_tagger
from negguide.mining.edits.planner import check_categories, naming, smallest
from negguide.mining.edits.tagging import Tagger
from negguide.mining.item import Edit, Meaning

MEANINGS = {category.name: category.meaning for category in ALL} | {
    "paraphrase": "other words with exactly the same meaning"
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


class _Failures(threading.local):
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()


class LanguageModel:
    """Edits that a chat model thinks of.

    Each answer must be JSON of one schema. One that is not is sent back with what is wrong, at most ``attempts``
    times; single edits that name unknown categories or words that are not in the caption are left out. What the model
    gets wrong is counted in ``failures`` by its reason; a server that fails is not the model's, and raises.

    Args:
        model: for a model that runs here, its name on the hub, a folder, or a loaded ``(model, tokenizer)``; for an
            endpoint, the name that it knows.
        base_url: of an OpenAI-compatible endpoint; None runs the model here.
        world: the name of the closed world that the captions are of; edits that its planner does not know are refused.
            None = English.
        per_category: how many edits of each category are asked for.
        attempts: how often a model is asked for one caption at most.
        english_model: what checks edits of everyday English, see ``make_tagger``.
        concurrency: captions that are planned at once by whoever asks; an endpoint's answers do not depend on it.
        chat: of ``LocalChat`` (revision, device, max_tokens, temperature) or ``EndpointChat`` (key_variable, timeout,
            max_failures, pause, max_tokens, temperature, say).

    Raises:
        ValueError, ConnectionError: the model cannot be loaded, or its endpoint does not answer.
    """

    name = "llm"

    def __init__(
        self,
        *,
        model: str | Path | tuple[Any, Any],
        base_url: str | None = None,
        world: str | None = None,
        per_category: int = 2,
        attempts: int = 3,
        concurrency: int = 1,
        english_model: str | None = None,
        **chat: Any,
    ) -> None:
        for name, value in (
            ("per_category", per_category),
            ("attempts", attempts),
            ("concurrency", concurrency),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more")
        self.per_category = per_category
        self.attempts = attempts
        self.concurrency = concurrency
        self._failures = _Failures()
        self._world: ClosedPlanner | None = None if world is None else find_domain(world).planner()
        self._tagger: Tagger | None = None if world is not None else make_tagger(english_model)
        self._chat: Chat
        if base_url is None and concurrency > 1:
            raise ValueError(
                f"concurrency={concurrency} is for an endpoint; a model that runs here answers one by one"
            )
        if base_url is None:
            self._chat = LocalChat(model, **chat)
        elif isinstance(model, str):
            self._chat = EndpointChat(base_url, model, **chat)
        else:
            raise TypeError(f"model must be the name that the endpoint knows (a string), got {model!r}")

    @property
    def failures(self) -> Counter[str]:
        """How often the model got what wrong so far, when this thread asked."""
        return self._failures.counts

    @property
    def description(self) -> dict[str, Any]:
        """As JSON; see `Planner.description`."""
        return {
            "backend": self.name,
            "world": self._world is not None,
            **self._chat.description,
            "per_category": self.per_category,
            "attempts": self.attempts,
            "tagger": None if self._tagger is None else self._tagger.name,
        }

    def remembering(self, file: Path) -> LanguageModel:
        """The same planner, which asks nothing that is answered in ``file``, and writes there what it is told."""
        planner = copy.copy(self)
        planner._chat = RememberedChat(self._chat, file)
        return planner

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """What the model thinks of, in random order; none when all its answers were malformed.

        Raises:
            ConnectionError, ValueError: the endpoint fails, or refuses the request.
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
        """Why an edit is not what it says it is, by the world or the lexicon; None = it is."""
        if self._world is not None:
            return self._world.objection(caption, edit)
        assert self._tagger is not None
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
        asked = messages
        for _ in range(self.attempts):
            try:
                answer = self._chat.answer(asked, rng.getrandbits(31), schema(categories))
            except NoAnswerError as error:
                self.failures[error.reason] += 1
                asked = messages
                continue
            try:
                proposals = parse_answer(answer)
            except ValueError as error:
                self.failures[str(error)] += 1
                asked = [
                    *messages,
                    {"role": "assistant", "content": without_thoughts(answer)},
                    {
                        "role": "user",
                        "content": f"That was wrong ({error}). Answer with the JSON object alone.",
                    },
                ]
            else:
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


def to_edit(caption: str, proposal: dict[str, str], categories: Sequence[str], meaning: Meaning) -> Edit:
    """One proposal of a model as an edit of ``caption``.

    Raises:
        ValueError: with the reason: "fields missing", "wrong category", "words not found", "words found twice",
            "unchanged", "nothing left", "no picture".
    """
    if not all(name in proposal for name in REQUIRED):
        raise ValueError("fields missing")
    category, before, after = (proposal[name] for name in REQUIRED)
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
