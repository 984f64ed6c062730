"""Cached gradients are those of the large batch."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negguide.vlm import losses
from negguide.vlm.data.loader import Batch, Collate
from negguide.vlm.data.readers import read_triplets
from negguide.vlm.data.validate import validate
from negguide.vlm.models import load_model
from negguide.vlm.training import gradcache
from negguide.vlm.training.config import Settings
from negguide.vlm.training.task import objective
from negguide.vlm.training.towers import prepare


@pytest.mark.parametrize("loss", ["triplet", "conclip", "negclip"])
def test_four_chunks_give_the_gradients_of_one_batch(triplet_set: Path, tiny_clip: Path, loss: str) -> None:
    settings = Settings(str(triplet_set), str(tiny_clip), loss=loss, rank_margin=0.1, paraphrases=True)
    found = []
    for size in (48, 12):
        model = load_model(str(tiny_clip))
        rows = read_triplets(str(triplet_set))
        checked = validate(rows, model, settings.columns, needed_by=f"loss={loss!r}", name="set")
        collate = Collate(checked, model, settings.columns, paraphrases=True, seed=0)
        towers = prepare(model)  # evaluation mode: no dropout
        chunks = [collate((0, list(range(i, i + size)))) for i in range(0, 48, size)]
        assert all(isinstance(chunk, Batch) for chunk in chunks)

        def total(
            features: Sequence[tuple[Tensor, ...]], settings: Settings = settings, chunks: list = chunks
        ) -> Tensor:
            return objective(settings, features, chunks)[0]

        value = gradcache.backward(lambda b, t=towers: t(b.images, b.texts), chunks, total)
        gradients = {name: p.grad for name, p in towers.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        found.append((value, gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert float(found[0][1]["model.logit_scale"].abs()) > 0


def test_both_passes_drop_the_same_and_a_frozen_tower_stays_without_gradient() -> None:
    torch.manual_seed(0)
    image = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    text = nn.Linear(4, 3).requires_grad_(False)
    scale = nn.Parameter(torch.tensor(5.0))
    inputs = torch.randn(2, 8, 4)
    seen: list[list[Tensor]] = [[], []]

    def forward(rows: slice) -> tuple[Tensor, ...]:
        features = F.normalize(image(inputs[0, rows]), dim=-1)
        seen[torch.is_grad_enabled()].append(features.detach())
        return features, F.normalize(text(inputs[1, rows]), dim=-1), scale * 1

    def loss(features: Sequence[tuple[Tensor, ...]]) -> Tensor:
        return losses.clip(
            torch.cat([f[0] for f in features]), torch.cat([f[1] for f in features]), features[0][2]
        )

    gradcache.backward(forward, [slice(0, 4), slice(4, 8)], loss)
    torch.testing.assert_close(seen[0], seen[1])
    assert text.weight.grad is None and scale.grad is not None and image[0].weight.grad is not None
    assert len(seen[0]) == 2
