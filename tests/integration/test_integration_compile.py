"""A compiled denoiser is compiled for the phases of a run, and not for its steps or for each call."""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from negguide import NAG, Negative, NegToMe, PerpNeg, from_pipe

# as few layers as hold self-attention: compiling is slow
SMALL = {
    "block_out_channels": (8,),
    "norm_num_groups": 2,
    "mid_block_type": None,
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}


@pytest.mark.parametrize(
    ("in_place", "methods"),
    [
        (
            False,
            [PerpNeg(Negative("hat", stop=1.0)), NegToMe(torch.rand(3, 64, 64), stop=1.0), NAG("glasses")],
        ),
        (False, [NegToMe(torch.rand(3, 64, 64), stop=1.0, perpendicular=True, match_every=2)]),
        (True, [PerpNeg(Negative("hat", stop=0.5))]),
    ],
    ids=["torch.compile(unet)", "shared matches", "unet.compile()"],
)
def test_steps_and_further_calls_do_not_compile_again(
    make_unet: Any, make_pipeline: Any, generate: Any, in_place: Any, methods: Any
) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiles: list[int] = []

    def count(pipeline: Any, step: int, t: Any, values: Any) -> Any:
        compiles.append(counter.frame_count)
        return values

    plain = make_pipeline(make_unet(**SMALL))
    arguments = {"num_inference_steps": 6, "negative_guidance": methods, "trace": True}
    expected = generate(from_pipe(plain), **arguments)

    unet = plain.unet
    if in_place:
        unet.compile(backend=counter, fullgraph=True)
    else:
        plain.unet = torch.compile(unet, backend=counter, fullgraph=True)
    pipe = from_pipe(plain)
    before = {name: sorted(vars(module)) for name, module in unet.named_modules()}
    compiled_call = unet._compiled_call_impl
    first = generate(pipe, callback_on_step_end=count, **arguments)
    second = generate(pipe, callback_on_step_end=count, **arguments)

    # with a window up to the middle, the half after it has batches of another size
    assert compiles[0] == compiles[2] > 0
    assert compiles[3] == compiles[5]
    assert compiles[6:] == [compiles[5]] * 6
    for output in (first, second):
        torch.testing.assert_close(output.images, expected.images)
        assert output.trace.to_dict().keys() == expected.trace.to_dict().keys()
        torch.testing.assert_close(output.trace.kept, expected.trace.kept, equal_nan=True)
    assert {name: sorted(vars(module)) for name, module in unet.named_modules()} == before
    assert unet._compiled_call_impl is compiled_call
