"""A ControlNet that reads the text token by token reads each negative's too, whatever its length."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, SCALE, assert_same, differ

from negguide import NAG, Negative, NegToMe, PerpNeg
from negguide.guidance import perp_neg

Run = Callable[..., torch.Tensor]
pytestmark = pytest.mark.families("z-image-controlnet", "z-image-controlnet-inpaint")
# more than 32 tokens with the chat's, so that its sequence is longer than that of a negative
LONG = " ".join(["a bear in the snow wearing a hat"] * 3)


@pytest.fixture
def calls(base: Any, monkeypatch: Any) -> list[list[int]]:
    """The lengths of the captions in each call of the ControlNet."""
    seen: list[list[int]] = []
    forward = base.controlnet.forward

    def keeping(x: Any, t: Any, cap_feats: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        seen.append([len(caption) for caption in cap_feats])
        return forward(x, t, cap_feats, *args, **kwargs)

    monkeypatch.setattr(base.controlnet, "forward", keeping)
    return seen


def test_a_negative_shorter_than_the_prompt_is_the_formula(
    base: Any, pipe: Any, run: Run, unguided: dict[str, Any], calls: list[list[int]]
) -> None:
    uncond, cond, negative = (
        run(base, text, steps=1, **unguided).double() for text in ("", LONG, NEGATIVES[0])
    )
    (alone,) = calls[2]
    calls.clear()
    guided = run(pipe, LONG, steps=1, negative_guidance=PerpNeg(Negative(NEGATIVES[0], stop=1.0)))
    # once, for all that the denoiser is called for
    assert len(calls) == 1 and calls[0][2] == alone
    expected = perp_neg(uncond, cond, negative[None], [1.0], SCALE)
    assert differ(guided, run(base, LONG, steps=1)) > 1e-3
    assert_same(guided.double(), expected)


def test_in_attention_too(base: Any, pipe: Any, run: Run, calls: list[list[int]]) -> None:
    plain = run(base, LONG)
    calls.clear()
    assert_same(run(pipe, LONG, negative_guidance=NAG(NEGATIVES[0], scale=1)), plain)
    # the prompt, the empty text, and the negative beside the prompt's image
    assert len(calls) == 2 and all(len(lengths) == 3 for lengths in calls)
    assert differ(run(pipe, LONG, negative_guidance=NAG(NEGATIVES[0], scale=3.0)), plain) > 1e-3


def test_the_image_beside_a_negative_stays_that_of_the_prompt(base: Any, pipe: Any, run: Run) -> None:
    """What the ControlNet adds to it goes by the text, and the copy must not drift away."""
    seen: list[torch.Tensor] = []
    handle = base.transformer.layers[1].register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    try:
        run(pipe, LONG, steps=1, negative_guidance=NAG(NEGATIVES[0], scale=3.0))
    finally:
        handle.remove()
    prompt, _, negative = seen[0][:, :16]
    torch.testing.assert_close(negative, prompt)
    assert differ(seen[0][2, 32:], seen[0][0, 32:]) > 1e-2


def test_without_anything_that_needs_further_rows_it_is_called_as_often_as_in_the_plain_pipeline(
    base: Any, pipe: Any, run: Run, calls: list[list[int]]
) -> None:
    run(base, steps=3, num_images_per_prompt=2)
    plain, calls[:] = list(calls), []
    run(pipe, steps=3, num_images_per_prompt=2, negative_guidance=NegToMe(alpha=0.5, threshold=0.1, stop=1.0))
    assert calls == plain
