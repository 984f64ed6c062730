"""After a call, however it ends, the model is as it was: processors, hooks, forwards, and what it generates."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry
from tiny_pipelines import NEGATIVES, denoiser, taken

from negguide import NAG, Negative, NegToMe, PerpNeg

Run = Callable[..., torch.Tensor]


def state(pipe: Any) -> dict[str, Any]:
    """What can be seen of the denoiser's modules and of their hooks."""
    seen: dict[str, Any] = {}
    for name, module in denoiser(pipe).named_modules():
        registry = vars(module).get("_diffusers_hook")
        hooks = list(registry.hooks) if isinstance(registry, HookRegistry) else None
        own = sorted(vars(module)), sorted(module._modules), vars(module).get("forward")
        seen[name] = (own, hooks, getattr(module, "processor", None))
    return seen


def breaking_off(pipe: Any, error: type[BaseException], before: dict[str, Any]) -> dict[str, Any]:
    """The callback that stops a run after its first step, and finds the model untouched there."""

    def fail(*arguments: Any) -> Any:
        assert state(pipe) == before
        raise error("stop")

    if "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        return {"callback_on_step_end": fail}
    return {"callback": fail, "callback_steps": 1}


@pytest.mark.main
def test_without_negatives_it_is_the_pipeline_bit_for_bit(base: Any, pipe: Any, run: Run) -> None:
    assert torch.equal(run(pipe), run(base))


def test_after_a_run_that_breaks_off_the_model_is_as_before(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    reference = torch.rand(3, 64, 64) if tiny.reference_images else "others"
    methods = taken(
        tiny,
        PerpNeg(Negative(NEGATIVES[0], stop=1.0)),
        NAG(NEGATIVES[1]),
        NegToMe(reference, alpha=2.0, threshold=0.1, stop=1.0),
    )
    plain, arguments = run(base, **two), {"negative_guidance": methods, **two}
    before = state(base)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error, match="stop"):
            run(pipe, **breaking_off(pipe, error, before), **arguments)
        assert state(base) == before
    first = run(pipe, **arguments)
    assert state(base) == before
    # nothing of the runs that broke off is left in what comes next
    assert torch.equal(run(pipe, **arguments), first)
    assert torch.equal(run(base, **two), plain)


@pytest.mark.families("sd", "flux", "z-image")
def test_after_a_model_that_fails_it_is_as_before(
    base: Any, pipe: Any, run: Run, two: Any, monkeypatch: Any
) -> None:
    """As it does without memory, deep inside, in the second of several forwards."""
    plain, before = run(base, **two), state(base)
    last = [module for module in denoiser(base).modules() if isinstance(module, torch.nn.Linear)][-1]
    calls: list[int] = []

    def fail(module: Any, inputs: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("stop")

    handle = last.register_forward_pre_hook(fail)
    methods = [PerpNeg(Negative(NEGATIVES[0], stop=1.0)), NAG(NEGATIVES[1])]
    with pytest.raises(MemoryError, match="stop"):
        run(pipe, negative_guidance=methods, max_branch_batch=2 if pipe.family.negative_rows else 1, **two)
    handle.remove()
    assert state(base) == before
    assert torch.equal(run(base, **two), plain)
