"""What happens to the captions and the originals of one shard."""

import threading
from collections import Counter
from dataclasses import replace

import mining_fakes as fakes
import pytest

from negguide.toyworld.edits import ToyworldRules


class Stumbling(ToyworldRules):
    """The rules, as a model that gives a malformed answer to every caption about a bear."""

    def __init__(self, concurrency=1):
        super().__init__()
        self.concurrency = concurrency
        self.held = threading.local()

    @property
    def failures(self):
        # as those of a chat model, of the thread that asks
        return self.held.__dict__.setdefault("failures", Counter())

    def remembering(self, file):
        return self

    def propose(self, caption, categories, rng):
        if "bear" not in caption:
            return super().propose(caption, categories, rng)
        self.failures["not JSON"] += 2
        return []


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_a_planners_model_fails_at_is_counted_and_reported_with_the_id(concurrency):
    rows = fakes.sources(12)
    bears = [row.id for row in rows if "bear" in row.caption]
    assert 0 < len(bears) < len(rows)
    miner = replace(fakes.miner(fakes.settings()), planner=Stumbling(concurrency))
    made = miner(rows)
    assert made.funnel.failures == {"not JSON": 2 * len(bears)}
    failed = [row for row in made.rejects if row["stage"] == "planner"]
    assert [row["source_id"] for row in failed] == bears
    assert all((row["reason"], row["times"]) == ("not JSON", 2) for row in failed)
    # what an earlier shard failed at is not counted again
    assert miner(rows[:0]).funnel.failures == {}


def test_captions_without_images_get_one(tmp_path):
    rows = fakes.sources(4, load=None)
    made = fakes.miner(fakes.settings(per_item=2))(rows)
    assert len({item.source_id for item in made.items}) >= 3
    for item in made.items:
        assert item.extra["original"] == "painted" and item.image_file_name in made.images
        assert item.control_image_file_name is None


def test_the_negative_of_a_painted_original_begins_with_its_noise():
    artist = fakes.Artist(slips=10**6)
    made = fakes.miner(fakes.settings(per_item=2), artist)(fakes.sources(3, load=None))
    originals = {job.prompt: job.seed for job in artist.jobs if job.group == ""}
    first = [item for item in made.items if item.tries == 1]
    assert len(first) > 3 and len(originals) == 3
    assert all(item.seed == originals[item.caption] for item in first)
    # where the input has the image there is no such noise
    given = fakes.miner(fakes.settings(per_item=2), fakes.Artist(slips=10**6))(fakes.sources(3))
    assert len({item.seed for item in given.items}) == len(given.items)
