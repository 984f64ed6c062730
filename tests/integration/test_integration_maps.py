"""Where the methods acted: the maps of a trace, and their picture."""

from typing import Any

import PIL.Image
import pytest
import torch

from negguide import NAG, Negative, NegToMe, PerpNeg, plot_maps
from negguide.guidance import perp_neg_shift
from negguide.integration.runtime.maps import shift_maps, token_map

APART, JOINTLY = PerpNeg("a", "b"), PerpNeg("a", "b", joint=True)
PUSH: dict[str, Any] = {"alpha": 3.0, "threshold": 0.2, "start": 0.0, "stop": 0.6}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_map_is_the_length_of_the_shift_at_each_place_over_that_of_the_guidance() -> None:
    u, c, n = normal(2, 4, 6, 8), normal(2, 4, 6, 8, seed=1), normal(2, 2, 4, 6, 8, seed=2)
    weights = torch.tensor([0.5, 2.0])
    maps = shift_maps(APART, u, c, n, weights, None, (6, 8))
    scale = (c - u).square().sum(dim=1).mean(dim=(1, 2)).sqrt()
    for k in range(2):
        shift = perp_neg_shift(u, c, n[k : k + 1], weights[k : k + 1])
        torch.testing.assert_close(maps[k], shift.norm(dim=1) / scale[:, None, None])


def test_jointly_a_second_wording_of_the_same_is_nowhere() -> None:
    u, c, n = normal(1, 4, 6, 8), normal(1, 4, 6, 8, seed=1), normal(1, 4, 6, 8, seed=2)
    first, second = shift_maps(JOINTLY, u, c, torch.stack([n, n]), torch.ones(2), None, (6, 8))
    assert first.mean() > 0.1 and second.max() < 1e-4


def test_masks_packed_latents_and_videos() -> None:
    u, c, n = normal(1, 4, 6, 8), normal(1, 4, 6, 8, seed=1), normal(1, 1, 4, 6, 8, seed=2)
    mask = torch.zeros(1, 1, 6, 8)
    mask[..., :3] = 1
    masked = shift_maps(APART, u, c, n, torch.ones(1), mask[None], (6, 8))[0]
    assert masked[..., 3:].max() == 0 and masked[..., :3].min() > 0
    plain = shift_maps(APART, u, c, n, torch.ones(1), None, (6, 8))[0]
    packed = [x.flatten(-2).transpose(-1, -2) for x in (u, c, n)]
    torch.testing.assert_close(shift_maps(APART, *packed, torch.ones(1), None, (6, 8))[0], plain)
    video = [x.unsqueeze(-3).expand(*x.shape[:-2], 3, 6, 8) for x in (u, c, n)]
    torch.testing.assert_close(shift_maps(APART, *video, torch.ones(1), None, (6, 8))[0], plain)


def test_tokens_of_a_coarser_grid_cover_the_latents() -> None:
    values = torch.arange(12.0).reshape(1, 12)
    shown = token_map(values, (6, 8))
    assert torch.equal(shown[0, ::2, ::2], values.reshape(3, 4))
    assert torch.equal(shown[0, 1::2, 1::2], values.reshape(3, 4))
    frames = torch.cat([values, values + 2], dim=1)
    assert torch.equal(token_map(frames, (6, 8), frames=2), shown + 1)


def test_every_method_leaves_its_map_and_the_images_are_as_without(pipe: Any, generate: Any) -> None:
    methods = [
        PerpNeg(Negative("black glasses", stop=0.4), Negative("a hat", stop=0.6)),
        NegToMe(**PUSH),
        NAG("brown fur"),
    ]
    arguments = {"negative_guidance": methods, "num_images_per_prompt": 2}
    traced = generate(pipe, trace=True, output_type="latent", **arguments)
    assert torch.equal(traced.images, generate(pipe, output_type="latent", **arguments).images)
    trace = traced.trace
    assert set(trace.maps) == {"black glasses", "a hat", "NegToMe", "NAG"}
    assert set(trace.units) == set(trace.maps)
    for values in trace.maps.values():
        assert values.shape == (2, *traced.images.shape[-2:])
        assert values.device.type == "cpu" and values.isfinite().all() and values.max() > 0
    one_at_a_time = generate(pipe, trace=True, max_branch_batch=2, **arguments).trace
    for name, values in trace.maps.items():
        torch.testing.assert_close(one_at_a_time.maps[name], values, rtol=1e-3, atol=1e-4)


def test_what_never_acts_has_no_map_and_equal_prompts_are_told_apart(pipe: Any, generate: Any) -> None:
    twice = PerpNeg(
        Negative("a hat"), Negative("a hat", weight=2.0), Negative("brown fur", start=0.9, stop=1.0)
    )
    trace = generate(pipe, trace=True, negative_guidance=[twice]).trace
    assert {"a hat (1)", "a hat (2)"} <= set(trace.maps)
    torch.testing.assert_close(trace.maps["a hat (2)"], 2 * trace.maps["a hat (1)"])


def test_a_mask_is_where_its_negative_acts(pipe: Any, generate: Any) -> None:
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    trace = generate(pipe, trace=True, negative_guidance=[PerpNeg(Negative("a hat", mask=mask))]).trace
    values = trace.maps["a hat"]
    half = values.shape[2] // 2
    assert values[:, :, half:].max() == 0 and values[:, :, :half].max() > 0


def test_the_picture_has_a_row_an_image_and_a_column_a_map(pipe: Any, generate: Any, tmp_path: Any) -> None:
    output = generate(
        pipe,
        trace=True,
        num_images_per_prompt=2,
        output_type="pil",
        negative_guidance=[PerpNeg("black glasses", "a hat")],
    )
    file = tmp_path / "where.png"
    picture = plot_maps(output.trace, output.images, file)
    assert PIL.Image.open(file).size == picture.size
    assert 1.2 < picture.width / picture.height < 1.8
    with pytest.raises(ValueError, match="images must be the 2 of the traced call, got 1"):
        plot_maps(output.trace, output.images[:1])
    nothing = generate(pipe, trace=True, negative_guidance=[NAG(Negative("a hat", weight=0.0))]).trace
    with pytest.raises(ValueError, match="trace has no maps"):
        plot_maps(nothing, output.images)
