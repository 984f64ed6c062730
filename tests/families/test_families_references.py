"""NegToMe's references beside images that are each given something else: a mask, a control image, one to edit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import PROMPT, assert_same, build, differ

from negguide import NegToMe, from_pipe

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
