"""Hard negatives of captions alone: planned, checked by the planner's rules, and written without any image model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from negguide.image_files import UnreadableImageError
from negguide.mining.edits import Planner
from negguide.mining.item import Item, Source
from negguide.mining.mined import Mined
from negguide.mining.originals import remember
from negguide.mining.pair import Pair, reject_pair, store_original
from negguide.mining.planning import balanced, deduplicated, plan_rows, remembering
from negguide.mining.settings import Settings
from negguide.mining.sources import BadSource
from negguide.storage import on_this_machine

STAGES = ("planned", "deduplicated", "balanced", "written")
"""Of the funnel, those that a set of text alone has."""


@dataclass(frozen=True)
class TextMiner:
    """What makes hard negative captions of a part of the input, the same ones whoever does it and whenever.

    Nothing looks at the images. Those that are files are named by their path as seen from the shard, where both lie on
    this machine; all others are stored in it, each once, in the format that they came in; scenes of the toy world are
    drawn.

    Args:
        settings: of the set; without a model and a judge.
        planner: what plans.
        shards: the folder that the shards lie in, which names of files are relative to.
        licence: of the input, for what says none of its own.
    """

    settings: Settings
    planner: Planner
    shards: Path
    licence: str | None = None

    def keeping(self, painted: Path, answers: Path, told: Callable[[int], None]) -> TextMiner:
        """The same miner, which asks a model nothing that is in the folder ``answers``; it paints nothing."""
        return replace(self, planner=remembering(self.planner, answers))

    def plan(self, rows: Sequence[Source | BadSource]) -> Mined:
        """The shard of these rows: nothing is left to be made of the plans."""
        mined = Mined()
        pairs = plan_rows(rows, self.settings, self.planner, mined)
        for pair in balanced(deduplicated(pairs, mined), self.settings, mined):
            try:
                image = self._image(pair.source, mined)
            except UnreadableImageError as error:
                pair.reason = f"corrupt image: {error}"
                reject_pair(mined, "written", pair)
                continue
            mined.funnel.count("written", pair.edit.category)
            mined.items.append(self._item(pair, image))
        return mined

    def make(self, shards: Sequence[Mined]) -> list[Mined]:
        """The shards, as they are planned."""
        return list(shards)

    def _image(self, source: Source, mined: Mined) -> str | None:
        """The file name of the image as the row has it; None where the input has captions alone."""
        if source.stored is None:
            if source.load is None:
                return None
            file = f"images/{hashlib.sha256(source.id.encode()).hexdigest()[:16]}.png"
            mined.images[file] = source.load()
            return file
        path = source.stored.path
        if path is None or not (on_this_machine(path) and on_this_machine(self.shards)):
            remember(source, self.settings, mined)
            return store_original(source, mined)
        # a link to a file keeps its own name, which has the suffix
        return (Path(_way(path.parent, self.shards)) / path.name).as_posix()

    def _item(self, pair: Pair, image: str | None) -> Item:
        edit = pair.edit
        return Item(
            id=pair.id,
            source_id=pair.source.id,
            image_file_name=image,
            negative_image_file_name=None,
            caption=pair.source.caption,
            negative_caption=edit.caption,
            category=edit.category,
            start=edit.start,
            end=edit.end,
            before=edit.before,
            after=edit.after,
            backend=edit.backend,
            scores=(),
            judge=None,
            prompt=None,
            model=None,
            revision=None,
            methods=[],
            seed=None,
            tries=0,
            positive_captions=pair.positives,
            licence=pair.source.licence or self.licence or "unknown",
        )


@lru_cache(maxsize=1024)
def _way(folder: Path, start: Path) -> str:
    return os.path.relpath(folder.resolve(), start.resolve())
