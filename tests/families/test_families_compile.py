"""A compiled denoiser gives the same, and is compiled for the phases of a run: not for its steps, nor for each call.

Stable Diffusion's is in tests/integration.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import build, denoiser, differ, taken
from torch import nn
from torch._dynamo.testing import CompileCounter

from negguide import NAG, Negative, NegToMe, PerpNeg, from_pipe

Run = Callable[..., torch.Tensor]


def shorten(model: nn.Module) -> None:
    """Keep one block of each kind: compiling is slow."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and name in (
                "transformer_blocks",
                "single_transformer_blocks",
                "blocks",
            ):
                setattr(module, name, child[:1])


@pytest.mark.families(
    "sdxl",
    "sd3",
    "flux",
    "chroma",
    "flux2-dev",
    "qwen-image",
    "krea2",
    "wan",
    "wan-i2v-channels",
    "ltx",
    "cogview4",
)
def test_steps_and_further_calls_do_not_compile_again(
    tiny: Any, run: Run, two: Any, monkeypatch: Any
) -> None:
    torch._dynamo.reset()
    plain = build(tiny)
    model = denoiser(plain)
    shorten(model)
    # one family shows that a window's end is one compilation more
    stop = 0.5 if tiny.name == "sd3" else 1.0
    methods = taken(
        tiny,
        PerpNeg(Negative("black glasses", stop=1.0)),
        NAG(Negative("a red scarf", stop=stop)),
        NegToMe("first", alpha=2.0, threshold=0.1, stop=1.0),
    )
    arguments = {"steps": 4, "negative_guidance": methods, **two}
    expected = run(from_pipe(plain), **arguments)
    assert differ(expected, run(plain, steps=4, **two)) > 1e-3

    counter = CompileCounter()
    name = "unet" if hasattr(plain, "unet") else "transformer"
    setattr(plain, name, torch.compile(model, backend=counter, fullgraph=True))
    step, compiled = plain.scheduler.step, []

    def counting(*args: Any, **kwargs: Any) -> Any:
        compiled.append(counter.frame_count)
        return step(*args, **kwargs)

    monkeypatch.setattr(plain.scheduler, "step", counting)
    results = [run(from_pipe(plain), **arguments) for _ in range(2)]
    assert compiled[:2] == [compiled[0]] * 2 and compiled[2:] == [compiled[2]] * 6
    assert compiled[0] > 0 and (compiled[2] > compiled[0]) == (stop < 1)
    for result in results:
        torch.testing.assert_close(result, expected)
    assert vars(model).get("forward") is None
