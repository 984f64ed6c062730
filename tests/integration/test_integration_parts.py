"""Folding branches, steps of a run, images and masks on token grids."""

from dataclasses import replace
from typing import Any

import PIL.Image
import pytest
import torch

from negguide.integration.families.stable_diffusion import STABLE_DIFFUSION
from negguide.integration.runtime.batching import Branch, join_branches, run_branches
from negguide.integration.runtime.masks import check_aspect, cover, image_tensor, mask_tensor, token_grid


def test_joining_takes_rows_of_what_the_family_says_is_batched_and_passes_on_the_rest_whole() -> None:
    rows = torch.arange(4.0)[:, None]
    negative = torch.full((2, 3), -1.0)
    inputs: dict[str, Any] = {
        "sample": rows,
        "timestep": torch.tensor(7),
        "encoder_hidden_states": rows.repeat(1, 3),
        "nested": {
            "images": [rows + 10, None],
            "scale": 0.5,
            "pooled": rows,
            "pair": (rows, torch.zeros(3, 1)),
            # as long as the batch by chance
            "masks": torch.arange(4),
        },
        "return_dict": False,
        "words": ["a", "b", "c", "d"],
        "grid": torch.arange(4),
    }
    branches = [
        Branch("uncond", slice(0, 2)),
        Branch("cond", slice(2, 4)),
        Branch(
            "negative", slice(2, 4), {"encoder_hidden_states": negative, "nested.pooled": negative[:, :1]}
        ),
    ]
    family = replace(
        STABLE_DIFFUSION, row_lists=("words",), batched=("nested.images", "nested.pair", "absent.input")
    )
    joined = join_branches(family, inputs, 4, branches)
    assert joined["words"] == ["a", "b", "c", "d", "c", "d"] and joined["grid"] is inputs["grid"]
    wanted = [0, 1, 2, 3, 2, 3]
    assert joined["sample"].flatten().tolist() == wanted
    assert joined["encoder_hidden_states"][:, 0].tolist() == [0, 1, 2, 3, -1, -1]
    assert joined["nested"]["images"][0].flatten().tolist() == [10 + row for row in wanted]
    assert joined["nested"]["pooled"].flatten().tolist() == [0, 1, 2, 3, -1, -1]
    assert joined["nested"]["masks"] is inputs["nested"]["masks"]
    assert inputs["nested"]["pooled"] is rows
    assert joined["nested"]["images"][1] is None and joined["nested"]["scale"] == 0.5
    assert isinstance(joined["nested"]["pair"], tuple) and joined["nested"]["pair"][1].shape == (3, 1)
    assert joined["timestep"] is inputs["timestep"] and joined["return_dict"] is False


def test_a_branch_may_hold_some_of_the_images() -> None:
    inputs = {"sample": torch.arange(3.0)[:, None], "encoder_hidden_states": torch.zeros(3, 5)}
    branches = [
        Branch("cond", slice(0, 3)),
        Branch("negative", slice(1, 2), {"encoder_hidden_states": torch.ones(1, 5)}),
    ]

    def forward(group: Any, joined: Any) -> torch.Tensor:
        total: torch.Tensor = joined["encoder_hidden_states"].sum(1, keepdim=True) + joined["sample"]
        return total

    predictions = run_branches(forward, STABLE_DIFFUSION, inputs, 3, branches, None)
    assert [p.flatten().tolist() for p in predictions] == [[0, 1, 2], [6]]


def test_a_call_of_one_branch_folds_too() -> None:
    """Families that call the denoiser once for each branch."""
    inputs = {"sample": torch.ones(2, 1), "text": torch.ones(2, 5)}
    branches = [Branch("cond", slice(0, 2)), Branch("negative", slice(0, 2), {"text": torch.zeros(2, 5)})]

    def forward(group: Any, folded: Any) -> torch.Tensor:
        total: torch.Tensor = folded["text"].sum(1) * len(group)
        return total

    predictions = run_branches(forward, STABLE_DIFFUSION, inputs, 2, branches, None)
    assert [p.tolist() for p in predictions] == [[10, 10], [0, 0]]


@pytest.mark.parametrize(("limit", "counts"), [(None, [3, 2, 1]), (2, [2, 1, 2, 1]), (1, [1] * 6)])
def test_branches_of_another_text_length_and_beyond_the_limit_run_apart(limit: Any, counts: Any) -> None:
    inputs = {"sample": torch.zeros(1, 1), "text": torch.zeros(1, 5)}

    def branch(length: int, value: float) -> Branch:
        return Branch("negative", slice(0, 1), {"text": torch.full((1, length), value)})

    branches = [
        Branch("cond", slice(0, 1)),
        branch(5, 1),
        branch(5, 2),
        branch(3, 3),
        branch(3, 4),
        branch(5, 5),
    ]
    seen = []

    def forward(group: Any, folded: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(len(group))
        assert len(folded["sample"]) == len(group)
        return folded["text"].mean(1, keepdim=True)

    predictions = run_branches(forward, STABLE_DIFFUSION, inputs, 1, branches, limit)
    assert seen == counts
    assert [p.item() for p in predictions] == [0, 1, 2, 3, 4, 5]


def test_token_grids_are_halvings_that_round_up() -> None:
    assert token_grid(4096, (64, 64)) == (64, 64)
    assert token_grid(35, (9, 13)) == (5, 7)
    assert token_grid(12, (9, 13)) == (3, 4)
    assert token_grid(1, (9, 13)) == (1, 1)
    with pytest.raises(ValueError, match="36 tokens is no halving of the 9x13 latents"):
        token_grid(36, (9, 13))


def test_covering_keeps_the_proportions_and_cuts_evenly() -> None:
    stripes = torch.zeros(1, 10, 30)
    stripes[:, :, 10:20] = 1
    assert torch.equal(cover(stripes, 10, 10, "area"), torch.ones(1, 1, 10, 10))
    assert cover(stripes, 20, 20, "bilinear").shape == (1, 1, 20, 20)
    assert torch.equal(cover(stripes, 20, 20, "area"), torch.ones(1, 1, 20, 20))
    tall = cover(torch.rand(3, 31, 10), 8, 16, "bilinear")
    assert tall.shape == (1, 3, 8, 16)


def test_a_mask_may_have_any_resolution_but_not_other_proportions() -> None:
    for size in ((64, 64), (8, 8), (51, 51), (50, 51), (1, 1)):
        check_aspect("mask", torch.ones(size), (64, 64), "the image")
    for size in ((64, 32), (64, 70), (48, 51)):
        with pytest.raises(ValueError, match=r"mask is .*aspect ratio"):
            check_aspect("mask", torch.ones(size), (64, 64), "the image")
    check_aspect("mask", PIL.Image.new("L", (96, 64)), (64, 96), "the image")


def test_pil_images_and_masks_become_tensors_in_zero_to_one() -> None:
    red = image_tensor(PIL.Image.new("RGBA", (5, 3), (255, 0, 51, 255)))
    assert red.shape == (3, 3, 5) and torch.allclose(red[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    assert mask_tensor(PIL.Image.new("1", (5, 3), 1)).tolist() == [[1.0] * 5] * 3
    assert mask_tensor(torch.tensor([[True, False]])).tolist() == [[1.0, 0.0]]
