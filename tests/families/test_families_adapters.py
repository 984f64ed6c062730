"""IP-Adapters, and whatever else sets, scales or wraps attention processors, meet the model's own beside a method."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.callbacks import IPAdapterScaleCutoffCallback
from tiny_adapters import WITH_ADAPTERS, images, load
from tiny_pipelines import (
    NEGATIVES,
    PROMPT,
    TINY,
    assert_same,
    build,
    denoiser,
    differ,
    put_on_model,
)

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, from_pipe, remove_from_model

Run = Callable[..., torch.Tensor]
ADAPTED = pytest.mark.families(*WITH_ADAPTERS)
PUSH: dict[str, Any] = {"threshold": 0.1, "stop": 1.0}
METHODS: dict[str, Any] = {
    "PerpNeg": PerpNeg(Negative(NEGATIVES[0], stop=1.0)),
    "NegToMe": NegToMe("others", alpha=2.0, **PUSH),
    "NAG": NAG(NEGATIVES[0], scale=3.0),
    "ONG": ONG(NEGATIVES[0]),
    "VSF": VSF(NEGATIVES[0]),
}
ON_MODELS = {name: method for name, method in METHODS.items() if name != "PerpNeg"}
WITHOUT_EFFECT = (
    NAG(NEGATIVES[0], scale=1.0),
    ONG(PROMPT),
    PerpNeg(Negative(PROMPT, stop=1.0)),
    NegToMe("others", alpha=0.0, **PUSH),
)
_adapted: dict[str, Any] = {}


@pytest.fixture
def adapted(tiny: Any) -> Iterator[Any]:
    """The pipeline with one IP-Adapter at scale 0.7."""
    if tiny.name not in _adapted:
        _adapted[tiny.name] = build(tiny)
        load(_adapted[tiny.name])
    _adapted[tiny.name].set_ip_adapter_scale(0.7)
    yield _adapted[tiny.name]
    remove_from_model(denoiser(_adapted[tiny.name]))


def classes(pipe: Any) -> dict[str, type]:
    return {name: type(processor) for name, processor in denoiser(pipe).attn_processors.items()}


def cutoff(tiny: Any) -> dict[str, Any]:
    """The callback that takes the adapter away after the first step."""
    if tiny.name in ("sd", "sdxl"):
        off = IPAdapterScaleCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
        return {"callback_on_step_end": off}

    def callback(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe.set_ip_adapter_scale(0.0)
        return values

    return {"callback_on_step_end": callback}


# ---- Scales ---------------------------------------------------------------------------------------------------------


@ADAPTED
def test_an_adapter_goes_on_beside_the_negatives(
    adapted: Any, base: Any, run: Run, tiny: Any, two: Any
) -> None:
    arguments = {**images(tiny), **two, "steps": 1}
    plain = run(adapted, **arguments)
    assert differ(plain, run(base, **two, steps=1)) > 1e-3
    for method in WITHOUT_EFFECT:
        assert_same(run(from_pipe(adapted), negative_guidance=method, **arguments), plain)
    # the first image is left as it is
    first = NegToMe("first", alpha=2.0, **PUSH)
    pushed = run(from_pipe(adapted), negative_guidance=first, **arguments)
    assert_same(pushed[:1], plain[:1])
    assert differ(pushed[1:], plain[1:]) > 1e-3


@ADAPTED
def test_a_scale_that_a_callback_sets_counts_in_the_next_step(
    adapted: Any, run: Run, tiny: Any, two: Any
) -> None:
    arguments = {**images(tiny), **two}

    def cut(pipe: Any, **more: Any) -> torch.Tensor:
        adapted.set_ip_adapter_scale(1.0)
        return run(pipe, **arguments, **cutoff(tiny), **more)

    plain = cut(adapted)
    adapted.set_ip_adapter_scale(1.0)
    assert differ(run(adapted, **arguments), plain) > 1e-3
    for method in WITHOUT_EFFECT:
        assert_same(cut(from_pipe(adapted), negative_guidance=method), plain)
    # of which there is none without effect
    result = cut(from_pipe(adapted), negative_guidance=METHODS["VSF"])
    adapted.set_ip_adapter_scale(1.0)
    uncut = run(from_pipe(adapted), negative_guidance=METHODS["VSF"], **arguments)
    assert differ(result, plain) > 1e-3 and differ(result, uncut) > 1e-3


@ADAPTED
def test_a_scale_that_is_set_between_calls_counts(
    adapted: Any, base: Any, run: Run, tiny: Any, two: Any
) -> None:
    for method in METHODS.values():
        arguments = {"negative_guidance": method, **two, "steps": 1}
        without = run(from_pipe(base), **arguments)
        adapted.set_ip_adapter_scale(0.0)
        assert_same(run(from_pipe(adapted), **images(tiny), **arguments), without)
        adapted.set_ip_adapter_scale(0.7)
        assert differ(run(from_pipe(adapted), **images(tiny), **arguments), without) > 1e-3


@ADAPTED
@pytest.mark.parametrize("door", ["from_pipe", "apply_to_model"])
def test_a_scale_that_another_thread_sets_while_a_forward_runs_is_not_lost(
    adapted: Any, run: Run, tiny: Any, door: str
) -> None:
    """What another thread can do at any time is done here in the middle of a forward."""
    if door == "apply_to_model" and from_pipe(adapted).family.denoiser is None:
        return
    arguments = {**images(tiny), "steps": 1}
    adapted.set_ip_adapter_scale(0.0)
    without, method = run(adapted, **arguments), METHODS["NAG"]
    adapted.set_ip_adapter_scale(0.7)
    last = [module for module in denoiser(adapted).modules() if isinstance(module, torch.nn.Linear)][-1]
    handle = last.register_forward_hook(lambda *_: adapted.set_ip_adapter_scale(0.0))
    if door == "from_pipe":
        run(from_pipe(adapted), negative_guidance=method, **arguments)
    else:
        put_on_model(adapted, tiny, method)
        run(adapted, **arguments)
        remove_from_model(denoiser(adapted))
    handle.remove()
    assert torch.equal(run(adapted, **arguments), without)


# ---- Loading and unloading ------------------------------------------------------------------------------------------


@ADAPTED
@pytest.mark.parametrize("name", ["NAG", "NegToMe"])
def test_an_adapter_is_loaded_and_unloaded_while_a_method_is_on_the_model(
    base: Any, adapted: Any, run: Run, tiny: Any, two: Any, name: str
) -> None:
    two, method = {**two, "steps": 1}, METHODS[name]
    own, image = build(tiny), {**images(tiny), **two}
    before, plain = classes(own), run(own, **two)
    bare = run(from_pipe(base), negative_guidance=method, **two)
    with_image = run(from_pipe(adapted), negative_guidance=method, **image)
    put_on_model(own, tiny, method)
    assert_same(run(own, **two), bare)
    load(own)
    own.set_ip_adapter_scale(0.7)
    assert_same(run(own, **image), with_image)
    own.unload_ip_adapter()
    assert classes(own) == before
    assert_same(run(own, **two), bare)
    remove_from_model(denoiser(own))
    assert classes(own) == before
    assert torch.equal(run(own, **two), plain)


@ADAPTED
def test_an_adapter_that_is_unloaded_while_a_forward_runs_is_gone(
    base: Any, run: Run, tiny: Any, unguided: Any
) -> None:
    own = build(tiny)
    before, image = classes(own), images(tiny)
    load(own)
    if tiny.name not in ("flux", "chroma"):
        # without guidance there is no embedding of no image
        (pair,) = image.values() if tiny.name == "sd3" else next(iter(image.values()))
        image = {"ip_adapter_image_embeds": pair[1:] if tiny.name == "sd3" else [pair[1:]]}
    model = denoiser(own)
    last = model.conv_out if hasattr(model, "conv_out") else model.proj_out
    handle = last.register_forward_hook(lambda *_: own.unload_ip_adapter())
    run(from_pipe(own), negative_guidance=METHODS["NAG"], steps=1, **{**image, **unguided})
    handle.remove()
    assert classes(own) == before
    # an adapter's weights hang in the module tree
    assert list(model.state_dict()) == list(denoiser(base).state_dict())
    assert torch.equal(run(own, steps=1), run(base, steps=1))


@pytest.mark.families("sd", "sdxl")
def test_the_masks_of_two_adapters_are_for_every_row(tiny: Any, run: Run) -> None:
    """Two adapters' masks [2, 1, H, W] have as many rows as the batch has, or as it has branches."""
    own = build(tiny)
    load(own, 2)
    own.set_ip_adapter_scale([0.7, 0.5])
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    one_tensor, a_list = torch.cat([left, 1 - left]), [left, 1 - left]
    methods = [METHODS["PerpNeg"], METHODS["NAG"], NegToMe(torch.rand(3, 64, 64), alpha=2.0, **PUSH)]
    for masks, tried in ((one_tensor, (*methods, methods)), (a_list, (methods,))):
        image = {**images(tiny, 2), "cross_attention_kwargs": {"ip_adapter_masks": masks}, "steps": 1}
        plain = run(own, **image)
        for same in (WITHOUT_EFFECT[0], WITHOUT_EFFECT[2]):
            assert_same(run(from_pipe(own), negative_guidance=same, **image), plain)
        for method in tried:
            together = run(from_pipe(own), negative_guidance=method, **image)
            one = run(from_pipe(own), negative_guidance=method, max_branch_batch=1, **image)
            assert_same(one, together)
            assert differ(together, plain) > 1e-3


# ---- Processors that others set -------------------------------------------------------------------------------------


@pytest.mark.families("sd", "sdxl")
def test_the_default_processors_are_set_while_a_method_is_on_the_model(run: Run, tiny: Any, two: Any) -> None:
    own = build(tiny)
    plain, processors = run(own, **two), own.unet.attn_processors
    # of the same processors: others round otherwise, and a token near the threshold may then be pushed or not
    own.unet.set_default_attn_processor()
    expected = run(from_pipe(own), negative_guidance=METHODS["NegToMe"], **two)
    own.unet.set_attn_processor(dict(processors))
    put_on_model(own, tiny, METHODS["NegToMe"])
    own.unet.set_default_attn_processor()
    assert set(classes(own).values()) == {diffusers.models.attention_processor.AttnProcessor}
    assert_same(run(own, **two), expected)
    put_on_model(own, tiny, METHODS["NAG"])
    with pytest.raises(ValueError, match=r"NAG takes over .* use diffusers' default attention processors"):
        run(own)
    own.unet.set_attn_processor(dict(processors))
    assert_same(run(own), run(from_pipe(build(tiny)), negative_guidance=METHODS["NAG"]))
    remove_from_model(own.unet)
    assert own.unet.attn_processors == processors
    assert torch.equal(run(own, **two), plain)


class Recorder:
    """As a tool that looks at attention: in the place of a module's processor, which it calls."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.calls = 0

    def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.processor(attn, hidden_states, *args, **kwargs)


@pytest.mark.families("sd", "sd3", "flux")
def test_a_tool_in_the_place_of_the_processors_sees_every_call(run: Run, tiny: Any, two: Any) -> None:
    own, two = build(tiny), {**two, "steps": 1}
    model = denoiser(own)
    if tiny.name == "flux":
        # its modules ask for the parameters of the processor's call
        Recorder.__call__.__signature__ = inspect.signature(  # type: ignore[attr-defined]
            type(next(iter(model.attn_processors.values()))).__call__
        )
    modules = {name: model.get_submodule(name.removesuffix(".processor")) for name in model.attn_processors}
    originals = {name: module.processor for name, module in modules.items()}
    for name, method in list(METHODS.items())[:3]:
        for door in ("from_pipe", "apply_to_model") if name in ON_MODELS else ("from_pipe",):
            pipe, arguments = (
                (from_pipe(own), {"negative_guidance": method}) if door == "from_pipe" else (own, {})
            )
            if door == "apply_to_model":
                put_on_model(own, tiny, method)
            expected, forwards = run(pipe, **arguments, **two), []
            recorders = {name: Recorder(processor) for name, processor in originals.items()}
            for module_name, module in modules.items():
                module.processor = recorders[module_name]
            handle = model.register_forward_pre_hook(lambda *_, seen=forwards: seen.append(1))
            assert torch.equal(run(pipe, **arguments, **two), expected)
            handle.remove()
            assert {recorder.calls for recorder in recorders.values()} == {len(forwards)}
            for module_name, module in modules.items():
                assert module.processor is recorders[module_name]
                module.processor = originals[module_name]
            remove_from_model(model)


PERTURBED = {
    "sd": ("StableDiffusionPAGPipeline", "mid"),
    "sdxl": ("StableDiffusionXLPAGPipeline", "mid"),
    "sd3-without-t5": ("StableDiffusion3PAGPipeline", "blocks.1"),
    "pixart-sigma": ("PixArtSigmaPAGPipeline", "blocks.1"),
    "sana": ("SanaPAGPipeline", "blocks.1"),
}


@pytest.mark.families(*PERTURBED)
def test_perturbed_attention_guidance_keeps_its_effect_and_its_branch(run: Run, tiny: Any, two: Any) -> None:
    own, (name, layers) = build(tiny), PERTURBED[tiny.name]
    kind = getattr(diffusers, name)
    needed = inspect.signature(kind.__init__).parameters
    parts = {part: value for part, value in own.components.items() if part in needed}
    unchecked = {"requires_safety_checker": False} if "requires_safety_checker" in needed else {}
    pipe = kind(**parts, **unchecked, pag_applied_layers=[layers])
    pipe.set_progress_bar_config(disable=True)
    before = classes(own)
    arguments = {"pag_scale": 3.0, **two, "steps": 1}
    plain, unperturbed = run(pipe, **arguments), run(own, **two, steps=1)
    assert differ(plain, unperturbed) > 1e-3
    # how many branches there are, the processors say
    for method in (WITHOUT_EFFECT[0], WITHOUT_EFFECT[3], METHODS["NAG"], METHODS["NegToMe"]):
        put_on_model(own, tiny, method)
        if tiny.name == "sd3-without-t5" and isinstance(method, NAG):
            with pytest.raises(
                ValueError, match="NAG acts in the first attention of a module, and perturbed"
            ):
                run(pipe, **arguments)
            own.transformer.set_attn_processor(diffusers.models.attention_processor.JointAttnProcessor2_0())
            continue
        result = run(pipe, **arguments)
        if method in WITHOUT_EFFECT:
            assert_same(result, plain)
        else:
            # each in addition to the other
            assert differ(result, plain) > 1e-3
            assert differ(result, run(own, **two, steps=1)) > 1e-3
        remove_from_model(denoiser(own))
        assert classes(own) == before
    remove_from_model(denoiser(own))
    assert torch.equal(run(pipe, **arguments), plain)


@pytest.mark.families("sd")
def test_beside_perturbed_attention_guidance_the_conditional_branch_is_guided(run: Run, tiny: Any) -> None:
    """With pag_scale 0 in the pipeline's own formula, what is left is the guided pair."""
    own = build(tiny)
    pipe = diffusers.StableDiffusionPAGPipeline(
        **own.components, requires_safety_checker=False, pag_applied_layers=["mid"]
    )
    pipe.set_progress_bar_config(disable=True)
    expected = run(from_pipe(own), negative_guidance=METHODS["NAG"], steps=1)
    put_on_model(own, tiny, METHODS["NAG"])
    # so little that nothing is seen of it, but with its third branch
    assert_same(run(pipe, pag_scale=1e-7, steps=1), expected)


def test_every_denoiser_with_ip_adapters_is_tried(bases: list[Any]) -> None:
    mixins = ("IPAdapterMixin", "FluxIPAdapterMixin", "SD3IPAdapterMixin")
    having = {
        tiny.like
        for tiny, base in zip(TINY, bases, strict=True)
        if any(kind.__name__ in mixins for kind in type(base).__mro__)
    }
    assert having == set(WITH_ADAPTERS)
