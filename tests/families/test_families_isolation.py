"""A call acts on itself alone: guided and plain calls on shared models, in threads and inside one another.

Servers share the models of two pipelines and give each a scheduler of its own; every image must be the one that its
call makes alone, bit for bit.
"""

import copy
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiny_pipelines import NEGATIVES, PROMPT, denoiser, taken

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, apply_to_model, from_pipe, remove_from_model

Run = Callable[..., torch.Tensor]
WHOLE: dict[str, Any] = {"start": 0.0, "stop": 1.0}
PUSH = NegToMe("others", alpha=1.0, threshold=0.2, **WHOLE)
SHARED = (
    "sd",
    "sdxl",
    "sd3",
    "pixart-sigma",
    "wan",
    "ltx",
    "cogview4",
    "flux",
    "chroma",
    "qwen-image",
    "z-image",
    "flux2-klein",
)
WITH_PROCESSORS = tuple(name for name in SHARED if name != "z-image")


def sharing(base: Any) -> Any:
    """Another plain pipeline on the same models, with a scheduler and tokenizers of its own.

    A tokenizer keeps how it pads from call to call: two plain pipelines in two threads cannot share one either.
    """
    other = copy.copy(base)
    vars(other)["scheduler"] = type(base.scheduler).from_config(base.scheduler.config)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if getattr(base, name, None) is not None:
            vars(other)[name] = copy.deepcopy(getattr(base, name))
    return other


def methods_of(tiny: Any) -> list[Any]:
    both = [PerpNeg(Negative(NEGATIVES[0], **WHOLE)), NAG(NEGATIVES[1], scale=3.0), PUSH]
    return [[method] for method in taken(tiny, *both, VSF(NEGATIVES[0], scale=0.5), ONG(NEGATIVES[1]))] + [
        taken(tiny, *both)
    ]


def together(*calls: Callable[[], Any], times: int = 2) -> list[list[Any]]:
    """What each call gives in a thread of its own, several times over; all threads start at once."""
    results: list[list[Any]] = [[] for _ in calls]
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def work(index: int) -> None:
        try:
            barrier.wait()
            for _ in range(times):
                results[index].append(calls[index]())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def assert_alone(results: Sequence[Sequence[torch.Tensor]], alone: Sequence[torch.Tensor]) -> None:
    for got, expected in zip(results, alone, strict=True):
        assert got and all(torch.equal(one, expected) for one in got)


@pytest.mark.families(*SHARED)
def test_threads_on_shared_models_do_not_meet(base: Any, tiny: Any, run: Run, two: Any) -> None:
    plain = sharing(base)
    guided = [(from_pipe(sharing(base)), methods) for methods in methods_of(tiny)]
    calls: list[Callable[[], Any]] = [lambda: run(plain, seed=5, **two)]
    calls += [
        lambda pipe=pipe, methods=methods, seed=seed: run(  # type: ignore[misc]
            pipe, seed=seed, negative_guidance=methods, **two
        )
        for seed, (pipe, methods) in enumerate(guided)
    ]
    alone = [call() for call in calls]
    assert_alone(together(*calls), alone)
    # and nothing stays behind
    assert torch.equal(run(base, seed=5, **two), alone[0])


def nesting(pipe: Any, inner: Callable[[], Any], seen: list[Any]) -> dict[str, Any]:
    """The callback that makes another call at the end of every step."""

    def nest(*arguments: Any) -> Any:
        seen.append(inner())
        return {}

    if "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        return {"callback_on_step_end": nest}
    return {"callback": nest, "callback_steps": 1}


@pytest.mark.families(*SHARED)
def test_calls_inside_one_another_do_not_meet(base: Any, tiny: Any, run: Run, two: Any) -> None:
    outer, inner, plain = from_pipe(sharing(base)), from_pipe(sharing(base)), sharing(base)
    all_of_them = methods_of(tiny)[-1]
    expected_plain = run(plain, **two)
    expected_inner = run(inner, seed=1, negative_guidance=all_of_them, **two)
    expected = run(outer, seed=2, negative_guidance=all_of_them, **two)
    for call, alone in (
        (lambda: run(plain, **two), expected_plain),
        (lambda: run(inner, seed=1, negative_guidance=all_of_them, **two), expected_inner),
    ):
        seen: list[torch.Tensor] = []
        callback = nesting(outer, call, seen)
        assert torch.equal(run(outer, seed=2, negative_guidance=all_of_them, **two, **callback), expected)
        assert len(seen) == 2 and all(torch.equal(one, alone) for one in seen)
    # guided inside plain
    seen = []
    callback = nesting(plain, lambda: run(inner, seed=1, negative_guidance=all_of_them, **two), seen)
    assert torch.equal(run(plain, **two, **callback), expected_plain)
    assert all(torch.equal(one, expected_inner) for one in seen)


@pytest.mark.families(*SHARED)
def test_what_breaks_off_in_one_thread_leaves_the_others_alone(
    base: Any, tiny: Any, run: Run, two: Any
) -> None:
    methods = methods_of(tiny)[-1]
    plain, lasting, failing = sharing(base), from_pipe(sharing(base)), from_pipe(sharing(base))

    def stop() -> Any:
        raise KeyboardInterrupt

    def broken() -> str:
        with pytest.raises(KeyboardInterrupt):
            run(failing, negative_guidance=methods, **two, **nesting(failing, stop, []))
        return "broken off"

    calls = [lambda: run(plain, **two), lambda: run(lasting, negative_guidance=methods, **two)]
    alone = [call() for call in calls]
    results = together(*calls, broken)
    assert_alone(results[:2], alone)
    processors = [getattr(module, "processor", None) for module in denoiser(base).modules()]
    assert not any(type(processor).__name__ == "InterceptedProcessor" for processor in processors)


@pytest.mark.families(*WITH_PROCESSORS)
def test_with_a_method_on_the_model_each_run_has_its_own_steps(
    base: Any, tiny: Any, run: Run, two: Any
) -> None:
    window = NegToMe("others", alpha=1.0, threshold=0.2, start=0.5, stop=1.0)
    expected = run(from_pipe(sharing(base)), steps=4, negative_guidance=window, **two)
    short = run(from_pipe(sharing(base)), steps=4, seed=3, negative_guidance=window, **two)
    apply_to_model(
        denoiser(base),
        window,
        num_inference_steps=len(steps_of(base, run, two)),
        guidance_branches=2 if tiny.guided else 1,
        num_images_per_prompt=2,
    )
    try:
        first, second = sharing(base), sharing(base)
        calls = [lambda: run(first, steps=4, **two), lambda: run(second, steps=4, seed=3, **two)]
        assert_alone(together(*calls), [expected, short])
        seen: list[torch.Tensor] = []
        callback = nesting(first, calls[1], seen)
        assert torch.equal(run(first, steps=4, **two, **callback), expected)
        assert seen and all(torch.equal(one, short) for one in seen)
    finally:
        remove_from_model(denoiser(base))


def steps_of(base: Any, run: Run, two: Any) -> list[Any]:
    """The steps of a run of four; where an image is changed, those that are left."""
    seen: list[Any] = []
    run(base, steps=4, **two, **nesting(base, lambda: None, seen))
    return seen


@pytest.mark.families("sd", "flux")
def test_a_prompt_of_another_pipeline_on_the_same_thread_after_a_break_is_plain(
    base: Any, tiny: Any, run: Run, two: Any
) -> None:
    expected = run(base, prompt=PROMPT, **two)
    guided = from_pipe(sharing(base))

    def stop() -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(guided, negative_guidance=methods_of(tiny)[-1], **two, **nesting(guided, stop, []))
    assert torch.equal(run(base, prompt=PROMPT, **two), expected)
