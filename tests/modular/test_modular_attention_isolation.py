"""Modular runs with methods in attention know nothing of one another, and leave the models as they were."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from negguide import NAG, VSF, Negative, PerpNeg
from negguide.integration.modular.blocks import with_negative_guidance

PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
Family = Callable[[str], Any]
PERP_NEG = PerpNeg(Negative("black glasses", weight=1.5, start=0.0, stop=1.0))


def always(text: str = "", **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


def processors(both: Any) -> list[Any]:
    return [module.processor for module in both.denoiser.modules() if hasattr(module, "processor")]


def sharing(both: Any, method: Any = None) -> Any:
    """A pipeline on the same models, with a scheduler and tokenizers of its own, guided or not."""
    pipe = both.modular(both.family.blocks)
    own = {name: part for name, part in pipe.components.items() if part is not None}
    copies = {name: copy.deepcopy(part) for name, part in own.items() if name.startswith("tokenizer")}
    pipe.update_components(scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config), **copies)
    return pipe if method is None else with_negative_guidance(pipe, method)


WINDOW = NAG(always("black glasses", stop=0.5), always("a red robot", start=0.25), scale=5.0)


@pytest.mark.parametrize("name", ["sdxl", "z-image", "qwen-image"])
def test_threads_on_shared_models_do_not_meet(family: Family, name: str) -> None:
    both = family(name)
    pipes = [sharing(both), sharing(both, WINDOW), sharing(both, [PERP_NEG, VSF("a hat")])]
    prompts = [PROMPT, PROMPT, OTHER]
    alone = [both.run(pipe, prompt) for pipe, prompt in zip(pipes, prompts, strict=True)]
    results: list[list[torch.Tensor]] = [[], [], []]
    errors: list[BaseException] = []
    barrier = threading.Barrier(3)

    def work(index: int) -> None:
        try:
            barrier.wait()
            results[index] += [both.run(pipes[index], prompts[index]) for _ in range(2)]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for found, expected in zip(results, alone, strict=True):
        assert len(found) == 2 and all(torch.equal(one, expected) for one in found)


def test_runs_inside_one_another_do_not_meet(both: Any, monkeypatch: Any) -> None:
    outer, inner, plain = sharing(both, WINDOW), sharing(both, VSF("a hat")), sharing(both)
    expected, expected_inner, expected_plain = (
        both.run(outer), both.run(inner, OTHER, steps=3), both.run(plain, OTHER, steps=2)
    )  # fmt: skip
    own_step, seen = outer.scheduler.step, []

    def step(*args: Any, **kwargs: Any) -> Any:
        if not seen:
            seen.append(both.run(inner, OTHER, steps=3))
            seen.append(both.run(plain, OTHER, steps=2))
        return own_step(*args, **kwargs)

    monkeypatch.setattr(outer.scheduler, "step", step)
    assert torch.equal(both.run(outer), expected)
    assert torch.equal(seen[0], expected_inner) and torch.equal(seen[1], expected_plain)


def test_a_run_that_broke_off_leaves_nothing(family: Family) -> None:
    both = family("sd3")
    pipe, before = with_negative_guidance(both.pipe, WINDOW), processors(both)
    expected, calls = both.run(pipe), []

    def stop(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = both.denoiser.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        both.run(pipe)
    handle.remove()
    assert all(one is other for one, other in zip(processors(both), before, strict=True))
    assert torch.equal(both.run(pipe), expected)
