"""The adapters against the guidance of threestudio and nerfstudio, written out."""

import pytest
import torch
from torch import Tensor

from negguide.views import (
    Preset,
    Ramp,
    ViewPrompt,
    nerfstudio_noise,
    threestudio_noise,
    threestudio_text,
    view_prompts,
)

SHAPE = (4, 8, 8)


def perp(x: Tensor, y: Tensor) -> Tensor:
    """The part of one sample that is perpendicular to another."""
    return x - (x * y).sum() / (y * y).sum() * y


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_threestudio_with_perp_neg_is_its_formula_in_its_order() -> None:
    batch, scale = 3, 100.0
    noise = random(4 * batch, *SHAPE)
    weights = -random(batch, 2).abs()
    wanted = []
    for b in range(batch):
        cond, uncond = noise[b], noise[batch + b]
        direction = cond - uncond
        # the negatives of one camera lie beside each other
        first, second = noise[2 * batch + 2 * b], noise[2 * batch + 2 * b + 1]
        added = weights[b, 0] * perp(first - uncond, direction) + weights[b, 1] * perp(
            second - uncond, direction
        )
        wanted.append(uncond + scale * (direction + added))
    found = threestudio_noise(noise, weights, scale)
    torch.testing.assert_close(found, torch.stack(wanted))
    plain = threestudio_noise(noise, weights, scale - 1, scale_of="plain")
    torch.testing.assert_close(plain, found)


def test_without_weights_both_are_the_plain_guidance_of_the_project() -> None:
    noise = random(8, *SHAPE)
    cond, uncond = noise[:2], noise[2:4]
    found = threestudio_noise(noise, torch.zeros(2, 2), 7.5, scale_of="plain")
    torch.testing.assert_close(found, cond + 7.5 * (cond - uncond))
    uncond, cond = noise[:2], noise[2:4]
    torch.testing.assert_close(nerfstudio_noise(noise, [0.0, 0.0], 7.5), cond + 7.5 * (cond - uncond))
    torch.testing.assert_close(nerfstudio_noise(noise[:4], [], 7.5), cond + 7.5 * (cond - uncond))


def test_nerfstudio_takes_the_perpendicular_parts_away() -> None:
    batch, scale = 2, 100.0
    noise = random(4 * batch, *SHAPE)
    weights = random(2, batch).abs()
    wanted = []
    for b in range(batch):
        uncond, direction = noise[b], noise[batch + b] - noise[b]
        first, second = noise[2 * batch + b] - uncond, noise[3 * batch + b] - uncond
        taken = weights[0, b] * perp(first, direction) + weights[1, b] * perp(second, direction)
        wanted.append(uncond + (scale + 1) * (direction - taken))
    torch.testing.assert_close(nerfstudio_noise(noise, weights, scale).float(), torch.stack(wanted).float())
    shared = nerfstudio_noise(noise, weights[:, 0], scale)
    torch.testing.assert_close(shared[0].float(), wanted[0].float())


def test_threestudio_gets_texts_and_weights_of_any_preset_in_its_order() -> None:
    views = view_prompts([45, 180, 0], [0, 0, 80])
    embeddings = {name: random(5, 6) + i for i, name in enumerate(("front", "side", "back", "overhead"))}
    uncond = -random(5, 6)
    text, weights = threestudio_text(views, embeddings, uncond)  # type: ignore[arg-type]
    front, side, back, overhead = embeddings.values()
    wanted = [(front + side) / 2, back, overhead, *[uncond] * 3, front, side, front, side, uncond, uncond]
    torch.testing.assert_close(text, torch.stack(wanted))
    half = [-weight for _, weight in views[0].negatives]
    torch.testing.assert_close(weights, torch.tensor([half, [-1.967, -0.394], [0.0, 0.0]]), atol=1e-3, rtol=0)
    one, filled = threestudio_text(view_prompts([90], preset="toyworld"), embeddings, uncond)  # type: ignore[arg-type]
    torch.testing.assert_close(one, torch.stack([side, uncond, front, uncond]))
    assert filled.tolist() == [[-1.0, 0.0]]


def test_what_does_not_belong_together_is_refused() -> None:
    noise = torch.zeros(8, *SHAPE)
    with pytest.raises(
        ValueError, match=r"noise_pred must be .* K = 2 negatives, 12 rows here, got \[8, 4, 8, 8\]"
    ):
        threestudio_noise(noise, torch.zeros(3, 2), 7.5)
    with pytest.raises(ValueError, match=r"neg_guidance_weights must be \[B, K\], got \[2\]"):
        threestudio_noise(noise, torch.zeros(2), 7.5)
    with pytest.raises(ValueError, match="neg_guidance_weights must be <= 0"):
        threestudio_noise(noise, torch.ones(2, 2), 7.5)
    with pytest.raises(ValueError, match="scale_of must be"):
        threestudio_noise(noise, torch.zeros(2, 2), 7.5, scale_of="cfg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights must be >= 0, got -1"):
        nerfstudio_noise(noise, [-1.0, 0.0], 7.5)
    with pytest.raises(ValueError, match="K = 3 negatives"):
        nerfstudio_noise(noise, [1.0, 0.0, 0.0], 7.5)
    uncond = torch.zeros(5, 6)
    with pytest.raises(ValueError, match="at least one camera"):
        threestudio_text([], {}, uncond)
    with pytest.raises(ValueError, match="front is missing"):
        threestudio_text([ViewPrompt((("side", 1.0),), (("front", 1.0),))], {"side": uncond}, uncond)
    level = Ramp(((0, 1),))
    three = Preset("three", "nearest", (("front", level), ("side", level), ("back", level)))
    with pytest.raises(ValueError, match="views has one with 3"):
        threestudio_text(
            view_prompts([0], preset=three), dict.fromkeys(("front", "side", "back"), uncond), uncond
        )
