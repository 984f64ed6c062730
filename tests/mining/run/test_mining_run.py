"""A set is a function of input, settings and seed, whoever makes it and however often it is interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mining_fakes as fakes
import pytest
from PIL import Image

from negguide.mining.item import Source
from negguide.mining.mined import Mined
from negguide.mining.planning import largest_count
from negguide.mining.render.regions import ColumnRegion
from negguide.mining.run import place_among_processes, run
from negguide.mining.shards import SetFolder, read_set, read_settings
from negguide.mining.sources import BadSource
from negguide.toyworld.judge import Judge
from negguide.toyworld.language import parse
from negguide.toyworld.measure import agreement


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set made by one process in one go."""
    folder = tmp_path_factory.mktemp("sets") / "whole"
    return folder, fakes.mine(folder)


def rejects(folder):
    return [json.loads(line) for path in sorted((folder / "rejects").iterdir()) for line in path.open()]


def test_every_written_pair_is_right_and_says_how_it_was_made(whole, toyworld_judge: Judge):
    folder, outcome = whole
    rows = list(read_set(folder))
    assert len(rows) == outcome.funnel.total("written") > 12
    assert len({item.id for item, _ in rows}) == len(rows)
    for item, where in rows:
        names = (item.image_file_name, item.negative_image_file_name)
        original, negative = toyworld_judge.read([fakes.picture(where / name) for name in names])
        assert all(agreement(parse(item.caption, negation=True), original).values())
        assert all(agreement(parse(item.negative_caption, negation=True), negative).values())
        assert item.caption[item.start : item.end] == item.before
        right, wrong, other, negative_right = item.scores
        assert min(right, negative_right) - max(wrong, other) >= 0.5
        assert (item.judge, item.model, item.methods[0]["method"]) == ("toyworld", "artist", "PerpNeg")
        assert item.methods[0]["weight"] == 1 + 0.5 * (item.tries - 1)


def test_the_funnel_counts_every_edit_and_every_loss_has_a_reason(whole):
    folder, outcome = whole
    funnel = outcome.funnel
    assert json.loads((folder / "funnel.json").read_text()) == funnel.to_dict()
    assert funnel.sources["read"] == 20 and outcome.missing == 0
    lost = Counter(row["stage"] for row in rejects(folder))
    assert all(row["reason"] and row["source_id"] for row in rejects(folder))
    assert {stage: reasons.total() for stage, reasons in funnel.rejects.items()} == lost
    assert funnel.total("planned") - funnel.total("written") == lost["verified"] + lost["deduplicated"]
    assert 0 < funnel.total("retried") < funnel.total("rendered")
    assert funnel.first.total() == funnel.total("rendered") - funnel.total("retried")
    tries = Counter(item.tries for item, _ in read_set(folder))
    assert tries[1] > tries[2] > 0


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(whole, tmp_path):
    folder, _ = whole

    class Stops(fakes.Artist):
        def __call__(self, jobs):
            if self.calls == 7:
                raise KeyboardInterrupt
            return super().__call__(jobs)

    out = tmp_path / "stopped"
    stops = Stops()
    with pytest.raises(KeyboardInterrupt):
        fakes.mine(out, artist=stops)
    complete = len(list((out / "markers").glob("0*")))
    assert 0 < complete < 4
    artist = fakes.Artist()
    outcome = fakes.mine(out, artist=artist)
    assert outcome.made == 4 - complete
    # no image is painted twice
    assert len(artist.jobs) + len(stops.jobs) == outcome.funnel.images
    assert fakes.files_of(out) == fakes.files_of(folder)
    again = fakes.Artist()
    assert fakes.mine(out, artist=again).made == 0 and not again.jobs


def test_a_killed_process_loses_nothing(whole, tmp_path):
    folder, _ = whole
    out = tmp_path / "killed"
    command = [sys.executable, fakes.__file__, out]
    process = subprocess.Popen([*command, "0.4"], start_new_session=True)
    try:
        give_up = time.monotonic() + 300
        while not (out / "markers" / "00000000.json").exists() and time.monotonic() < give_up:
            time.sleep(0.02)
        assert (out / "markers" / "00000000.json").exists()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list((out / "markers").glob("0*"))) < 4
    # what a process leaves behind that dies while it writes: half an object, and a shard without a marker
    (out / "data" / ".00000002.tar.4194305-1.partial").write_bytes(b"half")
    (out / "data" / "00000003.tar").write_bytes(b"of another process, or cut off")
    assert fakes.mine(out).missing == 0
    assert fakes.files_of(out) == fakes.files_of(folder)


def test_four_processes_write_the_same_as_one(whole, tmp_path):
    folder, _ = whole
    out = tmp_path / "four"
    processes = [
        subprocess.Popen(
            [sys.executable, fakes.__file__, out, "0.1"],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "4"},
        )
        for rank in range(4)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0] * 4
    made = fakes.mine(out)
    assert made.made == 0
    assert fakes.files_of(out) == fakes.files_of(folder)


def test_what_one_process_is_making_no_other_takes(tmp_path):
    from negguide.mining.shards import SetFolder

    folder = SetFolder(tmp_path / "set", fakes.settings(), {})
    with folder.claim(["00000000"]) as free:
        assert free
        with SetFolder(tmp_path / "set", fakes.settings(), {}).claim(["00000000"]) as second:
            assert not second
        outcome = fakes.mine(tmp_path / "set")
        assert (outcome.made, outcome.missing) == (3, 1)
        assert not (tmp_path / "set" / "funnel.json").exists()
    assert fakes.mine(tmp_path / "set").missing == 0


def test_a_rank_makes_its_own_share_first_and_then_what_is_left(tmp_path):
    begun: list[int] = []
    chosen = fakes.settings()
    source = fakes.open_source("toyworld:20")
    arguments = {"made_by": {}, "rank": 1, "world": 2, "begun": lambda name, pairs: begun.append(int(name))}
    run(tmp_path / "set", chosen, source, fakes.miner(chosen), **arguments)
    assert begun == [1, 3, 0, 2]


def test_a_batch_size_or_shard_does_not_change_what_is_drawn(whole, tmp_path):
    folder, _ = whole
    fakes.mine(tmp_path / "set", shard_size=20, batch_size=1, controls=0)
    seeds = {item.id: (item.seed, item.tries, item.negative_caption) for item, _ in read_set(folder)}
    other = {
        item.id: (item.seed, item.tries, item.negative_caption) for item, _ in read_set(tmp_path / "set")
    }
    assert set(seeds) <= set(other) | {r["item_id"] for r in rejects(tmp_path / "set") if "item_id" in r}
    assert all(other[name] == seeds[name] for name in seeds if name in other)


def test_another_seed_is_another_set(whole, tmp_path):
    folder, _ = whole
    fakes.mine(tmp_path / "set", seed=1)
    assert {i.seed for i, _ in read_set(folder)}.isdisjoint(i.seed for i, _ in read_set(tmp_path / "set"))


def test_a_folder_with_other_settings_is_refused_and_left_alone(whole, tmp_path):
    folder, _ = whole
    before = fakes.files_of(folder)
    with pytest.raises(ValueError, match=r"made with other settings \(retries: 3 there, 5 now\).*new folder"):
        fakes.mine(folder, retries=5)
    assert fakes.files_of(folder) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(notes.txt\) and no set"):
        fakes.mine(tmp_path)


def test_a_run_that_wrote_no_shard_does_not_block_its_folder(whole, tmp_path):
    class Breaks(fakes.Artist):
        def __call__(self, jobs):
            if len(self.jobs) >= 4:
                raise ValueError("the model is broken")
            return super().__call__(jobs)

    folder = tmp_path / "set"
    with pytest.raises(ValueError, match="the model is broken"):
        fakes.mine(folder, artist=Breaks(), steps=3)
    assert (folder / "set.json").exists() and any((folder / ".painted").iterdir())
    fakes.mine(folder)
    # nothing of the first run is in it
    assert fakes.files_of(folder) == fakes.files_of(whole[0])


def test_a_run_at_work_keeps_its_folder(tmp_path):
    first = SetFolder(tmp_path / "set", fakes.settings(), {})
    with first.claim(["00000000"]) as free:
        assert free
        with pytest.raises(ValueError, match="made with other settings"):
            SetFolder(tmp_path / "set", fakes.settings(retries=5), {})
    # it has begun, and is at no shard: what it makes now would be of other settings than the folder's
    SetFolder(tmp_path / "set", fakes.settings(retries=5), {})
    with pytest.raises(ValueError, match="was taken over by a run with other settings"):
        first.write("00000000", Mined(), "")


def test_an_input_that_has_changed_is_refused(tmp_path):
    rows = fakes.sources(6)
    fakes.mine(tmp_path / "set", source=fakes.Rows(rows))
    changed = [*rows[:1], replace(rows[1], caption="a brown bear in front view in a room"), *rows[2:]]
    with pytest.raises(ValueError, match="--data has changed since shard 00000000"):
        fakes.mine(tmp_path / "set", source=fakes.Rows(changed))


def test_a_full_disk_stops_the_run_and_loses_nothing(whole, tmp_path, monkeypatch):
    folder, _ = whole
    out = tmp_path / "full"
    fsync, written = os.fsync, Counter()

    def fails(number):
        shard = Path(f"/proc/self/fd/{number}").readlink().parent.name == "data"
        written["shards"] += shard
        if shard and written["shards"] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(
            OSError, match=r"cannot be written: No space left on device; the \d+ shards before"
        ):
            fakes.mine(out)
    assert not list((out / "data").glob(".*")) and not (out / "funnel.json").exists()
    assert json.loads((out / "set.json").read_text())
    fakes.mine(out)
    assert fakes.files_of(out) == fakes.files_of(folder)


def test_a_full_disk_in_the_middle_of_a_shard_says_that_the_command_goes_on(whole, tmp_path, monkeypatch):
    folder, _ = whole
    out = tmp_path / "full"

    def fails(self, stream, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", fails)
        with pytest.raises(
            OSError, match=r"painted/00000000: No space left on device; .* the same command goes on"
        ):
            fakes.mine(out)
    fakes.mine(out)
    assert fakes.files_of(out) == fakes.files_of(folder)


def test_bad_sources_are_counted_with_their_ids_and_the_others_go_on(tmp_path):
    good = fakes.sources(5)

    def missing():
        raise FileNotFoundError("gone.png")

    rows = [
        good[0],
        replace(good[1], load=fakes.corrupt),
        replace(good[2], load=missing),
        BadSource("cut", "half a line"),
        replace(good[3], caption="  "),
        replace(good[3], id="german", caption="ein Bär mit einem Hut"),
        good[0],
        good[4],
    ]
    outcome = fakes.mine(tmp_path / "set", source=fakes.Rows(rows), shard_size=3)
    assert outcome.funnel.sources == {"read": 8, "bad": 6, "planned": 2}
    found = {(row["source_id"], row["reason"].partition(":")[0]) for row in rejects(tmp_path / "set")}
    assert found >= {
        (good[1].id, "corrupt image"),
        (good[2].id, "missing image"),
        ("cut", "half a line"),
        (good[3].id, "empty caption"),
        ("german", "not English"),
        (good[0].id, "duplicate id"),
    }


def test_an_original_that_does_not_show_its_caption_is_not_painted_for(tmp_path):
    first, second = fakes.sources(2)
    swapped = [replace(first, load=second.load), second]
    artist = fakes.Artist(slips=10**6)
    outcome = fakes.mine(tmp_path / "set", source=fakes.Rows(swapped), artist=artist, controls=0)
    (lost,) = rejects(tmp_path / "set")
    assert (lost["stage"], lost["source_id"]) == ("verified", first.id)
    assert lost["reason"] == "the original image shows the negative caption"
    assert {job.group for job in artist.jobs} == {second.id}
    assert outcome.funnel.total("rendered") == 1


def test_a_judge_that_cannot_read_a_caption_is_a_reject(tmp_path):
    class Silent(fakes.LightJudge):
        def score(self, images, captions):
            return super().score(images, captions) * float("nan")

    chosen = fakes.settings()
    made = fakes.miner(chosen, judge=Silent())(fakes.sources(2))
    assert [row["reason"] for row in made.rejects] == ["the judge cannot read the caption"] * 2
    assert [row["scores"][0] for row in made.rejects] == [None, None]


def test_controls_are_the_original_caption_from_the_noise_of_the_negative(tmp_path):
    artist = fakes.Artist(slips=10**6)
    made = fakes.miner(fakes.settings(controls=0.5), artist)(fakes.sources(5))
    with_control = [item for item in made.items if item.control_image_file_name]
    assert len(made.items) == 5 and len(with_control) == 3 == made.funnel.controls
    for item in with_control:
        assert item.control_image_file_name in made.images
        (job,) = [j for j in artist.jobs if j.prompt == item.caption and j.group == item.source_id]
        assert (job.seed, job.avoid) == (item.seed, "")


def test_a_control_that_is_wrong_is_left_out(tmp_path):
    class NoOriginals(fakes.Artist):
        def draw(self, job):
            return Image.new("RGB", (64, 64)) if job.avoid == "" else super().draw(job)

    made = fakes.miner(
        fakes.settings(controls=1.0, retries=1, categories=("attribute",)), NoOriginals(slips=10**6)
    )(fakes.sources(2))
    assert [item.control_image_file_name for item in made.items] == [None] * len(made.items)
    assert made.funnel.rejects["controls"].total() == len(made.items) > 0


def test_a_caption_that_the_model_cannot_read_has_no_control(tmp_path):
    class Short(fakes.Artist):
        def refusal(self, job):
            return "the prompt is too long for the model" if len(job.prompt) > longest else None

    # what is left out makes the negative's prompt shorter than its caption
    row = max(fakes.sources(20), key=lambda row: " wearing" in row.caption and len(row.caption))
    longest, artist = len(row.caption) - 1, Short(slips=10**6)
    made = fakes.miner(fakes.settings(controls=1.0, categories=("remove",)), artist)([row])
    assert len(made.items) == 1 and made.items[0].control_image_file_name is None
    assert made.funnel.rejects["controls"] == {"the prompt is too long for the model": 1}
    assert all(artist.refusal(job) is None for job in artist.jobs)


def test_the_same_pair_of_captions_is_written_once(tmp_path):
    (row,) = fakes.sources(1)
    artist = fakes.Artist(slips=10**6)
    chosen = fakes.settings(categories=("attribute",), per_item=4, controls=0)
    made = fakes.miner(chosen, artist)([row, replace(row, id="again")])
    captions = [(item.caption, item.negative_caption) for item in made.items]
    assert len(captions) == len(set(captions)) < made.funnel.total("verified")
    assert made.funnel.rejects["deduplicated"]["the same two captions are in the shard"] > 0


def test_no_category_has_more_than_its_share(tmp_path):
    assert largest_count(Counter(object=10, add=2, swap=2), 0.5) == 4
    assert largest_count(Counter(object=3, add=3, swap=3), 1 / 3) == 3
    assert largest_count(Counter(object=7), 0.1) == 7
    assert largest_count(Counter(), 0.5) == 0
    artist = fakes.Artist(slips=10**6)
    free = fakes.miner(fakes.settings(controls=0), artist)(fakes.sources(12))
    cut = fakes.miner(fakes.settings(controls=0, max_category_share=0.2), artist)(fakes.sources(12))
    most = Counter(item.category for item in cut.items).most_common(1)[0][1]
    assert most <= 0.2 * len(cut.items) < 0.2 * len(free.items)
    lost = free.funnel.total("written") - cut.funnel.total("written")
    assert cut.funnel.rejects["balanced"].total() == lost > 0


def test_inpainting_outside_the_mask_is_refused(tmp_path):
    (row,) = fakes.sources(1)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 8))
    row = replace(row, mask=lambda: mask)
    chosen = fakes.settings(mode="inpaint", retries=0, categories=("object",))
    made = fakes.miner(chosen, fakes.Artist(slips=10**6), region=ColumnRegion())([row])
    assert made.rejects[-1]["reason"] == "the image has changed outside the mask"
    made = fakes.miner(chosen, region=ColumnRegion())([replace(row, mask=None)])
    assert made.rejects[-1]["reason"] == "the input has no mask for this pair"


def test_questions_about_the_edited_phrase_can_reject(tmp_path):
    class Denies:
        name = "denies"

        def __init__(self):
            self.asked = []

        def answers(self, images, questions):
            self.asked += questions
            return ["Yes, there is." for _ in questions]

    chosen = fakes.settings(categories=("attribute",), retries=0)
    made = fakes.miner(chosen, fakes.Artist(slips=10**6), asker=(asker := Denies()))(fakes.sources(3))
    assert not made.items
    assert {row["reason"] for row in made.rejects if row["stage"] == "verified"} == {
        "the answer is yes to what was edited out"
    }
    assert any(question.startswith("Is there") for question in asker.asked)


def test_prompts_that_the_model_cannot_read_are_rejects(tmp_path):
    class Short(fakes.Artist):
        def refusal(self, job):
            return "the prompt is too long for the model"

    made = fakes.miner(fakes.settings(), Short())(fakes.sources(2))
    assert [row["reason"] for row in made.rejects] == ["the prompt is too long for the model"] * 2
    assert made.rejects[0]["stage"] == "rendered" and not made.items


def test_an_input_without_pairs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pairs"):
        fakes.mine(tmp_path / "set", source=fakes.Rows([]))


def test_settings_go_to_json_and_back_and_say_what_is_wrong(tmp_path):
    chosen = fakes.settings(categories=("add", "swap"), limit=3)
    fakes.mine(tmp_path / "set", limit=3, categories=("add", "swap"))
    assert read_settings(tmp_path / "set") == chosen
    for changes, message in (
        ({"categories": ("adding",)}, "--categories must be some of object, .*got adding"),
        ({"per_item": 0}, "--per-item must be a whole number >= 1, got 0"),
        ({"controls": 1.5}, "--controls must be from 0 to 1, got 1.5"),
        ({"mode": "draw"}, "--mode must be one of generate, edit, inpaint, got 'draw'"),
        ({"limit": 0}, "--limit must be a whole number >= 1, got 0"),
        ({"guidance_scale": float("nan")}, "--guidance-scale must be a finite number, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            fakes.settings(**changes)
    with pytest.raises(ValueError, match="holds no hard-negative set"):
        read_settings(tmp_path)


def test_the_place_among_processes_comes_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert place_among_processes() == (0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place_among_processes() == (3, 4, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK=3 must be at least 0 and below WORLD_SIZE=2"):
        place_among_processes()


def test_a_source_is_opened_only_when_its_shard_is_made(whole, tmp_path):
    opened: list[str] = []

    def counted(row: Source) -> Source:
        return replace(row, load=lambda: opened.append(row.id) or row.load())

    rows = fakes.sources(7)
    fakes.mine(tmp_path / "set", source=fakes.Rows([counted(row) for row in rows]))
    assert opened == [row.id for row in rows]
    fakes.mine(tmp_path / "set", source=fakes.Rows([counted(row) for row in rows]))
    assert len(opened) == 7
