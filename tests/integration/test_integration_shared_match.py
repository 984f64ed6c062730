"""NegToMe whose modules share a match, against the formula written out in attention processors of the test."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from naive_negtome import HALF, STRONG, Naive, close, first, others
from torch.nn.functional import adaptive_avg_pool2d, normalize

from negguide import NegToMe


class Shared(Naive):
    """As `Naive`, with the matches of the module that searched last: `kept["rows"]` is {row: (cosines, indices)}."""

    def __init__(self, every: int, kept: dict[str, Any], *args: Any) -> None:
        super().__init__(*args)
        self.every, self.kept = every, kept

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens = AttnProcessor2_0.__call__(self, *args, **kwargs)
        kept = self.kept
        if kept.get("shape") != tokens.shape[:2] or kept["left"] == 0:
            kept.update(shape=tokens.shape[:2], left=self.every, rows={})
        kept["left"] -= 1
        side = int(tokens.shape[1] ** 0.5)
        result = tokens.clone()
        for row, x in enumerate(tokens):
            rows = self.groups(row, len(tokens))
            if not rows:
                continue
            reference = torch.cat([tokens[r] for r in rows])
            if row not in kept["rows"]:
                cosine = normalize(x, dim=-1) @ normalize(reference, dim=-1).T
                if self.reference_mask is not None:
                    allowed = adaptive_avg_pool2d(self.reference_mask[None], side).flatten() >= 0.5
                    cosine[:, ~allowed.repeat(len(rows))] = -2
                kept["rows"][row] = cosine.max(dim=1)
            best, index = kept["rows"][row]
            strength = 3.0 * (best > 0.2)
            if self.mask is not None:
                strength = strength * adaptive_avg_pool2d(self.mask[None], side).flatten()
            result[row] = x + strength[:, None] * (x - reference[index])
        return result


@pytest.mark.parametrize("every", [2, 3, 100])
@pytest.mark.parametrize(
    ("reference", "groups", "mask", "reference_mask"),
    [
        ("others", others, HALF, None),
        ("first", first, None, None),
        ("others", others, None, HALF),
    ],
)
def test_modules_of_equally_many_tokens_share_a_match(
    base: Any,
    pipe: Any,
    generate: Any,
    with_processors: Any,
    every: Any,
    reference: Any,
    groups: Any,
    mask: Any,
    reference_mask: Any,
) -> None:
    """Over feature maps of two sizes, within each forward."""
    arguments = {"num_images_per_prompt": 3, "guidance_scale": 3.0, "num_inference_steps": 2}
    kept: dict[str, Any] = {}
    forward = base.unet.register_forward_pre_hook(lambda *_: kept.clear())
    try:
        expected = with_processors(
            lambda: Shared(every, kept, groups, mask, reference_mask),
            lambda: generate(base, **arguments).images,
            "attn1",
        )
    finally:
        forward.remove()
    strong = {**STRONG, "blocks": "attn1", "mask": mask, "reference_mask": reference_mask}
    shared = generate(
        pipe, negative_guidance=NegToMe(reference, match_every=every, **strong), **arguments
    ).images
    close(shared, expected)
    each = generate(pipe, negative_guidance=NegToMe(reference, **strong), **arguments).images
    assert (shared - each).abs().max() > 1e-3 * each.abs().max()


@pytest.mark.parametrize("reference", ["others", "first", "image"])
def test_a_shared_match_is_searched_once_for_modules_in_a_row(
    pipe: Any, generate: Any, monkeypatch: Any, reference: Any
) -> None:
    searched: list[int] = []
    for name in ("match", "match_others"):
        original = getattr(NegToMe, name)

        def count(self: Any, tokens: torch.Tensor, *args: Any, original: Any = original) -> Any:
            searched.append(tokens.shape[-2])
            return original(self, tokens, *args)

        monkeypatch.setattr(NegToMe, name, count)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    method = NegToMe(
        image if reference == "image" else reference, match_every=100, **{**STRONG, "blocks": "attn1"}
    )
    generate(pipe, num_images_per_prompt=2, num_inference_steps=2, negative_guidance=method)
    # down at 8x8, then 4x4 as far as the middle and up again, then 8x8, in each of two steps
    assert searched == [64, 16, 64] * 2


def test_a_module_that_shares_a_match_of_its_own_alone_is_the_published_method(
    pipe: Any, generate: Any
) -> None:
    """One module a size: nothing to share."""
    one = {**STRONG, "blocks": r"up_blocks.1.attentions.0.*attn1"}
    arguments = {"num_images_per_prompt": 2, "num_inference_steps": 2}
    for reference in ("others", "first", torch.rand(3, 64, 64)):
        images = [
            generate(pipe, negative_guidance=NegToMe(reference, match_every=every, **one), **arguments).images
            for every in (1, 4)
        ]
        assert torch.equal(*images)
