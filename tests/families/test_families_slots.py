"""Negatives of different prompts cost what those of one prompt do: their texts share the rows of the batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import assert_same, denoiser, differ

from negguide import NAG, VSF, Negative

Run = Callable[..., Any]
PROMPT, COUNT = "a cat in the snow", 3
LEFT = torch.zeros(64, 64)
LEFT[:, :24] = 1


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


@pytest.fixture
def tokens(base: Any, monkeypatch: Any) -> list[int]:
    """How many tokens of text each forward of the denoiser holds, over all rows."""
    seen: list[int] = []
    model = denoiser(base)
    forward = model.forward

    def looking(*args: Any, **kwargs: Any) -> Any:
        text = kwargs.get(
            "encoder_hidden_states", kwargs.get("cap_feats", args[2] if len(args) > 2 else None)
        )
        seen.append(sum(len(row) for row in text))
        return forward(*args, **kwargs)

    looking.__wrapped__ = forward  # type: ignore[attr-defined]
    monkeypatch.setitem(vars(model), "forward", looking)
    return seen


@pytest.mark.families("sd", "sd3", "flux", "chroma", "qwen-image", "z-image", "lumina2", "krea2")
@pytest.mark.parametrize("method", [NAG, VSF])
def test_further_prompts_bring_no_further_text(pipe: Any, run: Run, tokens: list[int], method: Any) -> None:
    """Also with weights and masks of their own."""
    own = (
        [always("a red hat"), always("two hats", weight=0.5)],
        [always("a red cat", weight=2.0)],
        [always("a red dog", mask=LEFT, weight=0.7)],
    )
    options = {"scale": 3.0, "tau": 0.8, "alpha": 0.7} if method is NAG else {"scale": 1.0}

    def of(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, int]:
        tokens.clear()
        return run(pipe, *args, **kwargs), sum(tokens)

    plain, before = of([PROMPT] * COUNT)
    together, after = of([PROMPT] * COUNT, negative_guidance=method.per_prompt(*own, **options))
    _, before_one = of(PROMPT)
    for i, negatives in enumerate(own):
        alone, after_one = of(PROMPT, seed=i, negative_guidance=method(*negatives, **options))
        assert_same(together[i : i + 1], alone)
        assert differ(alone, plain[i : i + 1]) > 1e-3
        if i == 0:
            assert after_one > before_one
            # the first has most negatives; each other prompt brings as much text as it does by itself
            assert after - before == COUNT * (after_one - before_one)


@pytest.mark.families("flux", "z-image")
def test_prompts_with_a_negative_each_fit_where_one_does(pipe: Any, run: Run) -> None:
    prompts = [PROMPT] * 5
    negatives = [always("a red hat"), always("a red cat"), (), always("a red dog"), always("a red hat")]
    method = NAG.per_prompt(*negatives, scale=3.0, tau=0.8, alpha=0.7)
    whole = run(pipe, prompts, negative_guidance=method)
    limited = run(pipe, prompts, negative_guidance=method, max_branch_batch=3)
    assert_same(limited, whole)
    plain = run(pipe, prompts)
    assert_same(whole[2:3], plain[2:3])
    assert min(differ(whole[i : i + 1], plain[i : i + 1]) for i in (0, 1, 3, 4)) > 1e-3
