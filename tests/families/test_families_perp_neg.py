"""Perp-Neg on every family: a new row of the table is tested by being there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, OTHER, PROMPT, SCALE, assert_same, differ

from negguide import Negative, PerpNeg
from negguide.guidance import perp_neg

Run = Callable[..., torch.Tensor]
pytestmark = pytest.mark.guided_only


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


def test_negatives_without_weight_leave_native_guidance(base: Any, pipe: Any, run: Run) -> None:
    off = PerpNeg(*(always(text, weight=0) for text in NEGATIVES))
    assert_same(run(pipe, negative_guidance=off), run(base))


@pytest.mark.main
def test_a_negative_equal_to_the_prompt_changes_nothing(
    base: Any, pipe: Any, run: Run, alike: dict[str, Any]
) -> None:
    same = PerpNeg(always(PROMPT, weight=3))
    assert_same(run(pipe, negative_guidance=same, **alike), run(base, **alike))


@pytest.mark.main
def test_one_step_is_the_formula_on_predictions_that_the_pipeline_itself_reveals(
    base: Any,
    pipe: Any,
    run: Run,
    tiny: Any,
    alike: dict[str, Any],
    unguided: dict[str, Any],
    monkeypatch: Any,
) -> None:
    """One step moves the latents by a multiple of the prediction, so plain runs show every prediction there is."""
    given: list[torch.Tensor] = []

    def revealed(pipe: Any, prompt: str = PROMPT, **arguments: Any) -> torch.Tensor:
        latents = run(pipe, prompt, steps=1, **arguments)
        # it rescales after guidance, by the norm of each token's prediction, which the latents do not show
        return (given[-1] if tiny.rescales else latents).double()

    if tiny.rescales:
        step = base.scheduler.step

        def keeping(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            given.append(prediction)
            return step(prediction, *args, **kwargs)

        monkeypatch.setattr(base.scheduler, "step", keeping)
    prompts = ("", PROMPT, *NEGATIVES)
    uncond, cond, *negatives = (revealed(base, p, **{**alike, **unguided}) for p in prompts)
    weights = [1.5, 0.5]
    method = PerpNeg(*(always(text, weight=w) for text, w in zip(NEGATIVES, weights, strict=True)))
    # Klein has no negative_prompt; the others' is not always the empty text
    empty = {"negative_prompt": ""} if tiny.negative_prompt else {}
    guided = revealed(pipe, negative_guidance=method, **empty, **alike)
    expected = perp_neg(uncond, cond, torch.stack(negatives), weights, SCALE)
    if tiny.rescales:
        expected = expected * cond.norm(dim=-1, keepdim=True) / expected.norm(dim=-1, keepdim=True)
    assert differ(guided, revealed(base, **empty, **alike)) > 1e-3
    assert_same(guided, expected)


def test_windows_open_and_close(base: Any, pipe: Any, run: Run) -> None:
    whole = run(pipe, steps=4, negative_guidance=PerpNeg(*map(always, NEGATIVES)))
    windows = PerpNeg(always(NEGATIVES[0], stop=0.5), always(NEGATIVES[1], start=0.5))
    assert differ(run(pipe, steps=4, negative_guidance=windows), whole) > 1e-4
    assert differ(whole, run(base, steps=4)) > 1e-3


@pytest.mark.main
def test_batch_mates_have_no_influence_and_a_second_call_gives_the_same(
    pipe: Any, run: Run, tiny: Any
) -> None:
    method = PerpNeg(always(NEGATIVES[0], weight=1.5))
    prompts = [PROMPT, OTHER]
    together = run(pipe, prompts, negative_guidance=method)
    assert torch.equal(run(pipe, prompts, negative_guidance=method), together)
    if tiny.one_noise:
        # inpainting draws the noise of the given image from the first generator alone
        return
    alone = torch.cat([run(pipe, text, seed=i, negative_guidance=method) for i, text in enumerate(prompts)])
    assert_same(together, alone)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_fewer_branches_at_once_give_the_same(pipe: Any, run: Run, limit: int) -> None:
    method = PerpNeg(*map(always, NEGATIVES))
    whole = run(pipe, negative_guidance=method)
    assert_same(run(pipe, negative_guidance=method, max_branch_batch=limit), whole)


def test_the_trace_has_a_row_for_each_step(pipe: Any, run: Run) -> None:
    method = PerpNeg(always(NEGATIVES[0]), always(NEGATIVES[1], stop=0.5))
    trace = run(pipe, [PROMPT, OTHER], steps=4, negative_guidance=method, trace=True, whole=True)[-1]
    steps = len(trace.timesteps)
    # of 4, image to image runs 2 or 3
    assert steps in (2, 3, 4) and trace.cosine.shape == trace.kept.shape == (steps, 2, 2)
    assert torch.isfinite(trace.cosine[:, 0]).all()
    assert torch.isfinite(trace.cosine[: steps // 2, 1]).all() and trace.cosine[steps // 2 :, 1].isnan().all()
    assert tuple(trace.maps) == tuple(NEGATIVES[:2])
    for values in trace.maps.values():
        assert values.ndim == 3 and len(values) == 2 and torch.isfinite(values).all() and values.max() > 0


def test_a_negative_asked_for_once_goes_on_in_its_last_direction(pipe: Any, run: Run) -> None:
    """With one question for the whole run, the second half differs from a closed window and from asking at every step.

    Asking at every step is what `refresh_every=1` says.
    """
    negative = always(NEGATIVES[0])
    each = run(pipe, steps=4, negative_guidance=PerpNeg(negative))
    once = run(pipe, steps=4, negative_guidance=PerpNeg(negative, refresh_every=4))
    assert torch.equal(run(pipe, steps=4, negative_guidance=PerpNeg(negative, refresh_every=1)), each)
    assert differ(once, each) > 1e-5
    assert differ(once, run(pipe, steps=4)) > 1e-4
    assert_same(
        run(pipe, steps=4, negative_guidance=PerpNeg(negative, refresh_every=4), max_branch_batch=1), once
    )
