"""Negatives that follow the model: the choice, the batches after it, and runs that refresh."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from negguide.vlm.data import refresh
from negguide.vlm.data.dataset import read_training_set
from negguide.vlm.data.loader import Batch
from negguide.vlm.data.refresh import Scored, choose, confusion, exchange, hardest, pool_of
from negguide.vlm.data.sampler import Curriculum, RandomSampler
from negguide.vlm.losses import registry
from negguide.vlm.losses.registry import loss_by_name
from negguide.vlm.models import load_model
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log
from negguide.vlm.training.loop import LossNotFiniteError, Outcome, _Loop, finetune
from negguide.vlm.training.refresh import Refresher
from negguide.vlm.training.state import TrainState

FRACTION = 0.95
NEVER = -torch.inf


def run(settings: Settings, out: Path, **more: Any) -> Outcome:
    return finetune(settings, out, cpu=True, **more)


def scored(similarity: Tensor, **more: Any) -> Scored:
    """Rows whose image i and text j have this similarity: texts are unit vectors, images hold the scores."""
    rows = len(similarity)
    numbers = torch.arange(rows)
    known: dict[str, Any] = {
        "valid": torch.zeros(rows, dtype=torch.bool),
        "source": numbers,
        "caption": numbers,
        "negative_caption": -1 - numbers,
        "group": numbers,
    }
    return Scored(image=similarity, text=torch.eye(rows), **{**known, **more})


# rows are images, columns texts
SCORES = torch.tensor(
    [
        [0.50, 0.10, 0.40, 0.49, 0.60],
        [0.20, 0.80, 0.30, 0.10, 0.10],
        [0.00, 0.00, 0.70, 0.00, 0.00],
        [0.10, 0.10, 0.00, 0.60, 0.00],
        [0.30, 0.75, 0.00, 0.00, 0.90],
    ]
)


def test_the_lead_of_a_row_is_its_best_score_either_way_over_the_pair() -> None:
    lead, doubted = confusion(scored(SCORES), torch.tensor([0, 1]), FRACTION)
    # of row 0 the pair has 0.5, of row 1 it has 0.8; either its image meets a text or its text an image
    expected = [
        [NEVER, 0.2 - 0.5, 0.4 - 0.5, 0.49 - 0.5, 0.6 - 0.5],
        [0.2 - 0.8, NEVER, 0.3 - 0.8, 0.1 - 0.8, 0.75 - 0.8],
    ]
    torch.testing.assert_close(lead, torch.tensor(expected))
    # above 0.475 for row 0, above 0.76 for row 1
    assert doubted.tolist() == [[False, False, False, True, True], [False] * 5]


def test_siblings_are_never_doubted_and_what_is_no_negative_is_not_counted() -> None:
    # row 4 is a sibling of row 0, row 3 has its caption, row 2 its image
    known = {"group": torch.tensor([0, 1, 0, 3, 0]), "caption": torch.tensor([0, 1, 2, 0, 4])}
    lead, doubted = confusion(
        scored(SCORES, source=torch.tensor([0, 1, 0, 3, 4]), **known), torch.tensor([0]), FRACTION
    )
    torch.testing.assert_close(lead, torch.tensor([[NEVER, -0.3, NEVER, NEVER, 0.1]]))
    assert not doubted.any()


def test_a_rows_own_negatives_come_with_it() -> None:
    n = len(SCORES)
    valid = torch.tensor([True, True, True, True, False])
    # the negative captions of all rows score 0.46 with image 0, but that of row 3 is what its caption says
    texts = torch.zeros(n, n)
    texts[:, 0] = 0.46 / 0.5
    image = torch.diag(torch.tensor([0.5, 0.8, 0.7, 0.6, 0.9]))
    base = replace(
        scored(SCORES, valid=valid, negative_caption=torch.tensor([10, 11, 12, 0, 14])), image=image
    )
    plain, _ = confusion(base, torch.tensor([0]), FRACTION)
    torch.testing.assert_close(plain, torch.tensor([[NEVER, -0.5, -0.5, -0.5, -0.5]]))
    lead, doubted = confusion(replace(base, negative_text=texts), torch.tensor([0]), 0.9)
    torch.testing.assert_close(lead, torch.tensor([[-0.04, -0.04, -0.04, -0.5, -0.5]]))
    # 0.46 is above 0.9 times 0.5; its own negative is known to be one
    assert doubted.tolist() == [[False, True, True, False, False]]
    negative_image = torch.zeros(n, n)
    negative_image[1, 0] = 0.55
    lead, _ = confusion(replace(base, negative_image=negative_image), torch.tensor([0]), FRACTION)
    torch.testing.assert_close(lead, torch.tensor([[-0.5, 0.05, -0.5, -0.5, -0.5]]))


def test_a_pair_without_a_score_of_its_own_doubts_nothing() -> None:
    assert not confusion(scored(SCORES - 0.5), torch.tensor([0]), FRACTION)[1].any()
    assert confusion(scored(SCORES - 0.49), torch.tensor([0]), FRACTION)[1].any()


def test_the_hardest_rows_of_each_kind_are_chosen_and_doubtful_ones_held_back() -> None:
    lead = torch.tensor([[0.1, 0.5, NEVER, 0.3, 0.2, 0.4, NEVER], [0.6, 0.0, NEVER, 0.0, 0.0, 0.0, 0.05]])
    doubted = torch.zeros(2, 7, dtype=torch.bool)
    doubted[0, 1] = True
    kinds = "aabaaba"

    def choice(wanted: dict[str, int], *excluded: int) -> tuple[list[int], int]:
        return choose(lead.amax(dim=0), doubted.any(dim=0), kinds, Counter(wanted), excluded)

    assert choice({"a": 1}) == ([0], 0)  # by its lead over the second anchor
    assert choice({"a": 3}) == ([0, 3, 4], 1)  # row 1 comes second, and is held back
    assert choice({"b": 3}) == ([5], 0)  # there is one row of this kind that confuses
    assert choice({"a": 1, "b": 1}) == ([0, 5], 0)
    assert choice({"a": 2, "b": 1}) == ([0, 5, 3], 1)
    assert choice({"a": 2}, 0, 3) == ([4, 6], 1)
    assert choice({"a": 9}) == ([0, 3, 4, 6], 1)


def test_a_row_counts_by_its_largest_lead_and_one_doubt_holds_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anchors = torch.tensor([0, 1, 3])
    expected = torch.tensor([0.1 - 0.6, 0.2 - 0.5, 0.4 - 0.5, 0.49 - 0.5, 0.6 - 0.5])
    for at_once in (256, 2, 1):
        monkeypatch.setattr(refresh, "AT_ONCE", at_once)
        lead, held = hardest(scored(SCORES), anchors, 0.8)
        # row 0 meets the image of row 3 or its text with 0.49 of 0.6; row 4 is doubted by rows 0 and 1
        torch.testing.assert_close(lead, expected.index_fill(0, torch.tensor([0]), 0.49 - 0.6))
        assert held.tolist() == [True, False, False, True, True]


def test_a_batch_keeps_its_size_its_kinds_and_the_rows_that_stay() -> None:
    pool = [10, 11, 12, 13, 14]
    made = exchange([[10, 11]], pool, scored(SCORES), [0] * 5, leaving=1, fraction=FRACTION)
    assert made.batches == [[10, 12]]  # 13 and 14 score too high beside the pair of 10
    assert (made.exchanged, made.held_back) == (1, 2)
    made = exchange([[10, 11]], pool, scored(SCORES), [0] * 5, leaving=1, fraction=2.0)
    assert made.batches == [[10, 14]] and made.held_back == 0
    made = exchange([[10, 11]], pool, scored(SCORES), [0, 1, 0, 0, 0], leaving=1, fraction=2.0)
    assert made.batches == [[10, 11]] and made.exchanged == 0  # no other row is of its kind
    made = exchange([[10, 11, 14]], pool, scored(SCORES), [0, 1, 0, 0, 0], leaving=2, fraction=2.0)
    assert made.batches == [[10, 11, 14]] and made.exchanged == 0  # it is the hardest already


def test_no_row_is_chosen_for_two_batches() -> None:
    scores = torch.full((6, 6), 0.1) + 0.8 * torch.eye(6)
    scores[:, 5] = 0.5  # a text that resembles every image
    batches = [[0, 1], [2, 3]]
    made = exchange(batches, list(range(6)), scored(scores), [0] * 6, leaving=1, fraction=FRACTION)
    assert made.batches[0] == [0, 5] and 5 not in made.batches[1]


def test_a_pool_is_the_rows_of_the_batches_and_further_negatives_of_their_images() -> None:
    groups = [0, 0, 1, 2, 2, 2, 3]
    assert pool_of([[0, 3]], groups, range(7)) == [0, 1, 3, 4, 5]
    assert pool_of([[0, 3]], groups, [0, 3, 4, 6]) == [0, 3, 4]
    rest, first = RandomSampler(6, 2, seed=0), RandomSampler(3, 2, seed=0)
    sampler = Curriculum(rest, first, [0, 2, 4], epochs=1)
    assert list(sampler.rows(0)) == [0, 2, 4] and list(sampler.rows(1)) == list(range(6))


def steps(out: Path) -> list[dict[str, Any]]:
    return [line for line in Log(out / "log.jsonl").lines() if "loss" in line]


def refreshes(out: Path) -> list[dict[str, Any]]:
    return [line for line in Log(out / "log.jsonl").lines() if "exchanged" in line]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of every step that the runs of a test make."""
    seen: list[list[int]] = []
    step = _Loop._step

    def spy(self: Any, own: list[Batch], rows: list[int]) -> dict[str, Any]:
        assert [place for batch in own for place in batch.places] == list(rows)
        seen.append(list(rows))
        return step(self, own, rows)

    monkeypatch.setattr(_Loop, "_step", spy)
    return seen


@pytest.mark.parametrize("loss", ["clip", "negclip", "negimage", "triplet", "grouped"])
def test_batches_hold_what_a_rigged_model_confuses(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[list[int]], loss: str
) -> None:
    pools: list[list[int]] = []

    def rigged(self: Refresher, epoch: int, pool: list[int]) -> Scored:
        """Each row is confused with one other, whose place in the set differs by two, and with no further one."""
        pools.append(pool)
        similarity = torch.eye(len(pool))
        for i, row in enumerate(pool):
            if row ^ 2 in pool:
                similarity[i, pool.index(row ^ 2)] = 0.9
        return scored(similarity)

    monkeypatch.setattr(Refresher, "_scored", rigged)
    told = replace(settings, loss=loss, refresh_negatives=2, epochs=1, val_fraction=0.0, batch_size=12)
    outcome = run(told, tmp_path / "out")
    assert len(batches) == outcome.steps == (8 if loss == "grouped" else 4)
    together = 0
    for number, rows in enumerate(batches):
        assert len(set(rows)) == 12
        seen = [row for batch in batches[number - number % 2 : number] for row in batch]
        for anchor in rows[:6]:
            other = anchor ^ 2
            if other in pools[number // 2] and other not in seen:
                assert other in rows
                together += 1
    assert together >= outcome.steps
    lines = refreshes(tmp_path / "out")
    assert [line["step"] for line in lines] == list(range(1, outcome.steps, 2))
    assert all(0 < line["exchanged"] < 0.5 and line["held_back"] == 0 for line in lines)


def same(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("loss", ["triplet", "grouped"])
def test_a_run_that_goes_on_in_the_middle_of_a_refresh_has_the_same_batches(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches: list[list[int]],
    loss: str,
) -> None:
    # three steps an epoch, or six: a refresh is from one epoch into the next, and a checkpoint within
    told = replace(settings, loss=loss, refresh_negatives=4, save_every=2, mix_pairs=2)
    told = replace(told, refresh_false_negatives=2.0)  # a random model scores all alike
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outcome = run(told, whole)
    expected = batches.copy()
    batches.clear()
    saves = TrainState.save

    def killed(self: TrainState) -> None:
        saves(self)
        if self.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainState, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(told, stopped)
    kept = load_file(stopped / "checkpoints" / "step-00000002" / "batches.safetensors")["rows"]
    assert kept.tolist() == expected[:4]
    monkeypatch.setattr(TrainState, "save", saves)
    run(told, stopped, resume="latest")
    assert batches == expected and len(batches) == outcome.steps
    assert same(whole / "model.safetensors", stopped / "model.safetensors")
    times = ("images_per_second", "seconds")
    logs = [
        [{k: v for k, v in line.items() if k not in times} for line in Log(out / "log.jsonl").lines()]
        for out in (whole, stopped)
    ]
    assert logs[0] == logs[1] and all(line["exchanged"] > 0 for line in refreshes(stopped))
    with pytest.raises(ValueError, match=r"made with other settings: refresh_negatives=3 \(was 4\)"):
        run(replace(told, refresh_negatives=3), stopped, resume="latest")


def test_two_processes_score_a_part_each_and_have_the_batches_of_one(
    settings: Settings, steady_clip: Path, tmp_path: Path
) -> None:
    # 43 rows in a pool are no even number: the second process scores one twice
    told = replace(
        settings, model=str(steady_clip), refresh_negatives=4, refresh_false_negatives=2.0, epochs=2
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    half = json.dumps(asdict(replace(told, batch_size=told.batch_size // 2)))
    running = [
        subprocess.Popen(
            [sys.executable, __file__, half, str(tmp_path / "two")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    run(told, tmp_path / "one")
    one, two = (refreshes(tmp_path / name) for name in ("one", "two"))
    assert [line["exchanged"] for line in one] == [line["exchanged"] for line in two]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(
            value, weights[1][name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    chosen = [
        load_file(tmp_path / name / "checkpoints" / "step-00000006" / "batches.safetensors")
        for name in ("one", "two")
    ]
    assert chosen[0]["rows"].tolist() == chosen[1]["rows"].tolist()


def test_what_is_exchanged_follows_the_model(
    settings: Settings, tmp_path: Path, batches: list[list[int]]
) -> None:
    told = replace(settings, refresh_negatives=3, lr=1e-2)
    run(told, tmp_path / "moved")
    run(replace(told, lr=1e-12), tmp_path / "still")
    moved, still = batches[:6], batches[6:]
    assert moved[:3] == still[:3] and moved[3:] != still[3:]


def test_a_curriculum_is_not_mixed_with_later_rows(
    settings: Settings, tmp_path: Path, batches: list[list[int]]
) -> None:
    told = replace(settings, loss="grouped", curriculum="object", batch_size=8, val_fraction=0.0)
    data = read_training_set(told, load_model(settings.model), 1)
    per_epoch = len(data.sampler)
    run(replace(told, refresh_negatives=per_epoch - 1), tmp_path / "out")
    first = {row for rows in batches[:per_epoch] for row in rows}
    assert first <= set(data.sampler.rows(0)) < set(data.sampler.rows(1))
    assert not {row for rows in batches[per_epoch:] for row in rows} <= set(data.sampler.rows(0))


def test_a_failure_names_the_rows_that_were_exchanged_in(
    settings: Settings, tmp_path: Path, batches: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**inputs: Any) -> Tensor:
        return inputs["scale"] * float("nan")

    monkeypatch.setitem(registry._LOSSES, "clip", replace(loss_by_name("clip"), function=broken))
    told = replace(settings, loss="clip", refresh_negatives=2, val_fraction=0.0)
    with pytest.raises(LossNotFiniteError):
        run(told, tmp_path / "out")
    last = Log(tmp_path / "out" / "log.jsonl").lines()[-1]
    # without held-out rows, item i is row i
    assert last["items"] == [f"item-{row}" for row in batches[0]]


def test_a_refresh_that_can_change_nothing_is_refused(settings: Settings, tmp_path: Path) -> None:
    for changes, message in (
        ({"refresh_negatives": 0}, "refresh_negatives=0 must be at least 1"),
        (
            {"refresh_negatives": 2, "refresh_fraction": 1.0},
            "refresh_fraction=1.0 must be above 0 and below 1",
        ),
        ({"refresh_fraction": 0.25}, "refresh_fraction=0.25 has no meaning without refresh_negatives"),
        ({"refresh_false_negatives": 0.9}, "refresh_false_negatives=0.9 has no meaning without refresh_neg"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(settings, **changes)
    for changes, message in (
        ({"refresh_negatives": 6}, "refresh_negatives=6 of 6 steps asks only the start model"),
        ({"refresh_negatives": 1}, "refresh_negatives=1: one batch of 14 holds all rows of these steps"),
        (
            {"refresh_negatives": 2, "refresh_fraction": 0.01},
            "refresh_fraction=0.01 of a batch of 14 is no row",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(replace(settings, **changes), tmp_path / "out")
    # siblings that are not in the batch can be exchanged in at every step
    run(replace(settings, loss="grouped", refresh_negatives=1, epochs=1), tmp_path / "grouped")
    assert len(refreshes(tmp_path / "grouped")) == len(steps(tmp_path / "grouped"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Settings(**json.loads(sys.argv[1])), Path(sys.argv[2]))
