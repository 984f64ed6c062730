"""What every backend has in common: it proposes edits, they are checked, and some are chosen evenly."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from negguide._utils.text import COMPOUND, normalised
from negguide.mining.categories import CATEGORIES
from negguide.mining.item import Edit, Meaning


class Planner(Protocol):
    """Proposes edits of captions.

    Attributes:
        name: the backend, as it stands in ``Edit.backend``.
        description: what its proposals depend on besides caption and seed, as JSON: a set that was begun with other
            values is another set.
    """

    name: str

    @property
    def description(self) -> dict[str, Any]:
        """The planner and its options as JSON: they decide the edits."""
        ...

    def propose(self, caption: str, categories: Sequence[str], rng: random.Random) -> list[Edit]:
        """All sensible negatives of ``caption``, in an order that depends on ``rng`` alone."""
        ...

    def propose_positives(self, caption: str, rng: random.Random) -> list[Edit]:
        """Other wordings of ``caption`` with the same meaning: category and meaning "paraphrase" and "positive"."""
        ...

    def objection(self, caption: str, edit: Edit) -> str | None:
        """Why ``edit`` is not what it says it is, as one short stable phrase, or None when it is fine."""
        ...


@runtime_checkable
class Asking(Planner, Protocol):
    """A planner that asks a model for every caption, which is slow or costs money.

    Attributes:
        concurrency: captions to plan at once, in as many threads.
        failures: what the model got wrong so far when this thread asked, by reason.
    """

    concurrency: int

    @property
    def failures(self) -> Counter[str]:
        """How often the model got what wrong, as far as this thread has asked."""
        ...

    def remembering(self, file: Path) -> Asking:
        """The same planner, which asks nothing that is answered in ``file``, and writes there what it is told."""
        ...


class Weighed(Protocol):
    """An edit, and how often it is made beside others of its category, in (0, 1]."""

    @property
    def edit(self) -> Edit:
        """What is proposed."""
        ...

    @property
    def weight(self) -> float:
        """How often it is made beside others of its category, in (0, 1]."""
        ...


@runtime_checkable
class Weighing(Planner, Protocol):
    """A planner that knows how a set of its edits is balanced.

    Attributes:
        shares: how strongly each category is preferred where a caption has it, so that all have their part of a set.
    """

    @property
    def shares(self) -> Mapping[str, float]:
        """How strongly each category is preferred where a caption has it."""
        ...

    def weighed(self, caption: str, categories: Sequence[str]) -> Sequence[Weighed]:
        """What ``propose`` proposes, in a fixed order, with weights."""
        ...

    def read_ahead(self, captions: Iterable[str]) -> None:
        """Prepares many captions at once, so that planning each of them is quick; changes no plan."""
        ...


@dataclass(frozen=True)
class Rejected:
    """A proposal that was not taken, and why: "unchanged", "duplicate", "tokens lost", "synonym", ..."""

    edit: Edit
    reason: str


def check_categories(categories: Sequence[str]) -> tuple[str, ...]:
    """``categories`` as a tuple.

    Raises:
        TypeError, ValueError: not a list of different names of ``CATEGORIES``.
    """
    if isinstance(categories, str):
        raise TypeError(
            f"categories must be a list like {list(CATEGORIES[:2])}, got the string {categories!r}"
        )
    unknown = [name for name in categories if name not in CATEGORIES]
    if unknown or not categories or len(set(categories)) < len(categories):
        wrong = "is not known" if unknown else "is empty" if not categories else "says one twice"
        raise ValueError(f"categories={list(categories)!r} {wrong}; use some of {', '.join(CATEGORIES)}")
    return tuple(categories)


def plan(
    source_caption: str, planner: Planner, *, categories: Sequence[str], per_item: int, rng: random.Random
) -> tuple[list[Edit], list[Rejected]]:
    """Propose negatives of a caption, check every one, and choose some, spread evenly over their categories.

    Args:
        source_caption: of the original image.
        planner: what proposes.
        categories: which kinds of edits are wanted; those that do not apply to the caption give none.
        per_item: how many edits at most. The categories take turns, so fewer than ``len(categories)`` edits are all
            of different categories when the caption has them; within a category the words that are replaced take
            turns, so a word with many alternatives is not edited more often than one with few. A ``Weighing`` planner
            chooses by its shares and weights instead; each caption by itself, so that no order of captions and no
            number of processes changes a set.
        rng: the only source of chance: the same generator state chooses the same edits.

    Returns:
        The chosen edits, and the proposals that were refused with their reasons; of a ``Weighing`` planner those that
        came before the chosen ones. Proposals that are fine but were not chosen are in neither.

    Raises:
        TypeError, ValueError: ``categories`` or ``per_item`` are wrong.
    """
    wanted = check_categories(categories)
    _check_count("per_item", per_item)
    if isinstance(planner, Weighing):
        return _plan_weighed(source_caption, planner, wanted, per_item, rng)
    proposals = planner.propose(source_caption, wanted, rng)
    fine, rejected = _checked(source_caption, proposals, planner, "negative", wanted)
    turns = [_by_place([e for e in fine if e.category == name]) for name in rng.sample(wanted, len(wanted))]
    return _in_turn(turns)[:per_item], rejected


def _plan_weighed(
    caption: str, planner: Weighing, wanted: Sequence[str], per_item: int, rng: random.Random
) -> tuple[list[Edit], list[Rejected]]:
    """Categories without replacement by share times the weight of their edits, then an edit of each by its weight.

    A category whose edits are all rare ones (on -> under) is rare itself, so that weights hold over a whole set.
    Edits are checked in the order in which they would be chosen, and only until there are enough.
    """
    queues: dict[str, list[tuple[float, Edit]]] = {}
    largest: dict[str, float] = {}
    for one in planner.weighed(caption, wanted):
        name = one.edit.category
        largest[name] = max(largest.get(name, 0.0), one.weight)
        queues.setdefault(name, []).append((_key(rng, one.weight), one.edit))
    keys = {name: _key(rng, planner.shares.get(name, 1.0) * largest[name]) for name in queues}
    check = _Check(caption, planner, "negative", wanted)
    turns = []
    for name in sorted(queues, key=lambda name: -keys[name]):
        queue = (edit for _, edit in sorted(queues[name], key=lambda pair: -pair[0]))
        turns.append(filter(check, queue))
    chosen: list[Edit] = []
    while turns and len(chosen) < per_item:
        turn = turns.pop(0)
        edit = next(turn, None)
        if edit is not None:
            chosen.append(edit)
            turns.append(turn)
    return chosen, check.rejected


def _key(rng: random.Random, weight: float) -> float:
    """A number that is the largest of several with probability in proportion to its weight (Efraimidis, Spirakis)."""
    return math.log(max(rng.random(), 1e-300)) / weight


def plan_positives(
    source_caption: str, planner: Planner, *, count: int, rng: random.Random
) -> tuple[list[Edit], list[Rejected]]:
    """Like ``plan``, for at most ``count`` hard positives: other words, same meaning.

    Raises:
        TypeError, ValueError: ``count`` is wrong.
    """
    _check_count("count", count)
    fine, rejected = _checked(
        source_caption, planner.propose_positives(source_caption, rng), planner, "positive", ("paraphrase",)
    )
    return fine[:count], rejected


def words(text: str) -> list[re.Match[str]]:
    """The words of ``text`` with their places; an apostrophe or a hyphen inside a word belongs to it."""
    return list(COMPOUND.finditer(text))


def naming(edit: Edit, phrase: str) -> Edit:
    """The same edit, with ``phrase`` as what to avoid, unless the new picture has another such thing."""
    phrase = normalised(phrase)
    still = phrase and re.search(rf"\b{re.escape(phrase)}\b", normalised(edit.prompt))
    return edit if still else replace(edit, avoid=phrase)


def smallest(edit: Edit) -> Edit:
    """The same edit with the words that stand on both sides of the change taken out of its span."""
    before, after = words(edit.before), words(edit.after)
    source = edit.caption[: edit.start] + edit.before + edit.caption[edit.start + len(edit.after) :]
    same = 0
    while same < min(len(before), len(after)) and _equal_until(edit, before, after, same):
        same += 1
    head = max(before[same - 1].end(), 0) if same else 0
    tail = 0
    while tail < min(len(before), len(after)) - same and _equal_from(edit, before, after, tail):
        tail += 1
    old_end = before[-tail].start() if tail else len(edit.before)
    new_end = after[-tail].start() if tail else len(edit.after)
    old, new = edit.before[head:old_end], edit.after[head:new_end]
    while old and new and old[0] == new[0] and old[0].isspace():
        old, new, head = old[1:], new[1:], head + 1
    while old and new and old[-1] == new[-1] and old[-1].isspace():
        old, new = old[:-1], new[:-1]
    start = edit.start + head
    return Edit.replacing(
        source,
        start,
        start + len(old),
        new,
        category=edit.category,
        backend=edit.backend,
        meaning=edit.meaning,
        draw=edit.draw,
        avoid=edit.avoid,
    )


def _equal_until(edit: Edit, before: list[re.Match[str]], after: list[re.Match[str]], index: int) -> bool:
    return edit.before[: before[index].end()] == edit.after[: after[index].end()]


def _equal_from(edit: Edit, before: list[re.Match[str]], after: list[re.Match[str]], tail: int) -> bool:
    return edit.before[before[-1 - tail].start() :] == edit.after[after[-1 - tail].start() :]


def _by_place(edits: Sequence[Edit]) -> list[Edit]:
    """``edits`` of one category, in which the places of the caption take turns, in an order that favours none."""
    places: dict[int | str, list[Edit]] = {}
    for edit in edits:
        # an article may change with the word after it; an exchange is of two places, and like no other
        place = edit.caption if edit.category == "swap" else edit.end
        places.setdefault(place, []).append(edit)
    # ``edits`` are in random order, and where one certain edit stands in it is as random for every place
    rank = {id(edit): number for number, edit in enumerate(edits)}
    order = sorted(places.values(), key=lambda there: rank[id(min(there, key=lambda edit: edit.after))])
    return _in_turn(order)


def _in_turn(queues: Sequence[Sequence[Edit]]) -> list[Edit]:
    """The first of every queue, then the second of every queue, and so on."""
    return [edit for round_ in zip_longest(*queues) for edit in round_ if edit is not None]


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}={value} is too small; use 1 or more")


class _Check:
    """Whether an edit is fine, asked of one after the other; what was refused is kept with its reason."""

    def __init__(self, caption: str, planner: Planner, meaning: Meaning, categories: Sequence[str]) -> None:
        self.rejected: list[Rejected] = []
        self._caption, self._planner, self._meaning, self._categories = caption, planner, meaning, categories
        self._seen: set[str] = set()

    def __call__(self, edit: Edit) -> bool:
        text = normalised(edit.caption)
        reason = self._objection(edit, text)
        if reason is None:
            self._seen.add(text)
        else:
            self.rejected.append(Rejected(edit, reason))
        return reason is None

    def _objection(self, edit: Edit, text: str) -> str | None:
        caption = self._caption
        if edit.category not in self._categories or edit.meaning != self._meaning:
            return "wrong category"
        if caption[: edit.start] + edit.after + caption[edit.end :] != edit.caption or (
            caption[edit.start : edit.end] != edit.before
        ):
            return "tokens lost"
        if text == normalised(caption):
            return "unchanged"
        if text in self._seen:
            return "duplicate"
        return self._planner.objection(caption, edit)


def _checked(
    caption: str, proposals: Iterable[Edit], planner: Planner, meaning: Meaning, categories: Sequence[str]
) -> tuple[list[Edit], list[Rejected]]:
    check = _Check(caption, planner, meaning, categories)
    return list(filter(check, proposals)), check.rejected
