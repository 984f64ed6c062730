"""NegToMe's references beside images that are each given something else: a mask, a control image, one to edit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import PROMPT, assert_same, build, differ

from negguide import NegToMe, from_pipe
from negguide.integration.runtime.references import given_apart

Run = Callable[..., torch.Tensor]
METHOD = NegToMe(
    list(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))),
    alpha=2.0,
    threshold=0.1,
    start=0.0,
    stop=1.0,
)
GIVEN = ("image", "mask_image", "control_image")


def given(tiny: Any) -> dict[str, torch.Tensor]:
    """What the pipeline is given for three images: one, another one, and the first one again."""
    generator = torch.Generator().manual_seed(2)
    found = {}
    for name, value in tiny.call().items():
        if name in GIVEN:
            other = torch.rand(value.shape, generator=generator)
            other = (other > 0.5).float() if name == "mask_image" else other
            found[name] = torch.cat([value, other, value])
    return found


@pytest.mark.families("sd-inpaint", "sdxl-inpaint", "flux-control", "flux-fill", "flux-kontext")
@pytest.mark.parametrize("at_once", [None, 1])
def test_each_image_is_pushed_from_references_that_are_given_what_it_is_given(
    run: Run, tiny: Any, at_once: int | None
) -> None:
    # in float64 rounding decides no best match
    pipe = from_pipe(build(tiny).to(torch.float64))
    images = given(tiny)
    assert images

    def of(*which: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(i) for i in which]
        own = {name: values[list(which)] for name, values in images.items()}
        prompts = [PROMPT] * len(which)
        return run(
            pipe, prompts, negative_guidance=METHOD, max_branch_batch=at_once, generator=generators, **own
        )

    together = of(0, 1, 2)
    for i in range(3):
        assert_same(together[i : i + 1], of(i))
    assert differ(together[0], together[1]) > 0.01


@pytest.mark.families("flux")
def test_images_are_told_apart_by_all_that_they_are_given(pipe: Any) -> None:
    family = pipe.family
    references = torch.zeros(2, 16, 8)
    inputs = {
        family.sample: torch.rand(6, 16, 8),
        family.timestep: torch.arange(6.0),
        "guidance": torch.ones(6),
        "encoder_hidden_states": torch.rand(6, 3, 8),
        "pooled_projections": torch.rand(6, 8),
    }

    def apart(**more: Any) -> list[int]:
        return given_apart(family, {**inputs, **more}, references, 3)

    # latents, noise level and text are a reference's own, and rows of another branch have what the first ones have
    assert apart() == [0, 0, 0]
    assert apart(guidance=torch.tensor([3.5, 2.0, 3.5, 1.0, 1.0, 1.0])) == [0, 1, 0]
    adapter = torch.rand(3, 1, 4)[[0, 1, 1, 0, 1, 1]]
    assert apart(joint_attention_kwargs={"ip_adapter_image_embeds": [torch.ones(6, 1, 4), adapter]}) == [
        0,
        1,
        1,
    ]
    behind = torch.cat([inputs[family.sample], torch.rand(3, 4, 8)[[0, 1, 2, 0, 1, 2]]], dim=1)
    assert apart(**{family.sample: behind}) == [0, 1, 2]
