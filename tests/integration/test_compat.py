"""Every private fact of diffusers and torch that negguide relies on, seen in the installed versions."""

import functools
import inspect
import re
import threading
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FasterCacheConfig, FluxTransformer2DModel, PyramidAttentionBroadcastConfig
from diffusers.hooks import FirstBlockCacheConfig, apply_faster_cache, apply_pyramid_attention_broadcast
from diffusers.hooks.hooks import ModelHook
from diffusers.models import attention_processor
from diffusers.models.cache_utils import CacheMixin
from diffusers.modular_pipelines import PipelineState, SequentialPipelineBlocks
from packaging.version import Version
from torch import nn

from negguide.integration.families import supported_pipelines
from negguide.integration.hooks import compat
from negguide.integration.hooks.interception import intercepted
from negguide.integration.hooks.views import DenoiserProxy, original, view_of

PROJECT = Path(__file__).parents[2]
OLDER = Version(diffusers.__version__) < Version("0.42")
# an older diffusers has not all of them
PIPELINES = sorted(name for name in supported_pipelines() if not OLDER or hasattr(diffusers, name))


def flux() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )


def test_the_lowest_and_the_newest_version_are_those_of_the_project() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    assert f'"diffusers>={compat.OLDEST}"' in text
    pinned = re.search(r"^diffusers==([0-9.]+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and Version(pinned[1]).release[:2] == compat.NEWEST.release
    assert Version(diffusers.__version__) >= compat.OLDEST


def test_a_denoiser_says_its_inputs_in_its_class_however_its_forward_was_replaced(make_unet: Any) -> None:
    unet = make_unet()
    named = compat.input_names(unet, "sample")
    assert named[:3] == ["sample", "timestep", "encoder_hidden_states"]
    unet.forward = lambda *args, **kwargs: None
    assert compat.input_names(unet, "sample") == named
    compiled = torch.compile(make_unet(), backend="eager")
    assert compat.input_names(compiled, "sample") == named
    with pytest.raises(TypeError, match="Linear has no forward that takes 'sample'"):
        compat.input_names(nn.Linear(1, 1), "sample")


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_says_what_a_run_is_in_its_call(name: str) -> None:
    signature = compat.call_signature(getattr(diffusers, name))
    assert {"prompt", "num_inference_steps"} <= set(signature.parameters)


def test_deprecated_arguments_are_those_that_calls_still_take_from_their_further_ones() -> None:
    taken: set[str] = set()
    for name in PIPELINES:
        call = getattr(diffusers, name).__call__
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values()):
            taken |= set(re.findall(r"kwargs\.pop\(\s*\"(\w+)\"", inspect.getsource(call)))
            taken |= set(re.findall(r"\"(\w+)\" in kwargs", inspect.getsource(call)))
    assert taken and taken <= compat.DEPRECATED_ARGUMENTS


def test_pipelines_say_how_many_timesteps_a_run_has_before_it_begins(base: Any) -> None:
    source = inspect.getsource(type(base).__call__)
    assert source.index("self._num_timesteps = len(timesteps)") < source.index("for i, t in enumerate")


def test_caches_are_known_by_their_hooks(make_unet: Any) -> None:
    model = flux()
    assert not compat.is_cached(model) and compat.per_module_cache(model) is None
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    assert compat.is_cached(model) and compat.per_module_cache(model) is None
    model.disable_cache()
    assert not compat.is_cached(model)
    pyramid = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    faster = FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        current_timestep_callback=lambda: 500,
        tensor_format="BCHW",
        is_guidance_distilled=True,
    )
    model.enable_cache(pyramid)
    assert compat.per_module_cache(model) == "PyramidAttentionBroadcast"
    model.disable_cache()
    # on a UNet, which is no CacheMixin
    unet = make_unet()
    apply_pyramid_attention_broadcast(unet, pyramid)
    assert compat.per_module_cache(unet) == "PyramidAttentionBroadcast"
    other = make_unet()
    apply_faster_cache(other, faster)
    assert compat.per_module_cache(other) == "FasterCache"


def test_a_cached_denoiser_opens_contexts_by_the_name_that_proxies_note() -> None:
    assert callable(getattr(CacheMixin, compat.DENOISER_CONTEXT))
    assert f"self.transformer.{compat.DENOISER_CONTEXT}(" in inspect.getsource(
        diffusers.FluxPipeline.__call__
    )


def test_an_entry_of_the_module_goes_before_a_processor_that_is_a_submodule(make_unet: Any) -> None:
    class Weighted(nn.Module):
        def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            return hidden_states

    attention = make_unet().up_blocks[0].attentions[0].transformer_blocks[0].attn1
    plain = attention.processor
    assert compat.processor_slot(attention) == (plain, True)
    weighted = Weighted()
    attention.set_processor(weighted)
    assert compat.processor_slot(attention) == (weighted, False)
    with intercepted({"a": attention}, {"a": lambda processor, *args, **kwargs: processor(*args, **kwargs)}):
        assert attention.processor is not weighted and attention.processor.processor is weighted
        assert attention._modules["processor"] is weighted
    assert compat.processor_slot(attention) == (weighted, False)


def test_perturbed_attention_guidance_is_known_by_its_processors(make_unet: Any) -> None:
    unet = make_unet()
    modules = compat.attention_modules(unet)
    assert len(modules) == len(unet.attn_processors) and compat.perturbed_branches(modules) is None
    for name, processor in vars(attention_processor).items():
        if name.startswith("PAG"):
            modules[0].processor = processor()
            assert compat.perturbed_branches(modules) == (3 if "CFG" in name else 2)


def test_a_hook_that_goes_leaves_what_was_laid_around_it(make_unet: Any) -> None:
    unet = make_unet()
    compat.add_hook(unet, ModelHook(), "first")
    compat.add_hook(unet, ModelHook(), "second")
    wrapper = functools.partial(unet.forward)
    unet.forward = wrapper
    for name in ("first", "second", "second"):
        compat.remove_hook(unet, name)
        assert unet.forward is wrapper
    assert "_diffusers_hook" not in vars(unet)


def test_tracing_is_known_while_torch_compiles_and_not_before_and_after() -> None:
    seen = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(compat.is_tracing())
        return graph

    torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1))
    assert seen == [True] and not compat.is_tracing()


def test_the_pipeline_that_calls_is_found_and_a_loop_of_ones_own_has_none(base: Any, generate: Any) -> None:
    found: list[Any] = []
    handle = base.unet.register_forward_pre_hook(lambda module, inputs: found.append(compat.caller_run()))
    try:
        generate(base)
        assert [run[0] is base.scheduler and run[1] == 5 for run in found] == [True] * 5
        found.clear()
        with torch.no_grad():
            text = torch.zeros(1, 12, 32, dtype=torch.float64)
            base.unet(torch.zeros(1, 4, 8, 8, dtype=torch.float64), 10, text)
        assert found == [None]
    finally:
        handle.remove()


def test_the_states_of_modular_pipelines_are_found_around_a_call() -> None:
    seen: list[Any] = []

    class Pipeline:
        def __call__(self, components: Any, state: PipelineState, inner: Any = None) -> None:
            seen.append(compat.calling_states())
            if inner is not None:
                inner()

    one, other = PipelineState(), PipelineState()
    Pipeline()(None, one, lambda: Pipeline()(None, other))
    assert [[id(state) for state in states] for states in seen] == [[id(one)], [id(other), id(one)]]
    assert list(inspect.signature(SequentialPipelineBlocks.__call__).parameters)[:3] == [
        "self",
        "pipeline",
        "state",
    ]


def test_a_view_shares_everything_and_its_denoiser_is_the_model_to_whoever_asks(pipe: Any) -> None:
    class Run:
        widens, finished = False, False

        def __init__(self, pipe: Any) -> None:
            self.pipe = pipe

    view = view_of(pipe, Run(pipe), ("unet",))
    assert original(view) is pipe and original(pipe) is pipe
    assert isinstance(view, type(pipe)) and vars(view) is vars(pipe)
    proxy = view.unet
    assert (
        type(proxy) is DenoiserProxy and isinstance(proxy, nn.Module) and isinstance(proxy, type(pipe.unet))
    )
    assert proxy.config is pipe.unet.config and proxy.dtype == pipe.unet.dtype
    view.unet = proxy
    assert pipe.unet is not proxy and vars(pipe)["unet"] is pipe.unet
    view._guidance_scale = 7.0
    assert pipe._guidance_scale == 7.0
    assert view.device == pipe.device and view.components.keys() == pipe.components.keys()
    view._guided_run.finished = True
    assert view.unet is pipe.unet and view.scheduler is pipe.scheduler


def test_a_thread_sees_only_its_own_interceptions(make_unet: Any) -> None:
    unet = make_unet()
    attention = unet.up_blocks[0].attentions[0].transformer_blocks[0].attn1
    tokens = torch.randn(1, 4, attention.to_q.in_features)
    plain = attention(tokens)
    results: list[torch.Tensor] = []

    def double(processor: Any, *args: Any, **kwargs: Any) -> Any:
        return 2 * processor(*args, **kwargs)

    with intercepted({"a": attention}, {"a": double}):
        thread = threading.Thread(target=lambda: results.append(attention(tokens)))
        thread.start()
        thread.join()
        assert torch.equal(results[0], plain) and torch.equal(attention(tokens), 2 * plain)
    assert torch.equal(attention(tokens), plain)
