"""Siblings, paraphrases and curricula: which rows are in a batch, and what they are to each other."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from negguide.vlm.data.dataset import read_training_set
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.models import load_model
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log
from negguide.vlm.training.loop import Outcome, finetune
from negguide.vlm.training.task import objective


def run(settings: Settings, out: Path, **more: Any) -> Outcome:
    return finetune(settings, out, cpu=True, **more)


@pytest.mark.parametrize("loss", ["grouped", "triplet"])
def test_a_curriculum_trains_on_one_category_first(
    settings: Settings, tmp_path: Path, tiny_clip: Path, loss: str
) -> None:
    told = replace(
        settings, loss=loss, paraphrases=True, curriculum="object", epochs=2, batch_size=8, val_fraction=0.0
    )
    data = read_training_set(told, load_model(str(tiny_clip)), 1)
    kind = {t.id: t.category for t in read_triplets(told.train_data)}
    per_epoch = len(data.sampler)
    seen = [
        {kind[name.removesuffix("/negative")] for step in steps for name in data.names(data.batch(step))}
        for steps in (range(per_epoch), range(per_epoch, 2 * per_epoch))
    ]
    assert seen == [{"object"}, {"object", "attribute"}]
    outcome = run(replace(told, distill=1.0), tmp_path / "out")
    lines = Log(tmp_path / "out" / "log.jsonl").lines()
    assert outcome.steps == 2 * per_epoch == len(lines)
    # the start model's view would hold back what it does not see
    assert ["distill" in line for line in lines] == [False] * per_epoch + [True] * per_epoch


def test_siblings_are_negatives_of_each_other(settings: Settings, tiny_clip: Path) -> None:
    told = replace(settings, loss="grouped", val_fraction=0.0, group_fraction=1.0)
    model = load_model(str(tiny_clip))
    data = read_training_set(told, model, 1)
    loader = data.loader(told, model, rank=0, processes=1, device=torch.device("cpu"))
    (batch,) = next(loader.steps(0, data.sampler.epoch(0)))
    groups = [data.train.triplets[place].group for place in batch.places]
    assert len(set(groups)) == len(groups) / 2
    n = len(groups)
    # features that tell all rows apart: perfect, unless a sibling were a positive
    image, text = torch.eye(n), torch.eye(n)
    _, parts = objective(told, [(image, text, torch.tensor(100.0))], [batch])
    assert float(parts["grouped"]) < 1e-3


def test_paraphrases_are_positives_of_the_originals_among_siblings(
    settings: Settings, tiny_clip: Path
) -> None:
    told = replace(settings, loss="grouped", val_fraction=0.0, group_fraction=1.0, paraphrases=True)
    model = load_model(str(tiny_clip))
    data = read_training_set(told, model, 1)
    loader = data.loader(told, model, rank=0, processes=1, device=torch.device("cpu"))
    (batch,) = next(loader.steps(0, data.sampler.epoch(0)))
    originals = [i for i, place in enumerate(batch.places) if not data.train.triplets[place].category]
    assert batch.positive.tolist() == originals
    n = len(batch.places)
    texts = torch.cat((torch.eye(n), torch.eye(n)[batch.positive]))
    scale = torch.tensor(100.0)
    _, right = objective(told, [(torch.eye(n), texts, scale)], [batch])
    # each has two positives of equal cosine: ln 2 for images of originals, and nothing else
    expected = len(originals) / n * math.log(2) / 2
    assert float(right["grouped"]) == pytest.approx(expected, abs=1e-3)
    texts = torch.cat((torch.eye(n), torch.eye(n)[(batch.positive + 1) % n]))
    _, wrong = objective(told, [(torch.eye(n), texts, scale)], [batch])
    assert float(wrong["grouped"]) > 10


def test_paraphrases_that_are_not_there_are_missed(
    settings: Settings, changed_set: Callable[..., Path], tiny_clip: Path
) -> None:
    model = load_model(str(tiny_clip))
    some = changed_set(lambda i, row: row if i % 2 else {**row, "positive_captions": []})
    told = replace(settings, paraphrases=True, train_data=str(some))
    assert "24 of 48 rows have no paraphrase" in read_training_set(told, model, 1).notes
    path = some / "metadata.jsonl"
    path.write_text(
        "".join(
            json.dumps({k: v for k, v in json.loads(line).items() if k != "positive_captions"}) + "\n"
            for line in path.read_text().splitlines()
        )
    )
    with pytest.raises(ValueError, match="has no column positive_captions, which paraphrases needs"):
        read_training_set(told, model, 1)
