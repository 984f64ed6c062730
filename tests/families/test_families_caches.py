"""Caches of diffusers beside a method: those with a context for each branch go on, the others are refused by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import FasterCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import (
    FirstBlockCacheConfig,
    HookRegistry,
    MagCacheConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_pyramid_attention_broadcast,
)
from tiny_pipelines import NEGATIVES, PROMPT, assert_same, denoiser, differ, put_on_model

from negguide import NAG, Negative, NegToMe, PerpNeg, from_pipe, remove_from_model

Run = Callable[..., torch.Tensor]
STEPS = 6
PUSH: dict[str, Any] = {"threshold": 0.1, "stop": 1.0}


@contextmanager
def cached(model: Any, config: Any) -> Iterator[None]:
    model.enable_cache(config)
    try:
        yield
    finally:
        model.disable_cache()


# ---- A context for each branch --------------------------------------------------------------------------------------


CACHES: dict[str, Callable[[], Any]] = {
    "FirstBlockCache": lambda: FirstBlockCacheConfig(threshold=1e9),
    "TaylorSeer": lambda: TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=2,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r".*\.attn1?"],
    ),
    "MagCache": lambda: MagCacheConfig(
        threshold=0.3, max_skip_steps=2, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS
    ),
    # it wants to be told the step, its sigma and how many there are
    "SeaCache": lambda: SeaCacheConfig(threshold=2.0),
}


def caches_of(tiny: Any) -> list[str]:
    """FLUX.2's blocks are not those that FirstBlockCache knows; SeaCache is for videos."""
    without = {"flux2-klein": {"FirstBlockCache", "SeaCache"}, "wan": set()}.get(tiny.name, {"SeaCache"})
    return [name for name in CACHES if name not in without]


@pytest.mark.families("flux", "flux2-klein", "qwen-image", "wan")
def test_what_has_no_effect_has_none_on_what_a_cache_skips(base: Any, run: Run, tiny: Any) -> None:
    whole, pipe = run(base, steps=STEPS), from_pipe(base)
    without_effect = [PerpNeg(Negative(PROMPT, stop=1.0)), NAG(NEGATIVES[0], scale=1.0)]
    if tiny.name != "wan":
        without_effect.append(NegToMe(torch.rand(3, 64, 64), alpha=0.0, **PUSH))
    for name in caches_of(tiny):
        with cached(denoiser(base), CACHES[name]()):
            plain = run(base, steps=STEPS)
            assert differ(plain, whole) > 1e-3, name
            for method in without_effect:
                assert differ(run(pipe, steps=STEPS, negative_guidance=method), plain) < 1e-4, name
            other = PerpNeg(Negative(NEGATIVES[0], stop=1.0))
            assert differ(run(pipe, steps=STEPS, negative_guidance=other), plain) > 1e-3, name
            put_on_model(base, tiny, without_effect[1])
            try:
                assert differ(run(base, steps=STEPS), plain) < 1e-4, name
            finally:
                remove_from_model(denoiser(base))
            # nothing of it is left
            assert torch.equal(run(base, steps=STEPS), plain), name


@pytest.mark.families("wan")
def test_the_contexts_of_all_branches_say_what_the_pipeline_says(
    base: Any, run: Run, monkeypatch: Any
) -> None:
    """`cache_context(name, step_index=, sigma=, num_inference_steps=)` of diffusers 0.42."""
    model, opened = base.transformer, []
    open_context = model.cache_context

    def noted(name: str, **fields: Any) -> Any:
        opened.append((name, fields))
        return open_context(name, **fields)

    monkeypatch.setattr(model, "cache_context", noted)
    with cached(model, CACHES["SeaCache"]()):
        run(base)
        plain = list(opened)
        opened.clear()
        run(from_pipe(base), negative_guidance=PerpNeg(Negative(NEGATIVES[0], stop=1.0)))
    fields = {values["step_index"]: values for _, values in plain}
    assert set(fields) == {0, 1} and {"sigma", "num_inference_steps"} <= set(fields[0])
    assert {name for name, _ in opened} == {"cond", "uncond", "negative 0"}
    for name in ("cond", "uncond", "negative 0"):
        said = [values for other, values in opened if other == name]
        assert said and all(values == fields[values["step_index"]] for values in said)


# ---- One state a module ---------------------------------------------------------------------------------------------


@contextmanager
def per_module(pipe: Any, name: str) -> Iterator[None]:
    """One of the caches that keep a state a module, on a transformer as `enable_cache` puts it, or on a UNet."""
    common: dict[str, Any] = {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_timestep_skip_range": (-1, 1001),
        "current_timestep_callback": lambda: 500,
    }
    if name == "PyramidAttentionBroadcast":
        config, apply = PyramidAttentionBroadcastConfig(**common), apply_pyramid_attention_broadcast
        hooks = ("pyramid_attention_broadcast",)
    else:
        own = {
            "tensor_format": "BCHW",
            "is_guidance_distilled": True,
            "attention_weight_callback": lambda _: 0.5,
        }
        config, apply = FasterCacheConfig(**common, **own), apply_faster_cache
        hooks = ("faster_cache_denoiser", "faster_cache_block")
    model = denoiser(pipe)
    if hasattr(model, "enable_cache"):
        with cached(model, config):
            yield
        return
    apply(model, config)
    try:
        yield
    finally:
        registry = HookRegistry.check_if_exists_or_initialize(model)
        for hook in hooks:
            registry.remove_hook(hook, recurse=True)


@pytest.mark.families("flux", "wan", "sd", "sdxl")
@pytest.mark.parametrize("name", ["PyramidAttentionBroadcast", "FasterCache"])
def test_a_cache_with_one_state_a_module_is_refused_by_name(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any, monkeypatch: Any, name: str
) -> None:
    refused = [PerpNeg(NEGATIVES[0]), NAG(NEGATIVES[0])]
    if tiny.name != "wan":
        refused.append(NegToMe(torch.rand(3, 64, 64), **PUSH))
    model, encoder = denoiser(base), base.text_encoder
    remedy = "model.disable_cache" if hasattr(model, "disable_cache") else "take its hooks off the model"
    with per_module(base, name):
        called: list[Any] = []
        handles = [part.register_forward_pre_hook(lambda *_: called.append(1)) for part in (model, encoder)]
        for method in refused:
            says = rf"^{name} keeps one state a module, .* that {type(method).__name__} asks.*{remedy}"
            with pytest.raises(ValueError, match=says):
                run(pipe, negative_guidance=method, **two)
        if not pipe.family.sequential:
            with pytest.raises(ValueError, match=rf"^{name} keeps .* that max_branch_batch=1 asks"):
                run(pipe, negative_guidance=NegToMe("others", **PUSH), max_branch_batch=1, **two)
        # before any model runs
        assert not called
        for handle in handles:
            handle.remove()
        put_on_model(base, tiny, refused[1])
        blocks: list[Any] = []
        handle = next(iter(model.children())).register_forward_pre_hook(lambda *_: blocks.append(1))
        try:
            with pytest.raises(ValueError, match=rf"^{name} keeps one state a module, .* that NAG asks"):
                run(base, **two)
        finally:
            handle.remove()
            remove_from_model(model)
        assert not blocks
        # what was refused has left nothing behind
        assert type(next(iter(model.attn_processors.values()))).__module__.startswith("diffusers")


@pytest.mark.families("flux", "wan", "sd")
def test_others_is_let_through_for_it_adds_neither_forwards_nor_text(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    whole = run(base, steps=STEPS, **two)
    nothing, push = (NegToMe("others", alpha=alpha, **PUSH) for alpha in (0.0, 2.0))
    with per_module(base, "PyramidAttentionBroadcast"):
        plain = run(base, steps=STEPS, **two)
        assert differ(plain, whole) > 1e-3
        assert torch.equal(run(pipe, steps=STEPS, negative_guidance=nothing, **two), plain)
        pushed = run(pipe, steps=STEPS, negative_guidance=push, **two)
        assert differ(pushed, plain) > 1e-3
        for method, expected in ((nothing, plain), (push, pushed)):
            put_on_model(base, tiny, method)
            try:
                assert_same(run(base, steps=STEPS, **two), expected)
            finally:
                remove_from_model(denoiser(base))


# ---- Windows --------------------------------------------------------------------------------------------------------


# one after another, and each alone for a while: the text that goes through the blocks has four lengths
WINDOWS = (Negative(NEGATIVES[0], stop=0.5), Negative(NEGATIVES[1], start=0.25, stop=0.75))


@pytest.mark.families("flux", "qwen-image", "wan")
def test_a_cached_denoiser_keeps_the_branches_apart(
    base: Any, pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    """At threshold 0 nothing is skipped; far above, all that can be, and what is kept must then fit."""
    push = NegToMe(
        torch.rand(3, 64, 64) if tiny.reference_images else "others", alpha=2.0, **{**PUSH, "stop": 0.75}
    )
    methods = {
        "PerpNeg": PerpNeg(*WINDOWS),
        "NAG": NAG(*WINDOWS, scale=3.0),
        "NegToMe": push,
        "all": [PerpNeg(*WINDOWS), NAG(*WINDOWS, scale=3.0), push],
    }
    arguments = {"steps": 4, **two}
    plain = {name: run(pipe, negative_guidance=method, **arguments) for name, method in methods.items()}
    model = denoiser(base)
    for threshold in (0.0, 1e9):
        model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        try:
            skipped = run(base, **arguments)
            for name, method in methods.items():
                result = run(pipe, negative_guidance=method, **arguments)
                if threshold == 0:
                    assert_same(result, plain[name])
                else:
                    assert torch.isfinite(result).all() and differ(result, skipped) > 1e-3
        finally:
            model.disable_cache()


@pytest.mark.families("flux")
def test_the_trace_of_blocks_that_a_cache_skips_rests(base: Any, pipe: Any, run: Run, two: Any) -> None:
    method = NegToMe("others", alpha=2.0, blocks="^single", **PUSH)
    base.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    try:
        trace = run(pipe, steps=3, negative_guidance=method, trace=True, whole=True, **two)[-1]
    finally:
        base.transformer.disable_cache()
    assert trace.pushed.isnan().all(dim=1).tolist() == [False, True, True]
