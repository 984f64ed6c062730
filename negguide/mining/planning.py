"""From the rows of a shard to the edits of their captions, and the choice among what came of them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from negguide._utils.text import normalised
from negguide.mining.edits import Planner, Rejected, plan, plan_positives
from negguide.mining.edits.planner import Asking, Weighing
from negguide.mining.item import Edit, Source
from negguide.mining.mined import Mined
from negguide.mining.originals import remember
from negguide.mining.pair import Pair, item_id, reject, reject_pair
from negguide.mining.settings import Settings, seed_of
from negguide.mining.sources import BadSource
from negguide.mining.sources.source import caption_problem, opened

ANSWERS = "answers.jsonl"
"""What a model that plans has answered for a shard, kept beside what was painted for it."""


def remembering(planner: Planner, folder: Path) -> Planner:
    """The same planner, which asks a model nothing that is answered in ``folder``, on this machine."""
    return planner.remembering(folder / ANSWERS) if isinstance(planner, Asking) else planner


def plan_rows(
    rows: Sequence[Source | BadSource], settings: Settings, planner: Planner, mined: Mined
) -> list[Pair]:
    """The edits that are planned for the captions, in their order; what has none is counted in ``mined``.

    Images are opened for a set with images. For one of text alone they are only looked for: decoding them would take
    longer than all else.

    Raises:
        ConnectionError, ValueError: the server of a planner fails.
    """
    usable: list[tuple[Source, Image.Image | None]] = []
    for row in rows:
        mined.funnel.sources["read"] += 1
        problem = row.reason if isinstance(row, BadSource) else caption_problem(row.caption)
        image = None
        if isinstance(row, Source) and problem is None:
            image, problem = _looked_for(row) if settings.text_only else _opened(row)
        if problem is not None or not isinstance(row, Source):
            mined.funnel.sources["bad"] += 1
            reject(mined, "input", problem or "", row.id)
        else:
            usable.append((row, image))
            if image is not None:
                remember(row, settings, mined)
    pairs: list[Pair] = []
    for (row, image), plans in zip(
        usable, _plans([row for row, _ in usable], settings, planner), strict=True
    ):
        for refused in plans.rejected:
            reject(mined, "planned", refused.reason, row.id, edit=refused.edit)
        mined.funnel.failures.update(plans.failures)
        for reason, times in sorted(plans.failures.items()):
            # no reject: the caption may have its edits all the same
            mined.rejects.append({"stage": "planner", "reason": reason, "source_id": row.id, "times": times})
        if not plans.edits:
            reject(mined, "planned", "no edit for this caption", row.id, caption=row.caption)
            continue
        mined.funnel.sources["planned"] += 1
        for edit in plans.edits:
            mined.funnel.count("planned", edit.category)
            pairs.append(Pair(row, edit, item_id(row, edit), plans.positives, original=image))
    return pairs


def _opened(row: Source) -> tuple[Image.Image | None, str | None]:
    return (None, None) if row.load is None else opened(row.load)


def _looked_for(row: Source) -> tuple[None, str | None]:
    missing = row.stored is not None and row.stored.path is not None and not row.stored.path.is_file()
    return None, "missing image" if missing else None


@dataclass(frozen=True)
class _Plans:
    """What was planned for one caption, and what was refused or failed."""

    edits: list[Edit]
    rejected: list[Rejected]
    positives: tuple[str, ...]
    failures: Counter[str]


def _plans(rows: Sequence[Source], settings: Settings, planner: Planner) -> list[_Plans]:
    """What is planned for each caption, the same whether one is planned after the other or several at once.

    Raises:
        ConnectionError, ValueError: the planner's server fails. Captions that were not begun are not planned then.
    """
    if isinstance(planner, Weighing):
        planner.read_ahead([row.caption for row in rows])
    if not isinstance(planner, Asking) or planner.concurrency == 1:
        return [_plan(row, settings, planner) for row in rows]
    with ThreadPoolExecutor(planner.concurrency) as threads:
        return list(threads.map(lambda row: _plan(row, settings, planner), rows))


def _plan(row: Source, settings: Settings, planner: Planner) -> _Plans:
    """The edits of a caption and its paraphrases, and what the planner's model failed at."""
    rng = random.Random(seed_of(settings.seed, row.id, "plan"))
    asking = planner if isinstance(planner, Asking) else None
    before = Counter(asking.failures if asking else {})
    edits, rejected = plan(
        row.caption, planner, categories=settings.categories, per_item=settings.per_item, rng=rng
    )
    positives: tuple[str, ...] = ()
    if edits and settings.positives:
        found, _ = plan_positives(row.caption, planner, count=settings.positives, rng=rng)
        positives = tuple(edit.caption for edit in found)
    return _Plans(edits, rejected, positives, Counter(asking.failures if asking else {}) - before)


def deduplicated(pairs: list[Pair], mined: Mined) -> list[Pair]:
    """Each pair of captions, and each negative image, once."""
    captions: set[tuple[str, str]] = set()
    pixels: set[bytes] = set()
    kept = []
    for pair in pairs:
        said = (normalised(pair.source.caption), normalised(pair.edit.caption))
        seen = b"" if pair.negative is None else hashlib.sha256(pair.negative.tobytes()).digest()
        pair.reason = (
            "the same two captions are in the shard"
            if said in captions
            else "the same negative image is in the shard"
            if seen in pixels
            else ""
        )
        if pair.reason:
            reject_pair(mined, "deduplicated", pair)
            continue
        captions.add(said)
        if pair.negative is not None:
            pixels.add(seen)
        mined.funnel.count("deduplicated", pair.edit.category)
        kept.append(pair)
    return kept


def balanced(pairs: list[Pair], settings: Settings, mined: Mined) -> list[Pair]:
    """So many of each category that none has more than its share; those that go are chosen by their ids' hash."""
    most = largest_count(Counter(pair.edit.category for pair in pairs), settings.max_category_share)
    chosen: set[str] = set()
    left: Counter[str] = Counter()
    for pair in sorted(pairs, key=lambda pair: seed_of(settings.seed, pair.id, "balance")):
        if left[pair.edit.category] < most:
            left[pair.edit.category] += 1
            chosen.add(pair.id)
    for pair in pairs:
        if pair.id in chosen:
            mined.funnel.count("balanced", pair.edit.category)
        else:
            pair.reason = f"more than {settings.max_category_share:.0%} of the shard are {pair.edit.category}"
            reject_pair(mined, "balanced", pair)
    return [pair for pair in pairs if pair.id in chosen]


def largest_count(counts: Counter[str], share: float) -> int:
    """How many of each category may stay so that none has more than ``share`` of what stays.

    Of n categories one has at least 1/n: a smaller share counts as that.
    """
    if not counts:
        return 0
    share = max(share, 1 / len(counts))
    for most in range(max(counts.values()), 0, -1):
        # the tolerance is for shares like 1/3
        if most <= share * sum(min(n, most) for n in counts.values()) + 1e-9:
            return most
    return 0
