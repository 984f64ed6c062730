"""What else a pipeline can do goes on beside negatives: LoRA, offloading, its own ways of guidance."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import tiny_unet_and_cross
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_pipelines import NEGATIVES, OTHER, PROMPT, SCALE, assert_same, build, denoiser, differ, taken

from negguide import NAG, ONG, VSF, Negative, NegToMe, PerpNeg, from_pipe
from negguide.guidance import perp_neg

Run = Callable[..., torch.Tensor]
PUSH: dict[str, Any] = {"alpha": 2.0, "threshold": 0.1, "stop": 1.0}


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"stop": 1.0, **changes})


def half() -> torch.Tensor:
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    return mask


def check_identities(base: Any, pipe: Any, run: Run, tiny: Any, **arguments: Any) -> None:
    """Negatives that say what the prompt says change nothing, and others do."""
    arguments = {**tiny.alike(), **arguments}
    plain = run(base, **arguments)
    for same in taken(tiny, PerpNeg(always(PROMPT, weight=2)), NAG(PROMPT, scale=3.0), ONG(PROMPT)):
        assert_same(run(pipe, negative_guidance=same, **arguments), plain)
    others = PerpNeg(always(NEGATIVES[0])), NAG(NEGATIVES[0], scale=3.0), VSF(NEGATIVES[0])
    for other in taken(tiny, *others):
        assert differ(run(pipe, negative_guidance=other, **arguments), plain) > 1e-3


# ---- LoRA -----------------------------------------------------------------------------------------------------------


@pytest.mark.representatives("sdxl", "sd3", "flux", "flux2-dev", "qwen-image", "wan", "ltx", "cogview4")
def test_a_lora_acts_on_negatives_as_on_the_prompt(tiny: Any, run: Run) -> None:
    base = build(tiny)
    pipe = from_pipe(base)
    method = taken(tiny, PerpNeg(always(NEGATIVES[0])), NAG(NEGATIVES[1], scale=3.0))
    without = run(pipe, negative_guidance=method)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v", "add_k_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, denoiser(base))
    takes = inspect.signature(base.__call__).parameters
    keyword = next((name for name in takes if name.endswith("attention_kwargs")), None)
    if keyword is None:
        # the call cannot say how much
        assert differ(run(pipe, negative_guidance=method), without) > 1e-3
        check_identities(base, pipe, run, tiny)
        return
    off, part, whole = ({keyword: {"scale": scale}} for scale in (0.0, 0.5, 1.0))
    if not tiny.shares_modules:
        assert_same(run(pipe, negative_guidance=method, **off), without)
    results = [run(pipe, negative_guidance=method, **arguments) for arguments in (off, part, whole)]
    assert differ(results[0], results[1]) > 1e-3 and differ(results[1], results[2]) > 1e-3
    check_identities(base, pipe, run, tiny, **part)


@pytest.mark.families("sd3", "sd3-img2img", "sd3-inpaint", "sd3-controlnet", "sd3-controlnet-inpaint")
def test_a_lora_of_the_text_encoder_acts_on_negatives_as_on_the_prompt(tiny: Any, run: Run) -> None:
    """Some pipelines scale it for the prompt, by the scale of the call, and others do not."""
    base = build(tiny)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, base.text_encoder)
    check_identities(base, from_pipe(base), run, tiny, joint_attention_kwargs={"scale": 0.5})


# ---- Offloading, half precision -------------------------------------------------------------------------------------


@pytest.mark.representatives(
    "sd",
    "sd-controlnet",
    "sdxl",
    "sd3",
    "flux",
    "flux2-dev",
    "qwen-image",
    "z-image",
    "wan",
    "ltx",
    "cogview4",
    "lumina2",
)
def test_offloaded_pipelines_give_the_same(pipe: Any, run: Run, tiny: Any, two: Any) -> None:
    push = NegToMe(torch.rand(3, 64, 64) if tiny.reference_images else "others", **PUSH)
    methods = taken(tiny, PerpNeg(always(NEGATIVES[0])), NAG(NEGATIVES[1], scale=3.0), push)
    expected = run(pipe, negative_guidance=methods, **two)
    base = build(tiny)
    base.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert_same(run(from_pipe(base), negative_guidance=methods, **two), expected)
        # the forward is the offloading's, of the hook that is there now
        assert denoiser(base).forward.__wrapped__ == denoiser(base)._old_forward


def test_half_precision_stays_finite_and_half(tiny: Any, run: Run, two: Any) -> None:
    base = build(tiny).to(torch.bfloat16)
    plain, pipe = run(base, **two), from_pipe(base)
    negatives = (always(NEGATIVES[0], mask=half()), always(NEGATIVES[1]))
    references = ["others", torch.rand(3, 64, 64), "first"] if tiny.reference_images else ["others"]
    for i, make in enumerate((NAG, ONG, VSF)):
        push = NegToMe(references[i % len(references)], mask=half(), reference_mask=half(), **PUSH)
        methods = taken(tiny, PerpNeg(*negatives), make(*negatives), push)
        result = run(pipe, negative_guidance=methods, **two)
        assert result.dtype == plain.dtype and result.shape == plain.shape
        assert torch.isfinite(result).all() and differ(result.float(), plain.float()) > 1e-3


# ---- Batches --------------------------------------------------------------------------------------------------------


def test_several_prompts_with_several_images_each_are_those_of_calls_of_their_own(
    pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    methods = taken(tiny, PerpNeg(always(NEGATIVES[0])), NAG(NEGATIVES[1], scale=3.0))
    together = run(pipe, [PROMPT, OTHER], steps=1, negative_guidance=methods, **two)
    # a second prompt's own image takes a draw of the second generator, which is the first prompt's second image's
    count = 1 if tiny.one_noise and tiny.image_of_each_prompt else 2
    assert_same(together[:count], run(pipe, steps=1, negative_guidance=methods, **two)[:count])
    if not tiny.one_noise:
        # inpainting draws the noise of the given image from the first generator alone
        assert_same(together[2:], run(pipe, OTHER, seed=2, steps=1, negative_guidance=methods, **two))


def test_one_branch_at_a_time_gives_the_same_with_nag(pipe: Any, run: Run, tiny: Any, two: Any) -> None:
    methods = taken(tiny, PerpNeg(*map(always, NEGATIVES)), NAG(NEGATIVES[1], scale=3.0))
    together = run(pipe, steps=1, negative_guidance=methods, **two)
    # where NAG's negative is rows of its own, it runs together with the prompt's
    limit = 2 if pipe.family.negative_rows else 1
    assert_same(run(pipe, steps=1, negative_guidance=methods, max_branch_batch=limit, **two), together)


# ---- The pipeline's own guidance ------------------------------------------------------------------------------------


@pytest.fixture
def predictions(monkeypatch: Any) -> Callable[[Any], list[torch.Tensor]]:
    """Keeps what a pipeline hands to its scheduler."""

    def keep(pipe: Any) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        step = pipe.scheduler.step

        def keeping(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append(prediction.double())
            return step(prediction, *args, **kwargs)

        monkeypatch.setattr(pipe.scheduler, "step", keeping)
        return seen

    return keep


@pytest.mark.families("sd", "sdxl", "sdxl-img2img", "sdxl-inpaint")
def test_guidance_rescale_comes_after_the_negatives(
    base: Any, pipe: Any, run: Run, unguided: Any, predictions: Any
) -> None:
    seen = predictions(base)
    for prompt in ("", PROMPT, NEGATIVES[0]):
        run(base, prompt, steps=1, **unguided)
    method = PerpNeg(always(NEGATIVES[0], weight=1.5))
    run(pipe, steps=1, negative_prompt="", negative_guidance=method, guidance_rescale=0.7)
    uncond, cond, negative, actual = seen
    guided = perp_neg(uncond, cond, negative[None], [1.5], SCALE)
    matched = guided * cond.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
    assert_same(actual, 0.7 * matched + 0.3 * guided)


@pytest.mark.families(
    "sd",
    "sd-inpaint",
    "sd-controlnet",
    "sd-controlnet-img2img",
    "sdxl",
    "sdxl-controlnet",
    "sdxl-union-inpaint",
)
def test_a_scale_that_a_callback_sets_counts_as_without_negatives(
    base: Any, pipe: Any, run: Run, tiny: Any
) -> None:
    """Some pipelines go on with the scale of the call."""

    def halve(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = SCALE / 2
        return {}

    check_identities(base, pipe, run, tiny, steps=4, callback_on_step_end=halve)


@pytest.mark.families("sd3")
def test_skipped_layers_guide_beside_the_negatives(base: Any, pipe: Any, run: Run, tiny: Any) -> None:
    arguments = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    }
    check_identities(base, pipe, run, tiny, steps=3, **arguments)
    assert differ(run(base, steps=3, **arguments), run(base, steps=3)) > 1e-3
    push = NegToMe(torch.rand(3, 64, 64), mask=torch.zeros(64, 64), **PUSH)
    assert_same(run(pipe, steps=3, negative_guidance=push, **arguments), run(base, steps=3, **arguments))


@pytest.mark.families("z-image")
def test_guidance_that_ends_or_is_bounded_takes_the_negatives_with_it(
    base: Any, pipe: Any, run: Run, tiny: Any
) -> None:
    for arguments in ({"cfg_truncation": 0.3}, {"cfg_normalization": True}):
        assert differ(run(base, steps=4, **arguments), run(base, steps=4)) > 1e-4
        check_identities(base, pipe, run, tiny, steps=4, **arguments)
    method = PerpNeg(always(NEGATIVES[0]))
    trace = run(pipe, steps=4, negative_guidance=method, cfg_truncation=0.3, trace=True, whole=True)[-1]
    assert trace.cosine.isnan().flatten().tolist() == [False, False, False, True]


@pytest.mark.families("sdxl", "sdxl-img2img")
def test_the_trace_has_the_timesteps_that_are_run(pipe: Any, run: Run, tiny: Any) -> None:
    method = NegToMe(torch.rand(3, 64, 64), **PUSH)
    part = {"strength": 0.8} if tiny.name == "sdxl-img2img" else {}
    trace = run(pipe, steps=5, negative_guidance=method, trace=True, whole=True, denoising_end=0.5, **part)[
        -1
    ]
    timesteps = pipe.scheduler.timesteps.tolist()
    assert trace.timesteps.tolist() == timesteps[len(part) : len(part) + len(trace.timesteps)]
    assert 0 < len(trace.timesteps) < 4


@pytest.mark.families("sdxl", "sdxl-img2img", "sdxl-controlnet", "sdxl-adapter", "sdxl-union")
def test_windows_count_the_steps_that_a_run_cut_off_still_has(
    pipe: Any, run: Run, tiny: Any, two: Any
) -> None:
    arguments = {"steps": 4, "denoising_end": 0.5, **({"strength": 1.0} if "strength" in tiny.call() else {})}
    with pytest.raises(ValueError, match="holds none of the 2 steps"):
        run(pipe, negative_guidance=NegToMe(stop=0.4), **arguments, **two)
    plain = run(pipe, **arguments, **two)
    assert (
        differ(run(pipe, negative_guidance=NegToMe(**{**PUSH, "stop": 0.5}), **arguments, **two), plain)
        > 1e-3
    )


def wan_with_two_denoisers() -> Any:
    base: Any = tiny_unet_and_cross.wan()
    base.register_modules(transformer_2=tiny_unet_and_cross.wan().transformer)
    with torch.no_grad():
        for parameter in base.transformer_2.parameters():
            parameter.mul_(1.1)
    base.register_to_config(boundary_ratio=0.9)
    return base


@pytest.mark.families("wan")
def test_two_denoisers_take_turns_with_a_scale_each(
    run: Run, tiny: Any, unguided: Any, two: Any, predictions: Any
) -> None:
    base = wan_with_two_denoisers()
    pipe, scales = from_pipe(base), {"guidance_scale": SCALE, "guidance_scale_2": 2.0}
    check_identities(base, pipe, run, tiny, steps=3, **scales)
    assert differ(run(base, steps=3, **scales), run(base, steps=3)) > 1e-3
    pushed = run(pipe, steps=3, negative_guidance=NegToMe("first", **PUSH), **scales, **two)
    assert_same(pushed[:1], run(base, steps=3, **scales, **two)[:1])
    # one step of the second denoiser alone
    base.register_to_config(boundary_ratio=2.0)
    seen = predictions(base)
    for prompt in ("", PROMPT, NEGATIVES[0]):
        run(base, prompt, steps=1, **unguided)
    pipe = from_pipe(base)
    run(pipe, steps=1, negative_prompt="", negative_guidance=PerpNeg(always(NEGATIVES[0])), **scales)
    uncond, cond, negative, actual = seen
    assert_same(actual, perp_neg(uncond, cond, negative[None], [1.0], 2.0))
