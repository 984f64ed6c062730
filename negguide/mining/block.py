"""One shard's part of the input, from captions to verified pairs: plan, paint, judge, try again, choose."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from PIL import Image

from negguide.mining.edits import Planner, Rejected, plan, plan_positives
from negguide.mining.edits.planner import Asking, Weighing, normalised
from negguide.mining.item import Edit, Source
from negguide.mining.pair import Pair, add_item, as_item, item_id, reject, reject_pair
from negguide.mining.render.job import Job, NoRegion, Painter, Region
from negguide.mining.render.paste import change_outside
from negguide.mining.settings import Settings, seed_of
from negguide.mining.shards import Mined
from negguide.mining.sources import BadSource
from negguide.mining.sources.source import caption_problem, opened
from negguide.mining.verify.margins import PairJudge
from negguide.mining.verify.questions import Asker, objection, questions

WEIGHT_GROWTH = 0.5
"""What each further try adds to the weight of what is avoided, as a share of the first try's."""


@dataclass(frozen=True)
class Miner:
    """What makes pairs of a part of the input, the same ones whoever does it and whenever.

    Args:
        settings: of the set.
        planner, painter, judge: what plans, paints and scores.
        region: where the masks of ``mode="inpaint"`` come from; otherwise None.
        asker: answers yes or no about the edited phrase, or None.
        licence: of the input, for what says none of its own.
    """

    settings: Settings
    planner: Planner
    painter: Painter
    judge: PairJudge
    region: Region | None = None
    asker: Asker | None = None
    licence: str | None = None

    def __call__(self, rows: Sequence[Source | BadSource]) -> Mined:
        mined = Mined()
        pairs = self._planned(rows, mined)
        pairs = self._with_originals(pairs, mined)
        pairs = self._with_masks(pairs, mined)
        kept = self._with_negatives(pairs, mined)
        kept = self._deduplicated(kept, mined)
        kept = self._balanced(kept, mined)
        self._draw_controls(kept, mined)
        for pair in kept:
            mined.funnel.count("written", pair.edit.category)
            add_item(pair, as_item(pair, self.settings, self.judge.name, self.licence), mined)
        return mined

    def _planned(self, rows: Sequence[Source | BadSource], mined: Mined) -> list[Pair]:
        usable: list[tuple[Source, Image.Image | None]] = []
        for row in rows:
            mined.funnel.sources["read"] += 1
            problem = row.reason if isinstance(row, BadSource) else caption_problem(row.caption)
            image = None
            if isinstance(row, Source) and problem is None and row.load is not None:
                image, problem = opened(row.load)
            if problem is not None or not isinstance(row, Source):
                mined.funnel.sources["bad"] += 1
                reject(mined, "input", problem or "", row.id)
            else:
                usable.append((row, image))
        pairs: list[Pair] = []
        for (row, image), plans in zip(usable, self._plans([row for row, _ in usable]), strict=True):
            for refused in plans.rejected:
                reject(mined, "planned", refused.reason, row.id, edit=refused.edit)
            mined.funnel.failures.update(plans.failures)
            for reason, times in sorted(plans.failures.items()):
                # no reject: the caption may have its edits all the same
                mined.rejects.append(
                    {"stage": "planner", "reason": reason, "source_id": row.id, "times": times}
                )
            if not plans.edits:
                reject(mined, "planned", "no edit for this caption", row.id, caption=row.caption)
                continue
            mined.funnel.sources["planned"] += 1
            for edit in plans.edits:
                mined.funnel.count("planned", edit.category)
                pairs.append(Pair(row, edit, item_id(row, edit), plans.positives, original=image))
        return pairs

    def _plans(self, rows: Sequence[Source]) -> list[_Plans]:
        """What is planned for each caption, the same whether one is planned after the other or several at once.

        Raises:
            ConnectionError, ValueError: the planner's server fails. Captions that were not begun are not planned then.
        """
        if isinstance(self.planner, Weighing):
            self.planner.read_ahead([row.caption for row in rows])
        if not isinstance(self.planner, Asking) or self.planner.concurrency == 1:
            return [self._plan(row) for row in rows]
        with ThreadPoolExecutor(self.planner.concurrency) as threads:
            return list(threads.map(self._plan, rows))

    def _plan(self, row: Source) -> _Plans:
        """The edits of a caption and its paraphrases, and what the planner's model failed at."""
        rng = random.Random(seed_of(self.settings.seed, row.id, "plan"))
        asking = self.planner if isinstance(self.planner, Asking) else None
        before = Counter(asking.failures if asking else {})
        edits, rejected = plan(
            row.caption,
            self.planner,
            categories=self.settings.categories,
            per_item=self.settings.per_item,
            rng=rng,
        )
        positives: tuple[str, ...] = ()
        if edits and self.settings.positives:
            found, _ = plan_positives(row.caption, self.planner, count=self.settings.positives, rng=rng)
            positives = tuple(edit.caption for edit in found)
        return _Plans(edits, rejected, positives, Counter(asking.failures if asking else {}) - before)

    def _with_originals(self, pairs: list[Pair], mined: Mined) -> list[Pair]:
        """The pairs whose original image fits its caption better than the negative one; drawn where there is none."""
        missing = [pair for pair in pairs if pair.original is None]
        if missing:
            self._draw_originals(missing, mined)
        there = [pair for pair in pairs if pair.original is not None]
        images = [pair.original for pair in there if pair.original is not None]
        said = self._scores(images * 2, [p.source.caption for p in there] + [p.edit.caption for p in there])
        kept = []
        for place, pair in enumerate(there):
            pair.scores[0], pair.scores[1] = said[place], said[place + len(there)]
            if math.isnan(pair.scores[0]) or math.isnan(pair.scores[1]):
                pair.reason = "the judge cannot read the caption"
            elif not self.settings.margins.hold(pair.scores[0], pair.scores[1]):
                pair.reason = "the original image shows the negative caption"
            if pair.reason:
                reject_pair(mined, "verified", pair)
            else:
                kept.append(pair)
        return kept

    def _draw_originals(self, missing: list[Pair], mined: Mined) -> None:
        """One image for each caption without one, tried until the judge takes it for all of its edits."""
        groups: dict[str, list[Pair]] = {}
        for pair in missing:
            groups.setdefault(pair.source.id, []).append(pair)
        open_ = list(groups.values())
        for attempt in range(self.settings.retries + 1):
            jobs = [
                Job(
                    group[0].source.caption,
                    seed_of(self.settings.seed, group[0].source.id, "original", attempt),
                )
                for group in open_
            ]
            refusals = [self.painter.refusal(job) for job in jobs]
            images = iter(self._paint([j for j, r in zip(jobs, refusals, strict=True) if r is None], mined))
            drawn = [
                (group, job.seed, next(images))
                for group, job, refusal in zip(open_, jobs, refusals, strict=True)
                if refusal is None
            ]
            still = []
            for group, seed, image in drawn:
                captions = [group[0].source.caption, *(pair.edit.caption for pair in group)]
                right, *wrong = self._scores([image] * len(captions), captions)
                for pair in group:
                    pair.original, pair.original_seed = image, seed
                if not all(self.settings.margins.hold(right, score) for score in wrong):
                    still.append(group)
            for group, refusal in zip(open_, refusals, strict=True):
                for pair in group if refusal is not None else ():
                    pair.reason = refusal or ""
                    reject_pair(mined, "rendered", pair)
            open_ = still

    def _with_masks(self, pairs: list[Pair], mined: Mined) -> list[Pair]:
        if self.region is None:
            return pairs
        kept = []
        for pair in pairs:
            assert pair.original is not None
            try:
                pair.mask = self.region(pair.source, pair.edit, pair.original)
                kept.append(pair)
            except NoRegion as error:
                pair.reason = str(error)
                reject_pair(mined, "rendered", pair)
        return kept

    def _with_negatives(self, pairs: list[Pair], mined: Mined) -> list[Pair]:
        """The pairs with a negative image that the judge takes, in their order."""
        kept: list[Pair] = []
        open_ = []
        for pair in pairs:
            pair.reason = self.painter.refusal(self._job(pair, 0)) or ""
            if pair.reason:
                reject_pair(mined, "rendered", pair)
            else:
                open_.append(pair)
                mined.funnel.count("rendered", pair.edit.category)
        for attempt in range(self.settings.retries + 1):
            if not open_:
                break
            if attempt == 1:
                for pair in open_:
                    mined.funnel.count("retried", pair.edit.category)
            jobs = [self._job(pair, attempt) for pair in open_]
            for pair, job, image in zip(open_, jobs, self._paint(jobs, mined), strict=True):
                pair.negative, pair.seed, pair.weight, pair.tries = image, job.seed, job.weight, attempt + 1
            self._judge(open_)
            passed = [pair for pair in open_ if not pair.reason]
            if attempt == 0:
                mined.funnel.first.update(pair.edit.category for pair in passed)
            kept += passed
            open_ = [pair for pair in open_ if pair.reason]
        for pair in open_:
            reject_pair(mined, "verified", pair)
        for pair in kept:
            mined.funnel.count("verified", pair.edit.category)
        order = {id(pair): place for place, pair in enumerate(pairs)}
        return sorted(kept, key=lambda pair: order[id(pair)])

    def _job(self, pair: Pair, attempt: int) -> Job:
        seed = seed_of(self.settings.seed, pair.id, attempt)
        if attempt == 0 and pair.original_seed is not None and self.settings.mode == "generate":
            # from the noise of a painted original, its negative differs in what was edited and in little else
            seed = pair.original_seed
        return Job(
            prompt=pair.edit.prompt,
            seed=seed,
            avoid=pair.edit.avoid,
            weight=self.settings.weight * (1 + WEIGHT_GROWTH * attempt),
            image=None if self.settings.mode == "generate" else pair.original,
            mask=pair.mask,
            group=pair.source.id,
        )

    def _judge(self, pairs: Sequence[Pair]) -> None:
        """Score the negative images, and say in ``reason`` what is wrong; empty = nothing."""
        images = [pair.negative for pair in pairs if pair.negative is not None]
        said = self._scores(images * 2, [p.source.caption for p in pairs] + [p.edit.caption for p in pairs])
        for place, pair in enumerate(pairs):
            pair.scores[2], pair.scores[3] = said[place], said[place + len(pairs)]
            scores = (pair.scores[0], pair.scores[1], pair.scores[2], pair.scores[3])
            pair.reason = next(iter(self.settings.margins.objections(scores)), "")
            if not pair.reason and pair.mask is not None and pair.original and pair.negative:
                pair.outside_change = change_outside(pair.original, pair.negative, pair.mask)
                if pair.outside_change > self.settings.max_outside_change:
                    pair.reason = "the image has changed outside the mask"
        fine = [pair for pair in pairs if not pair.reason]
        if self.asker is not None and fine:
            asked = [(pair, question) for pair in fine for question, _ in questions(pair.edit)]
            answers = iter(
                self.asker.answers([p.negative for p, _ in asked if p.negative], [q for _, q in asked])
            )
            for pair in fine:
                pair.reason = objection(pair.edit, [next(answers) for _ in questions(pair.edit)]) or ""

    def _deduplicated(self, pairs: list[Pair], mined: Mined) -> list[Pair]:
        """Each pair of captions, and each negative image, once."""
        captions: set[tuple[str, str]] = set()
        pixels: set[bytes] = set()
        kept = []
        for pair in pairs:
            assert pair.negative is not None
            said = (normalised(pair.source.caption), normalised(pair.edit.caption))
            seen = hashlib.sha256(pair.negative.tobytes()).digest()
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
            pixels.add(seen)
            mined.funnel.count("deduplicated", pair.edit.category)
            kept.append(pair)
        return kept

    def _balanced(self, pairs: list[Pair], mined: Mined) -> list[Pair]:
        """So many of each category that none has more than its share; those that go are chosen by their ids' hash."""
        most = largest_count(Counter(pair.edit.category for pair in pairs), self.settings.max_category_share)
        chosen: set[str] = set()
        left: Counter[str] = Counter()
        for pair in sorted(pairs, key=lambda pair: seed_of(self.settings.seed, pair.id, "balance")):
            if left[pair.edit.category] < most:
                left[pair.edit.category] += 1
                chosen.add(pair.id)
        for pair in pairs:
            if pair.id in chosen:
                mined.funnel.count("balanced", pair.edit.category)
            else:
                pair.reason = (
                    f"more than {self.settings.max_category_share:.0%} of the shard are {pair.edit.category}"
                )
                reject_pair(mined, "balanced", pair)
        return [pair for pair in pairs if pair.id in chosen]

    def _draw_controls(self, pairs: Sequence[Pair], mined: Mined) -> None:
        """Paint the original caption for a share of the items, from the noise of their negative image.

        A control must show its caption and not the negative one; where it does not, the next item takes its place.
        """
        able = [pair for pair in pairs if pair.original_seed is None]
        order = sorted(able, key=lambda pair: seed_of(self.settings.seed, pair.id, "control"))
        wanted = math.ceil(self.settings.controls * len(able))
        while wanted > mined.funnel.controls and order:
            batch, order = order[: wanted - mined.funnel.controls], order[wanted - mined.funnel.controls :]
            for attempt in range(self.settings.retries + 1):
                jobs = [self._control_job(pair, attempt) for pair in batch]
                images = self._paint(jobs, mined)
                said = self._scores(
                    images * 2, [p.source.caption for p in batch] + [p.edit.caption for p in batch]
                )
                open_ = []
                for place, (pair, image) in enumerate(zip(batch, images, strict=True)):
                    if self.settings.margins.hold(said[place], said[place + len(batch)]):
                        pair.control = image
                        mined.funnel.controls += 1
                    else:
                        open_.append(pair)
                batch = open_
                if not batch:
                    break
            for pair in batch:
                reject(mined, "controls", "the painted original does not show its caption", pair.source.id)

    def _control_job(self, pair: Pair, attempt: int) -> Job:
        seed = pair.seed if attempt == 0 else seed_of(self.settings.seed, pair.id, "control", attempt)
        return replace(self._job(pair, 0), prompt=pair.source.caption, avoid="", seed=seed)

    def _paint(self, jobs: Sequence[Job], mined: Mined) -> list[Image.Image]:
        images = self.painter(jobs) if jobs else []
        mined.funnel.images += len(images)
        return images

    def _scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        return [round(float(score), 6) for score in self.judge.score(images, captions)] if images else []


@dataclass(frozen=True)
class _Plans:
    """What was planned for one caption, and what was refused or failed."""

    edits: list[Edit]
    rejected: list[Rejected]
    positives: tuple[str, ...]
    failures: Counter[str]


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
