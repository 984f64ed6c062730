"""A shard's part of the input, from captions to verified pairs: plan, paint, judge, try again, choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from PIL import Image

from negguide.mining.edits import Planner
from negguide.mining.item import Source
from negguide.mining.mined import Mined
from negguide.mining.pair import Pair, add_pair, reject, reject_pair
from negguide.mining.planning import balanced, deduplicated, plan_rows, remembering
from negguide.mining.render.job import Job, NoRegionError, Painter, Region
from negguide.mining.render.memory import Memory
from negguide.mining.render.paste import change_outside
from negguide.mining.settings import Settings, seed_of
from negguide.mining.sources import BadSource
from negguide.mining.together import Painting, Part, Scoring, Steps, made_together
from negguide.mining.verify.margins import PairJudge
from negguide.mining.verify.questions import Asker, objection, questions

OPENED = 64
"""Originals of a shard that are open at once."""
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

    def keeping(self, painted: Path, answers: Path, told: Callable[[int], None]) -> Miner:
        """The same miner, which makes nothing that it has made before, and keeps what it makes.

        Args:
            painted: the folder of what was painted, on this machine or at an address.
            answers: the folder of what a model that plans has answered, on this machine.
            told: is given the number of images of each batch that is painted.
        """
        painter = Memory(self.painter, painted, told)
        return replace(self, painter=painter, planner=remembering(self.planner, answers))

    def plan(self, rows: Sequence[Source | BadSource]) -> Planned:
        """The edits of one shard's rows; neither the painter nor the judge is asked."""
        mined = Mined()
        pairs = plan_rows(rows, self.settings, self.planner, mined)
        if self.settings.mode == "generate":
            # found readable; several shards of large photos would fill the memory, so they are opened again when needed
            for pair in pairs:
                pair.original = None if pair.source.stored is not None else pair.original
        return Planned(mined, pairs)

    def make(self, shards: Sequence[Planned]) -> list[Mined]:
        """What comes of the plans of some shards, which are painted and judged together."""
        return made_together([self._steps(one) for one in shards], self.painter, self._scores)

    def __call__(self, rows: Sequence[Source | BadSource]) -> Mined:
        """What comes of one shard's rows by itself."""
        return self.make([self.plan(rows)])[0]

    def _steps(self, planned: Planned) -> Steps:
        mined = planned.mined
        pairs = yield from self._with_originals(planned.pairs, mined)
        pairs = self._with_masks(pairs, mined)
        kept = yield from self._with_negatives(pairs, mined)
        kept = deduplicated(kept, mined)
        kept = balanced(kept, self.settings, mined)
        yield from self._draw_controls(kept, mined)
        for pair in kept:
            mined.funnel.count("written", pair.edit.category)
            add_pair(pair, self.settings, self.judge.name, self.licence, mined)
        return mined

    def _with_originals(self, pairs: list[Pair], mined: Mined) -> Part[list[Pair]]:
        """The pairs whose original image fits its caption better than the negative one; drawn where there is none."""
        missing = [pair for pair in pairs if pair.original is None and pair.source.load is None]
        if missing:
            yield from self._draw_originals(missing, mined)
        there = [pair for pair in pairs if pair.original is not None or pair.source.load is not None]
        kept = []
        for start in range(0, len(there), OPENED):
            some = there[start : start + OPENED]
            images = [_original(pair) for pair in some]
            captions = [p.source.caption for p in some] + [p.edit.caption for p in some]
            said = yield from _scored(images * 2, captions)
            for place, pair in enumerate(some):
                pair.scores[0], pair.scores[1] = said[place], said[place + len(some)]
                if math.isnan(pair.scores[0]) or math.isnan(pair.scores[1]):
                    pair.reason = "the judge cannot read the caption"
                elif not self.settings.margins.hold(pair.scores[0], pair.scores[1]):
                    pair.reason = "the original image shows the negative caption"
                if pair.reason:
                    reject_pair(mined, "verified", pair)
                else:
                    kept.append(pair)
        return kept

    def _draw_originals(self, missing: list[Pair], mined: Mined) -> Part[None]:
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
            able = [job for job, refusal in zip(jobs, refusals, strict=True) if refusal is None]
            images = iter((yield from _painted(able, mined)))
            drawn = [
                (group, job.seed, next(images))
                for group, job, refusal in zip(open_, jobs, refusals, strict=True)
                if refusal is None
            ]
            still = []
            asked = [
                (image, caption)
                for group, _, image in drawn
                for caption in (group[0].source.caption, *(pair.edit.caption for pair in group))
            ]
            scores = iter((yield from _scored([image for image, _ in asked], [text for _, text in asked])))
            for group, seed, image in drawn:
                right, *wrong = islice(scores, 1 + len(group))
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
            except NoRegionError as error:
                pair.reason = str(error)
                reject_pair(mined, "rendered", pair)
        return kept

    def _with_negatives(self, pairs: list[Pair], mined: Mined) -> Part[list[Pair]]:
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
            images = yield from _painted(jobs, mined)
            for pair, job, image in zip(open_, jobs, images, strict=True):
                pair.negative, pair.seed, pair.weight, pair.tries = image, job.seed, job.weight, attempt + 1
            yield from self._judge(open_)
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

    def _judge(self, pairs: Sequence[Pair]) -> Part[None]:
        """Score the negative images, and say in ``reason`` what is wrong; empty = nothing."""
        images = [pair.negative for pair in pairs if pair.negative is not None]
        captions = [p.source.caption for p in pairs] + [p.edit.caption for p in pairs]
        said = yield from _scored(images * 2, captions)
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

    def _draw_controls(self, pairs: Sequence[Pair], mined: Mined) -> Part[None]:
        """Paint the original caption for a share of the items, from the noise of their negative image.

        A control must show its caption and not the negative one; where it does not, the next item takes its place.
        """
        able = [pair for pair in pairs if pair.original_seed is None]
        order = sorted(able, key=lambda pair: seed_of(self.settings.seed, pair.id, "control"))
        wanted = math.ceil(self.settings.controls * len(able))
        while wanted > mined.funnel.controls and order:
            batch, order = order[: wanted - mined.funnel.controls], order[wanted - mined.funnel.controls :]
            batch = self._with_readable_controls(batch, mined)
            for attempt in range(self.settings.retries + 1):
                jobs = [self._control_job(pair, attempt) for pair in batch]
                images = yield from _painted(jobs, mined)
                captions = [p.source.caption for p in batch] + [p.edit.caption for p in batch]
                said = yield from _scored(images * 2, captions)
                open_ = []
                for place, (pair, image) in enumerate(zip(batch, images, strict=True)):
                    if self.settings.margins.hold(said[place], said[place + len(batch)]):
                        pair.control, pair.control_same_noise = image, attempt == 0
                        mined.funnel.controls += 1
                    else:
                        open_.append(pair)
                batch = open_
                if not batch:
                    break
            for pair in batch:
                reject(mined, "controls", "the painted original does not show its caption", pair.source.id)

    def _with_readable_controls(self, pairs: Sequence[Pair], mined: Mined) -> list[Pair]:
        """Those whose caption can be painted; it may be longer than what the negative is painted from."""
        kept = []
        for pair in pairs:
            refusal = self.painter.refusal(self._control_job(pair, 0))
            if refusal is None:
                kept.append(pair)
            else:
                reject(mined, "controls", refusal, pair.source.id)
        return kept

    def _control_job(self, pair: Pair, attempt: int) -> Job:
        seed = pair.seed if attempt == 0 else seed_of(self.settings.seed, pair.id, "control", attempt)
        return replace(self._job(pair, 0), prompt=pair.source.caption, avoid="", seed=seed)

    def _scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        return [round(float(score), 6) for score in self.judge.score(images, captions)]


@dataclass(frozen=True)
class Planned:
    """The plans of one shard.

    Attributes:
        mined: what was lost so far.
        pairs: what is to be painted.
    """

    mined: Mined
    pairs: list[Pair]


def _original(pair: Pair) -> Image.Image:
    if pair.original is not None:
        return pair.original
    assert pair.source.load is not None
    return pair.source.load()


def _painted(jobs: Sequence[Job], mined: Mined) -> Part[list[Image.Image]]:
    if not jobs:
        return []
    images: list[Image.Image] = yield Painting(jobs)
    mined.funnel.images += len(images)
    return images


def _scored(images: Sequence[Image.Image], captions: Sequence[str]) -> Part[list[float]]:
    if not images:
        return []
    scores: list[float] = yield Scoring(images, captions)
    return scores
