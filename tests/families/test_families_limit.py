"""`max_branch_batch` bounds every forward of the denoiser, whatever acts in it, and changes no result."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from tiny_pipelines import NEGATIVES, assert_same, assert_same_but_for_ties, denoiser, differ

from negguide import NAG, Negative, NegToMe, PerpNeg

Run = Callable[..., Any]
PUSH: dict[str, Any] = {"alpha": 0.5, "threshold": 0.1, "stop": 1.0}


def pictures(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, 64, 64, generator=generator) for _ in range(count)]


@pytest.fixture
def rows(base: Any, pipe: Any, monkeypatch: Any) -> list[int]:
    """How many rows each forward of the denoiser holds."""
    seen: list[int] = []
    forward = denoiser(base).forward
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def counting(*args: Any, **kwargs: Any) -> Any:
        seen.append(len(signature.bind(*args, **kwargs).arguments[pipe.family.sample]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(denoiser(base), "forward", counting)
    return seen


def test_no_forward_holds_more_branches_than_the_limit_in_any_step(
    pipe: Any, run: Run, rows: list[int], tiny: Any, two: Any
) -> None:
    """Also in steps in which no negative acts, and with methods that make no predictions of their own."""
    half = PerpNeg(*(Negative(text, stop=0.5) for text in NEGATIVES))
    cases: list[tuple[int, Any]] = [(4, half)] if tiny.guided else []
    # one step, because which tokens match best goes by the last digits of those before
    cases.append((1, NegToMe("others", **PUSH)))
    if not pipe.family.negative_rows:
        cases.append((1, [NAG(NEGATIVES[0], scale=3.0), NegToMe("first", **PUSH)]))
    for steps, method in cases:
        arguments = {"steps": steps, "negative_guidance": method, "trace": True, "whole": True, **two}
        rows.clear()
        whole, *_, trace = run(pipe, **arguments)
        if tiny.guided and not pipe.family.sequential:
            assert min(rows) >= 4
        rows.clear()
        limited, *_, limited_trace = run(pipe, max_branch_batch=1, **arguments)
        assert max(rows) == 2
        if method is half:
            assert_same(limited, whole)
        else:
            assert_same_but_for_ties(limited, whole)
            plain = run(pipe, **{**arguments, "negative_guidance": None, "trace": False, "whole": False})
            with pytest.raises(AssertionError):
                assert_same_but_for_ties(plain, whole)
        for name in ("cosine", "pushed", "changed"):
            one, other = getattr(limited_trace, name), getattr(trace, name)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=2e-2, equal_nan=True)


def test_reference_images_run_as_many_at_once_as_the_limit_says(
    pipe: Any, run: Run, rows: list[int], tiny: Any
) -> None:
    if not tiny.reference_images:
        return
    left, right = torch.zeros(64, 64), torch.zeros(64, 64)
    left[:, :32], right[:, 32:] = 1, 1
    # what lies on the right is in the last one alone
    method = NegToMe(pictures(3), reference_mask=[left, left, right], **PUSH)
    whole = run(pipe, steps=1, negative_guidance=method)
    assert rows[0] == 3
    rows.clear()
    assert_same_but_for_ties(run(pipe, steps=1, negative_guidance=method, max_branch_batch=2), whole)
    assert rows[:2] == [2, 1] and max(rows) <= 2
    other = NegToMe(pictures(2), reference_mask=[left, left], **PUSH)
    assert differ(run(pipe, steps=1, negative_guidance=other), whole) > 1e-4


@pytest.mark.families("flux", "qwen-image")
def test_a_cached_denoiser_keeps_the_references_apart_that_run_apart(base: Any, pipe: Any, run: Run) -> None:
    arguments = {"steps": 4, "negative_guidance": NegToMe(pictures(3), **PUSH)}
    base.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    try:
        whole = run(pipe, **arguments)
        for limit in (1, 2):
            assert_same_but_for_ties(run(pipe, max_branch_batch=limit, **arguments), whole)
    finally:
        base.transformer.disable_cache()
    assert differ(run(pipe, **arguments), whole) > 1e-3


@pytest.mark.families("z-image")
def test_negatives_that_are_rows_beside_the_prompt_count_as_branches(
    pipe: Any, run: Run, rows: list[int], two: Any
) -> None:
    windows = Negative(NEGATIVES[0]), Negative(NEGATIVES[1], stop=0.5)
    arguments = {"steps": 4, "negative_guidance": [PerpNeg("a robot"), NAG(*windows, scale=3.0)], **two}
    with pytest.raises(ValueError, match=r"max_branch_batch is 2, and Z-Image runs .* NAG together.*least 3"):
        run(pipe, max_branch_batch=2, **arguments)
    whole = run(pipe, **arguments)
    assert max(rows) == 2 * (3 + 2)
    for limit in (3, 4):
        rows.clear()
        assert_same(run(pipe, max_branch_batch=limit, **arguments), whole)
        assert max(rows) <= 2 * limit
