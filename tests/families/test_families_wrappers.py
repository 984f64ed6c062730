"""A wrapper around a denoiser, whose inputs a family's pipeline gives by place or by name, is called as without us."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, denoiser, differ, put_on_model

from negguide import NAG, Negative, NegToMe, PerpNeg, from_pipe, remove_from_model

Run = Callable[..., torch.Tensor]
METHODS: dict[str, Any] = {
    "PerpNeg": PerpNeg(Negative(NEGATIVES[0], stop=1.0)),
    "NegToMe": NegToMe("others", alpha=2.0, threshold=0.1, stop=1.0),
    "NAG": NAG(NEGATIVES[0], scale=3.0),
}


@pytest.mark.families(
    "sdxl", "sd3", "flux", "chroma", "flux2-klein", "qwen-image", "z-image", "sana", "wan", "ltx", "cogview4"
)
def test_a_wrapped_denoiser_gives_the_same_and_gets_by_place_what_it_got(
    base: Any, run: Run, tiny: Any, two: Any
) -> None:
    model, arguments = denoiser(base), {**two, "steps": 1}
    plain = run(base, **arguments)
    calls: list[tuple[int, list[str]]] = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append((len(args), sorted(kwargs)))
        return type(model).forward(model, *args, **kwargs)

    def wrapped(pipe: Any, **more: Any) -> torch.Tensor:
        calls.clear()
        model.forward = wrapper
        try:
            return run(pipe, **arguments, **more)
        finally:
            del model.forward

    assert torch.equal(wrapped(base), plain)
    (without_us,) = {str(call) for call in calls}
    for name, method in METHODS.items():
        expected = run(from_pipe(base), **arguments, negative_guidance=method)
        assert differ(expected, plain) > 1e-3
        assert torch.equal(wrapped(from_pipe(base), negative_guidance=method), expected)
        assert {str(call) for call in calls} == {without_us}
        if name == "PerpNeg" or tiny.like == "z-image":
            continue
        calls.clear()
        model.forward = wrapper
        put_on_model(base, tiny, method)
        try:
            assert torch.equal(run(base, **arguments), expected)
        finally:
            remove_from_model(model)
            del model.forward
        assert {str(call) for call in calls} == {without_us}
