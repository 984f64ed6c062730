"""Somebody else's wrapper around the denoiser's forward stays where it is and sees what it would see without us."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, SequentialHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn

from negguide import NAG, Negative, NegToMe, PerpNeg, apply_to_model, from_pipe, remove_from_model

METHODS: dict[str, Any] = {
    "PerpNeg": PerpNeg(Negative("black glasses", stop=1.0)),
    "NegToMe": NegToMe("others", alpha=2.0, threshold=0.1, stop=1.0),
    "NAG": NAG("black glasses", scale=3.0),
}
ON_MODELS = ("NegToMe", "NAG")
ROWS = 4
"""Of a call of the denoiser by the plain pipeline: two branches of two images."""


@pytest.fixture(scope="module")
def own(make_pipeline: Any) -> Any:
    """A plain pipeline whose denoiser is wrapped, and unwrapped again by each test."""
    return make_pipeline()


@pytest.fixture(scope="module")
def expected(own: Any, generate: Any) -> dict[str, Tensor]:
    """What comes out without a wrapper."""
    results = {"plain": call(own, generate)}
    for name, method in METHODS.items():
        results[name] = call(from_pipe(own), generate, negative_guidance=method)
        assert (results[name] - results["plain"]).abs().max() > 1e-2
    return results


def call(pipe: Any, generate: Any, **arguments: Any) -> Tensor:
    images: Tensor = generate(pipe, num_inference_steps=2, num_images_per_prompt=2, **arguments).images
    return images


def put_on(own: Any, name: str) -> None:
    with torch.no_grad():
        embeds = own.encode_prompt(["black glasses"], "cpu", 1, False)[0]
    apply_to_model(own.unet, METHODS[name], **({"negative_embeds": embeds} if name == "NAG" else {}))


class Wrapper:
    """As DeepCache and its kin wrap a forward: by `(*args, **kwargs)`, and what it wants to see it takes by place."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.seen: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sample, timestep = args[:2]
        self.seen.append((len(args), sample.shape[0], float(timestep), sorted(kwargs)))
        return self.forward(sample, timestep, *args[2:], **kwargs)


@pytest.fixture(params=["function", "partial", "accelerate", "torch"])
def wrapped(request: Any, own: Any) -> Any:
    """The denoiser in a wrapper of this kind; what is given says how often it was called."""
    unet, calls = own.unet, []
    if request.param == "function":
        wrapper = Wrapper(unet.forward)
        calls, unet.forward = wrapper.seen, wrapper
        yield calls
        del unet.forward
    elif request.param == "partial":

        def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return type(model).forward(model, *args, **kwargs)

        unet.forward = functools.partial(forward, unet)
        yield calls
        del unet.forward
    elif request.param == "accelerate":

        class Counting(ModelHook):
            def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                calls.append(1)
                return args, kwargs

        add_hook_to_module(unet, SequentialHook(Counting(), ModelHook()))
        yield calls
        remove_hook_from_module(unet)
        del unet.forward
    else:
        handles = [
            unet.register_forward_pre_hook(lambda *_: calls.append(1)),
            unet.register_forward_hook(lambda *_: None),
        ]
        yield calls
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", METHODS)
def test_a_guided_call_runs_through_the_wrapper(
    own: Any, generate: Any, expected: Any, wrapped: list[Any], name: str
) -> None:
    assert torch.equal(call(from_pipe(own), generate, negative_guidance=METHODS[name]), expected[name])
    assert len(wrapped) == 2
    assert torch.equal(call(own, generate), expected["plain"])
    assert len(wrapped) == 4


@pytest.mark.parametrize("name", ON_MODELS)
def test_a_method_on_a_wrapped_model_runs_through_the_wrapper(
    own: Any, generate: Any, expected: Any, wrapped: list[Any], name: str
) -> None:
    put_on(own, name)
    assert torch.equal(call(own, generate), expected[name])
    assert len(wrapped) == 2
    remove_from_model(own.unet)
    assert torch.equal(call(own, generate), expected["plain"])
    assert len(wrapped) == 4


@pytest.mark.parametrize("name", METHODS)
def test_what_the_pipeline_gives_by_place_comes_by_place(own: Any, generate: Any, name: str) -> None:
    def seen(pipe: Any, **arguments: Any) -> list[tuple[Any, ...]]:
        wrapper = Wrapper(own.unet.forward)
        own.unet.forward = wrapper
        try:
            call(pipe, generate, **arguments)
        finally:
            own.unet.forward = wrapper.forward
        return wrapper.seen

    plain = seen(own)
    guided = seen(from_pipe(own), negative_guidance=METHODS[name])
    rows = ROWS + 2 if name == "PerpNeg" else ROWS
    assert [(places, rows, timestep, named) for places, _, timestep, named in plain] == guided
    if name in ON_MODELS:
        put_on(own, name)
        assert seen(own) == guided
        remove_from_model(own.unet)
    vars(own.unet).pop("forward", None)


def three_by_place(own: Any) -> tuple[Tensor, int, Tensor]:
    """Sample, timestep and text of two branches of two images."""
    torch.manual_seed(0)
    with torch.no_grad():
        text = own.encode_prompt(["a bear", "a cat"], "cpu", 2, False)[0]
    return torch.randn(ROWS, 4, 8, 8, dtype=torch.float64), 500, text


@pytest.mark.parametrize("name", ON_MODELS)
@torch.no_grad()
def test_text_that_a_loop_gives_by_place_is_extended_there(own: Any, name: str) -> None:
    """`sample, timestep, encoder_hidden_states = args[:3]` is what such wrappers rely on."""
    sample, timestep, text = three_by_place(own)
    plain = own.unet(sample, timestep, text)[0]
    put_on(own, name)
    by_name = own.unet(sample=sample, timestep=timestep, encoder_hidden_states=text).sample
    shapes = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        sample, timestep, encoder_hidden_states = args[:3]
        shapes.append(encoder_hidden_states.shape[1] // text.shape[1])
        return type(own.unet).forward(own.unet, sample, timestep, encoder_hidden_states, *args[3:], **kwargs)

    remove_from_model(own.unet)
    own.unet.forward = wrapper
    put_on(own, name)
    by_place = own.unet(sample, timestep, text, return_dict=False)[0]
    remove_from_model(own.unet)
    del own.unet.forward
    assert torch.equal(by_place, by_name)
    assert (by_place - plain).abs().max() > 1e-3
    # the prompt's text and the negative's
    assert shapes == [2 if name == "NAG" else 1]


@pytest.mark.parametrize("parameters", ["none", "the sample"])
@pytest.mark.parametrize("name", METHODS)
def test_a_subclass_may_take_whatever_comes(
    own: Any, generate: Any, expected: Any, name: str, parameters: str
) -> None:
    base = type(own.unet)

    class Anything(base):  # type: ignore[misc,valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    class Sample(base):  # type: ignore[misc,valid-type]
        def forward(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(sample, *args, **kwargs)

    own.unet.__class__ = {"none": Anything, "the sample": Sample}[parameters]
    try:
        assert torch.equal(call(from_pipe(own), generate, negative_guidance=METHODS[name]), expected[name])
        if name in ON_MODELS:
            put_on(own, name)
            assert torch.equal(call(own, generate), expected[name])
    finally:
        remove_from_model(own.unet)
        own.unet.__class__ = base


@pytest.mark.parametrize("name", ON_MODELS)
def test_a_wrapper_around_a_method_outlives_it(own: Any, generate: Any, expected: Any, name: str) -> None:
    put_on(own, name)
    hooked = own.unet.forward
    wrapper = Wrapper(hooked)
    own.unet.forward = wrapper
    assert torch.equal(call(own, generate), expected[name])
    remove_from_model(own.unet)
    assert own.unet.forward is wrapper
    assert torch.equal(call(own, generate), expected["plain"])
    assert len(wrapper.seen) == 4
    # and puts back what it found, which is no method any more
    own.unet.forward = hooked
    assert torch.equal(call(own, generate), expected["plain"])
    del own.unet.forward


def test_offloading_that_was_set_up_after_a_method_outlives_it(
    own: Any, generate: Any, expected: Any
) -> None:
    put_on(own, "NAG")
    add_hook_to_module(own.unet, ModelHook())
    assert torch.equal(call(own, generate), expected["NAG"])
    remove_from_model(own.unet)
    assert own.unet.forward.__wrapped__ == own.unet._old_forward
    assert torch.equal(call(own, generate), expected["plain"])
    remove_hook_from_module(own.unet)
    assert torch.equal(call(own, generate), expected["plain"])
    del own.unet.forward
