"""Families whose pipelines hold latents, sizes or predictions in ways of their own."""

from typing import Any

import pytest
import torch
from tiny_pipelines import TINY, build
from torch import Tensor

from negguide import Negative
from negguide.views.distillation import ScoreDistillation
from negguide.views.schedule import Schedule

NAMES = ("sdxl", "pixart-alpha", "sana", "flux2-klein", "qwen-image-21", "z-image", "lumina2")
KNOWN = {tiny.name: tiny for tiny in TINY}


@pytest.mark.parametrize("name", [name for name in NAMES if name in KNOWN])
def test_what_is_distilled_is_the_guided_prediction_of_each_image(name: str) -> None:
    """Guidance is linear in its scale, and so is the gradient; but where a pipeline rescales it.

    Each image gets one, and a negative changes that of its own image alone.
    """
    tiny = KNOWN[name]
    pipe = build(tiny)
    own = ("height", "width", "output_type", "guidance_scale", "true_cfg_scale", "negative_prompt")
    arguments = {key: value for key, value in tiny.call().items() if key not in own}
    images = torch.rand(
        2, 3, tiny.side, tiny.side, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()

    def gradient(scale: float, negatives: Any = ((), ())) -> Tensor:
        distiller = ScoreDistillation(
            pipe,
            "",
            views=lambda a, e: (["a bear", "a cat"], negatives),
            schedule=Schedule(1, 0.6),
            guidance_scale=scale,
            arguments=arguments,
        )
        (found,) = torch.autograd.grad(distiller(images, 0.0, step=0).loss, images)
        return found.double()

    two, three = gradient(2.0), gradient(3.0)
    assert torch.isfinite(two).all() and (two.flatten(1).norm(dim=1) > 0).all()
    assert float((three - two).norm()) > 1e-4 * float(two.norm())
    if not tiny.rescales and name != "lumina2":
        expected = two + 3 * (three - two)
        assert float((gradient(5.0) - expected).norm()) < 1e-3 * float(expected.norm())
    with_negative = gradient(3.0, ((Negative("a red hat", weight=3.0, stop=1.0),), ()))
    change = (with_negative - three).flatten(1).norm(dim=1) / three.flatten(1).norm(dim=1)
    assert float(change[0]) > 1e-4 > float(change[1])
