"""Modular runs act on themselves alone: in threads and inside one another, on shared models or with one guider."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from negguide import Negative, PerpNeg, PerpNegGuidance, with_perp_neg

WINDOW = PerpNeg(
    Negative("black glasses", weight=1.5, stop=0.5), Negative("a red robot", start=0.25, stop=1.0)
)
OTHER_PROMPT = "a cat in the snow"


def sharing(both: Any, method: PerpNeg | PerpNegGuidance | None = None) -> Any:
    """A pipeline on the same models, with a scheduler and tokenizers of its own, guided or not."""
    pipe = both.modular(both.family.blocks)
    own = {name: part for name, part in pipe.components.items() if part is not None}
    copies = {name: copy.deepcopy(part) for name, part in own.items() if name.startswith("tokenizer")}
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    pipe.update_components(scheduler=scheduler, **copies)
    return pipe if method is None else with_perp_neg(pipe, method)


def together(*calls: Callable[[], torch.Tensor], times: int = 2) -> list[list[torch.Tensor]]:
    results: list[list[torch.Tensor]] = [[] for _ in calls]
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def work(index: int) -> None:
        try:
            barrier.wait()
            results[index] += [calls[index]() for _ in range(times)]
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


def test_threads_on_shared_models_do_not_meet(both: Any) -> None:
    plain, one, other = sharing(both), sharing(both, WINDOW), sharing(both, PerpNeg("a hat"))
    calls = [lambda: both.run(plain), lambda: both.run(one), lambda: both.run(other, OTHER_PROMPT)]
    alone = [call() for call in calls]
    for results, expected in zip(together(*calls), alone, strict=True):
        assert all(torch.equal(result, expected) for result in results)


def test_one_guider_serves_two_threads(family: Any) -> None:
    both = family("z-image")
    guider = PerpNegGuidance(WINDOW, guidance_scale=4.0)
    first, second = sharing(both, guider), sharing(both, guider)
    calls = [lambda: both.run(first), lambda: both.run(second, OTHER_PROMPT, steps=5)]
    alone = [call() for call in calls]
    for results, expected in zip(together(*calls), alone, strict=True):
        assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("shared_guider", [False, True])
def test_runs_inside_one_another_do_not_meet(both: Any, shared_guider: bool) -> None:
    guider: Any = PerpNegGuidance(WINDOW, guidance_scale=4.0)
    outer = sharing(both, guider)
    inner = sharing(both, guider if shared_guider else PerpNegGuidance(PerpNeg("a hat"), guidance_scale=3.0))
    expected, expected_inner = both.run(outer), both.run(inner, OTHER_PROMPT, steps=3)
    seen: list[torch.Tensor] = []
    calls: list[int] = []

    def nest(*_: Any) -> None:
        calls.append(1)
        # in the middle of the run, and not inside the run inside it
        if len(calls) in (3, 9) and not busy:
            busy.append(1)
            seen.append(both.run(inner, OTHER_PROMPT, steps=3))
            busy.clear()

    busy: list[int] = []
    handle = both.denoiser.register_forward_hook(nest)
    try:
        assert torch.equal(both.run(outer), expected)
    finally:
        handle.remove()
    assert seen and all(torch.equal(result, expected_inner) for result in seen)


def test_a_run_that_broke_off_does_not_shift_the_next(family: Any) -> None:
    both = family("sdxl")
    pipe = sharing(both, WINDOW)
    expected = both.run(pipe)
    for last in (1, 4, 7):
        calls: list[int] = []

        def stop(*_: Any, calls: list[int] = calls, last: int = last) -> None:
            calls.append(1)
            if len(calls) == last:
                raise KeyboardInterrupt

        handle = both.denoiser.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            both.run(pipe)
        handle.remove()
        assert torch.equal(both.run(pipe), expected)


def test_the_guider_of_the_plain_pipeline_is_left_alone(both: Any) -> None:
    plain = sharing(both)
    guider = plain.guider
    expected = both.run(plain)
    both.run(with_perp_neg(plain, WINDOW))
    assert plain.guider is guider and guider._step in (None, 3)
    assert torch.equal(both.run(plain), expected)
