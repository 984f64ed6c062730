"""NAG, ONG and VSF on every family."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, OTHER, PROMPT, assert_same, differ

from negguide import NAG, NASA, ONG, VSF, Negative

Run = Callable[..., torch.Tensor]
METHODS = {
    "NAG": lambda *negatives: NAG(*negatives, scale=3.0, alpha=0.7),
    "NASA": lambda *negatives: NASA(*negatives),
    "ONG": lambda *negatives: ONG(*negatives),
    "VSF": lambda *negatives: VSF(*negatives, scale=1.0),
    "orthogonal VSF": lambda *negatives: VSF(*negatives, orthogonal=True),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_negatives_act_with_and_without_guidance(
    base: Any, pipe: Any, run: Run, unguided: dict[str, Any], make: Any
) -> None:
    for arguments in ({}, unguided):
        guided = run(pipe, negative_guidance=make(*NEGATIVES), **arguments)
        assert torch.isfinite(guided).all()
        assert differ(guided, run(base, **arguments)) > 1e-4


@pytest.mark.main
@pytest.mark.parametrize(
    "method",
    [
        NAG(*NEGATIVES, scale=1),
        NAG(*NEGATIVES, alpha=0),
        NASA(*NEGATIVES, scale=0),
        ONG(*NEGATIVES, scale=0),
        VSF(Negative("hat", weight=0)),
        VSF(*NEGATIVES, scale=0, orthogonal=True),
    ],
    ids=[
        "NAG scale 1",
        "NAG alpha 0",
        "NASA scale 0",
        "ONG scale 0",
        "VSF weight 0",
        "orthogonal VSF scale 0",
    ],
)
def test_off_is_the_base(base: Any, pipe: Any, run: Run, unguided: dict[str, Any], method: Any) -> None:
    for arguments in ({}, unguided):
        assert_same(run(pipe, negative_guidance=method, **arguments), run(base, **arguments))


@pytest.mark.main
@pytest.mark.parametrize("make", [METHODS["NAG"], METHODS["ONG"]], ids=["NAG", "ONG"])
def test_a_negative_equal_to_the_prompt_changes_nothing(
    base: Any, pipe: Any, run: Run, alike: dict[str, Any], make: Any
) -> None:
    assert_same(run(pipe, negative_guidance=make(PROMPT), **alike), run(base, **alike))


@pytest.mark.main
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_batch_mates_have_no_influence_and_a_second_call_gives_the_same(
    pipe: Any, run: Run, tiny: Any, make: Any
) -> None:
    method, prompts = make(NEGATIVES[0]), [PROMPT, OTHER]
    together = run(pipe, prompts, negative_guidance=method)
    assert torch.equal(run(pipe, prompts, negative_guidance=method), together)
    if tiny.one_noise:
        # inpainting draws the noise of the given image from the first generator alone
        return
    alone = torch.cat([run(pipe, text, seed=i, negative_guidance=method) for i, text in enumerate(prompts)])
    assert_same(together, alone)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_afterwards_the_model_is_as_before(base: Any, pipe: Any, run: Run, make: Any) -> None:
    before = run(base)
    run(pipe, negative_guidance=make(NEGATIVES[0]))
    assert torch.equal(run(base), before)
