"""Score distillation of two images, each with a prompt and negatives of its own, and the same by hand."""

from typing import Any

import torch
from torch import Tensor

from negguide import Negative
from negguide.guidance import perp_neg
from negguide.views.distillation import Distilled, ScoreDistillation
from negguide.views.schedule import Schedule, generator_of

PROMPTS = ["a bear wearing a hat", "a cat in the snow"]
NEGATIVES = [[("black glasses", 2.0)], [("a red hat", 1.5), ("a robot", 0.5)]]
SCALE, PLACE, SEED = 6.0, 0.7, 3
ONE = Schedule(4, start=PLACE, stop=PLACE)


def views(azimuths: Any, elevations: Any) -> tuple[Any, ...]:
    """Each image's own prompt, and its own number of negatives."""
    negatives = [[Negative(text, weight=weight, stop=1.0) for text, weight in own] for own in NEGATIVES]
    return PROMPTS, negatives


def distill(pipe: Any, by_hand: Any = None, **changes: Any) -> ScoreDistillation:
    own = {} if by_hand is None else {"arguments": by_hand.arguments}
    settings = {"schedule": ONE, "views": views, "guidance_scale": SCALE, "seed": SEED, **own, **changes}
    return ScoreDistillation(pipe, "a bear", **settings)


def gradient(images: Tensor, given: Distilled) -> Tensor:
    (found,) = torch.autograd.grad(given.loss, images)
    return found


def assert_close(one: Tensor, other: Tensor, tolerance: float = 2e-4) -> None:
    assert float((one - other).norm()) <= tolerance * float(other.norm())


def guided_by_hand(pipe: Any, by_hand: Any, sample: Tensor, timestep: float) -> Tensor:
    """Perp-Neg of each image's own negatives on predictions of the denoiser itself, one image at a time."""
    rows = []
    for row, prompt, negatives in zip(sample.split(1), PROMPTS, NEGATIVES, strict=True):
        uncond, cond, *others = (
            by_hand.predict(pipe, row, timestep, text)
            for text in ["", prompt, *(text for text, _ in negatives)]
        )
        rows.append(perp_neg(uncond, cond, torch.stack(others), [weight for _, weight in negatives], SCALE))
    return torch.cat(rows)


def noisy_by_hand(
    pipe: Any, by_hand: Any, images: Tensor, step: int = 1
) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """(latents, x_t, eps, alpha, sigma) of a step."""
    latents = by_hand.encode(pipe, images)
    noise = torch.randn(latents.shape, generator=generator_of(SEED, step, "noise"))
    alpha, sigma = by_hand.levels(pipe, 1000 * PLACE)
    return latents, (alpha * latents + sigma * noise).detach(), noise, alpha, sigma
