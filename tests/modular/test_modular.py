"""Perp-Neg in the modular pipelines: against plain guidance, and against the classic pipelines."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    ClassifierFreeGuidance,
    ModularPipeline,
    ModularPipelineBlocks,
    SkipLayerGuidance,
)
from diffusers.hooks import LayerSkipConfig

import negguide
from negguide import EncodeNegatives, Negative, PerpNeg, PerpNegGuidance, with_perp_neg

PROMPT, OTHER = "a bear wearing a hat", "a cat in the snow"
SCALE = 4.0
Family = Callable[[str], Any]


def always(text: str, **changes: Any) -> Negative:
    return Negative(text, **{"start": 0.0, "stop": 1.0, **changes})


WHOLE = PerpNeg(always("black glasses", weight=1.5), always("a red robot", weight=0.5))
WINDOWS = PerpNeg(
    always("black glasses", weight=1.5, stop=0.5), always("a red robot wearing a hat", weight=0.5, start=0.25)
)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """No value differs by more than 1e-4, in units of the largest one where that is above 1."""
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4 * largest)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def left_half() -> torch.Tensor:
    mask = torch.zeros(32, 32)
    mask[:, :16] = 1
    return mask


# ---- Each family ----------------------------------------------------------------------------------------------------


def test_negatives_without_weight_leave_classifier_free_guidance(both: Any) -> None:
    off = PerpNeg(always("black glasses", weight=0), always("a red robot", weight=0))
    assert_same(both.run(with_perp_neg(both.pipe, off)), both.run(both.pipe))


@pytest.mark.main
def test_a_negative_equal_to_the_prompt_changes_nothing(both: Any) -> None:
    same = with_perp_neg(both.pipe, PerpNeg(always(PROMPT, weight=3)))
    assert_same(both.run(same), both.run(both.pipe))
    assert differ(both.run(same, prompt=OTHER), both.run(both.pipe, prompt=OTHER)) > 1e-3


@pytest.mark.main
def test_two_negatives_with_windows_are_those_of_the_classic_pipeline(both: Any) -> None:
    plain = both.run(both.pipe)
    assert_same(plain, both.run_classic(both.classic))
    guided = both.run(with_perp_neg(both.pipe, WINDOWS))
    assert differ(guided, plain) > 1e-2
    assert differ(guided, both.run(with_perp_neg(both.pipe, WHOLE))) > 1e-3
    assert_same(guided, both.run_classic(negguide.from_pipe(both.classic), negative_guidance=WINDOWS))


def test_joint_negatives_and_masks_are_those_of_the_classic_pipeline(both: Any) -> None:
    first = always("black glasses", mask=left_half())
    method = PerpNeg(first, always("a black frame"), joint=True)
    guided = both.run(with_perp_neg(both.pipe, method))
    assert_same(guided, both.run_classic(negguide.from_pipe(both.classic), negative_guidance=method))
    everywhere = PerpNeg(always("black glasses"), always("a black frame"), joint=True)
    assert differ(guided, both.run(with_perp_neg(both.pipe, everywhere))) > 1e-4


AUTO = Negative("black glasses", weight="auto", stop=1.0)
CHEAPER: dict[str, PerpNeg] = {
    "auto": PerpNeg(AUTO, always("a red robot", weight=0.5, stop=0.5)),
    "economy": PerpNeg(AUTO, always("a red robot", weight=0.5), economy=True),
    "guidance_stop": PerpNeg(always("black glasses", weight=1.5), guidance_stop=0.5),
}


@pytest.mark.parametrize("name", list(CHEAPER))
def test_automatic_and_cheaper_negatives_are_those_of_the_classic_pipeline(both: Any, name: str) -> None:
    method, steps = CHEAPER[name], 6
    guided = both.run(with_perp_neg(both.pipe, method), steps=steps)
    # with a forward for each branch, as the modular pipelines have: a weight that follows the predictions follows their
    # rounding too, which the forwards of several rows have another of
    classic = both.run_classic(
        negguide.from_pipe(both.classic), steps=steps, negative_guidance=method, max_branch_batch=1
    )
    assert_same(guided, classic)
    if name != "auto":
        every_step = PerpNeg(*method.negatives)
        assert differ(guided, both.run(with_perp_neg(both.pipe, every_step), steps=steps)) > 1e-4


def test_economy_and_the_end_of_guidance_leave_out_calls_of_the_model(both: Any) -> None:
    counts: list[int] = []
    handle = both.denoiser.register_forward_hook(lambda module, inputs, output: counts.append(len(output[0])))
    negative = always("black glasses", weight=1.5)
    try:
        for options, calls in (
            ({}, [3] * 6),
            ({"guidance_stop": 0.5}, [3] * 3 + [1] * 3),
            # the unconditional prediction in the first two fifths and then in every second step
            ({"economy": True}, [3, 3, 3, 2, 3, 2]),
        ):
            counts.clear()
            both.run(with_perp_neg(both.pipe, PerpNeg(negative, **options)), steps=6)
            assert sum(counts) == sum(calls), options
    finally:
        handle.remove()


def test_the_trace_is_that_of_the_classic_pipeline(both: Any) -> None:
    guider = PerpNegGuidance(WINDOWS, guidance=both.pipe.guider, trace=True)
    pipe = with_perp_neg(both.pipe, guider)
    with pytest.raises(ValueError, match="trace is that of the last run, and there was none"):
        _ = guider.trace
    assert_same(both.run(pipe, images=2), both.run(with_perp_neg(both.pipe, WINDOWS), images=2))
    # the second run's, not both
    both.run(pipe, images=2)
    classic = both.trace_of_classic(
        negguide.from_pipe(both.classic), images=2, negative_guidance=WINDOWS, trace=True
    )
    assert guider.trace.negatives == classic.negatives
    for name in ("timesteps", "cosine", "kept"):
        one, other = getattr(guider.trace, name), getattr(classic, name)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3, equal_nan=True)
    packed = both.family.name in ("qwen-image", "flux2-klein")
    assert set(guider.trace.maps) == (set() if packed else set(classic.maps))
    for name, values in guider.trace.maps.items():
        torch.testing.assert_close(values, classic.maps[name], rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match=r"trace is kept with PerpNegGuidance\(..., trace=True\) only"):
        _ = PerpNegGuidance(WINDOWS).trace


def test_several_images_of_several_prompts_are_those_of_the_classic_pipeline(both: Any) -> None:
    method = PerpNeg(always("black glasses"))
    classic = negguide.from_pipe(both.classic)
    # modular SDXL gives some of several images of several prompts the pooled embedding of another prompt
    batches = [(2, [PROMPT, OTHER])] if both.family.name != "sdxl" else [(1, [PROMPT, OTHER]), (2, [PROMPT])]
    for images, prompts in batches:
        guided = both.run(with_perp_neg(both.pipe, method), prompts, images=images, steps=2)
        assert len(guided) == images * len(prompts)
        expected = both.run_classic(classic, prompts, images=images, steps=2, negative_guidance=method)
        assert_same(guided, expected)


def test_closed_windows_cost_nothing_and_the_second_call_is_as_the_first(both: Any) -> None:
    calls: list[int] = []
    hook = both.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        pipe = with_perp_neg(both.pipe, WINDOWS)
        first = both.run(pipe)
        # the first negative in steps 0 and 1, the second from step 1 on
        assert len(calls) == 4 * 2 + 2 + 3
        assert torch.equal(both.run(pipe), first)
        assert len(calls) == 2 * (4 * 2 + 2 + 3)
    finally:
        hook.remove()


def test_the_call_after_one_that_broke_off_or_ended_without_guidance_is_as_ever(both: Any) -> None:
    inner = ClassifierFreeGuidance(guidance_scale=SCALE, stop=0.5)
    pipe = with_perp_neg(both.pipe, PerpNegGuidance(PerpNeg("black glasses"), guidance=inner))
    first = both.run(pipe)

    def fail(*_: Any) -> None:
        if pipe.guider._step == 3:
            raise RuntimeError("broken off")

    hook = both.denoiser.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken off"):
        both.run(pipe)
    hook.remove()
    assert pipe.guider.num_conditions == 1
    assert torch.equal(both.run(pipe), first)


def test_the_pipeline_itself_stays_as_it_is(both: Any) -> None:
    guider, plain = both.pipe.guider, both.run(both.pipe)
    both.run(with_perp_neg(both.pipe, WHOLE))
    assert both.pipe.guider is guider and "encode_negatives" not in both.pipe.blocks.sub_blocks
    assert torch.equal(both.run(both.pipe), plain)


def test_the_block_can_be_put_in_by_hand(both: Any) -> None:
    pipe = both.modular(
        both.family.blocks, lambda blocks: blocks.sub_blocks.insert("negatives", EncodeNegatives(), 0)
    )
    pipe.update_components(guider=PerpNegGuidance(WHOLE, guidance_scale=SCALE))
    assert torch.equal(both.run(pipe), both.run(with_perp_neg(both.pipe, WHOLE)))


# ---- Other pipelines and guiders ------------------------------------------------------------------------------------


def test_both_guiders_of_wan_2_2_get_the_negatives(family: Family) -> None:
    both = family("wan")
    second = deepcopy(both.classic.transformer)
    for parameter in second.parameters():
        parameter.data *= 1.1
    parts = both.classic.components | {"transformer_2": second}
    classic = diffusers.WanPipeline(**parts, boundary_ratio=0.9)
    blocks = diffusers.Wan22Blocks()
    blocks.sub_blocks.pop("decode")
    pipe = blocks.init_pipeline()
    pipe.update_components(**parts, boundary_ratio=0.9)
    pipe.update_components(guider=ClassifierFreeGuidance(SCALE), guider_2=ClassifierFreeGuidance(2.5))
    guided = both.run(with_perp_neg(pipe, WINDOWS))
    assert differ(guided, both.run(pipe)) > 1e-2
    expected = both.run_classic(negguide.from_pipe(classic), negative_guidance=WINDOWS, guidance_scale_2=2.5)
    assert_same(guided, expected)
    with pytest.raises(ValueError, match="the pipeline has 2 guiders"):
        with_perp_neg(pipe, PerpNegGuidance(WINDOWS))


def test_skipped_layers_are_skipped_for_the_guider_alone(family: Family) -> None:
    both = family("wan")
    pipe = both.modular(both.family.blocks)
    skip = SkipLayerGuidance(
        guidance_scale=SCALE,
        skip_layer_config=LayerSkipConfig(indices=[1], fqn="blocks"),
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
    )
    plain = both.run(pipe)
    pipe.update_components(guider=skip)
    skipping = both.run(pipe)
    assert differ(skipping, plain) > 1e-3
    off = PerpNeg(always("black glasses", weight=0))
    assert_same(both.run(with_perp_neg(pipe, off)), skipping)
    assert differ(both.run(with_perp_neg(pipe, WHOLE)), skipping) > 1e-3
    # in step 0 nothing is skipped yet: the model has its layers when the negatives run
    same = PerpNeg(always(PROMPT, weight=3))
    assert_same(both.run(with_perp_neg(pipe, same)), skipping)


def test_guidance_rescale_is_that_of_the_classic_pipeline(family: Family) -> None:
    both = family("sdxl")
    guider = PerpNegGuidance(WHOLE, guidance_scale=SCALE, guidance_rescale=0.7)
    guided = both.run(with_perp_neg(both.pipe, guider))
    classic = negguide.from_pipe(both.classic)
    assert_same(guided, both.run_classic(classic, negative_guidance=WHOLE, guidance_rescale=0.7))
    assert differ(guided, both.run(with_perp_neg(both.pipe, WHOLE))) > 1e-3


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_what_other_prompts_a_call_has_is_no_part_of_the_negatives(family: Family, name: str) -> None:
    both = family(name)
    prompts = {"prompt_2": OTHER, "negative_prompt": "snow", "negative_prompt_2": "a forest"}
    guided = both.run(with_perp_neg(both.pipe, WHOLE), **prompts)
    classic = negguide.from_pipe(both.classic)
    assert_same(guided, both.run_classic(classic, negative_guidance=WHOLE, **prompts))


def test_a_second_method_takes_the_place_of_the_first(family: Family) -> None:
    both = family("sd3")
    pipe = with_perp_neg(with_perp_neg(both.pipe, WHOLE), WINDOWS)
    assert pipe.guider.guidance is both.pipe.guider
    assert list(pipe.blocks.sub_blocks)[:2] == ["encode_negatives", "text_encoder"]
    assert torch.equal(both.run(pipe), both.run(with_perp_neg(both.pipe, WINDOWS)))


# ---- Saving ---------------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_comes_back_with_its_negatives(family: Family, tmp_path: Any) -> None:
    both = family("sd3")
    method = PerpNeg(always("black glasses", mask=left_half()), WINDOWS.negatives[1])
    pipe = with_perp_neg(both.pipe, method)
    before = both.run(pipe)
    pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)

    loaded = ModularPipeline.from_pretrained(str(tmp_path))
    loaded.load_components()
    assert isinstance(loaded.guider, PerpNegGuidance) and loaded.guider.guidance_scale == SCALE
    again = with_perp_neg(loaded)
    again._blocks.sub_blocks.pop("decode")
    assert_same(both.run(again), before)


def test_the_block_comes_back_from_its_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "block"
    EncodeNegatives().save_pretrained(str(folder))
    loaded = ModularPipelineBlocks.from_pretrained(str(folder), trust_remote_code=True)
    assert type(loaded) is EncodeNegatives


# ---- Refusals -------------------------------------------------------------------------------------------------------


def test_what_has_no_guider_or_is_no_modular_pipeline_is_refused(family: Family) -> None:
    both = family("z-image")
    with pytest.raises(TypeError, match="for classic pipelines there is negguide"):
        with_perp_neg(both.classic, WHOLE)
    with pytest.raises(TypeError, match="pipe must be a modular pipeline, got str"):
        with_perp_neg("z-image", WHOLE)
    with pytest.raises(ValueError, match="FluxModularPipeline has no guider"):
        with_perp_neg(diffusers.FluxAutoBlocks().init_pipeline(), WHOLE)

    class Mine(diffusers.QwenImageEditAutoBlocks):
        model_name = "mine"

    with pytest.raises(ValueError, match="does not know modular pipelines of 'mine'; supported: "):
        with_perp_neg(Mine().init_pipeline(), WHOLE)
    with pytest.raises(TypeError, match="method must be a PerpNeg, a PerpNegGuidance or None, got 'glasses'"):
        with_perp_neg(both.pipe, "glasses")
    with pytest.raises(ValueError, match="method is None, and guider of the pipeline is ClassifierFreeGuid"):
        with_perp_neg(both.pipe)
    with pytest.raises(ValueError, match="guider of the pipeline is switched off"):
        with_perp_neg(diffusers.ZImageAutoBlocks().init_pipeline(), WHOLE)
    denoising = both.modular(both.family.blocks, lambda blocks: blocks.sub_blocks.pop("text_encoder"))
    with pytest.raises(ValueError, match="has no step that makes prompt_embeds of prompt"):
        with_perp_neg(denoising, WHOLE)


def test_a_run_without_what_perp_neg_needs_is_refused(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = family("sd3")
    with pytest.raises(ValueError, match="has only one encoder_hidden_states; give negative_prompt=''"):
        both.run(with_perp_neg(both.pipe, WHOLE), negative_prompt=None)

    pipe = both.modular(both.family.blocks)
    pipe.update_components(guider=PerpNegGuidance(WHOLE))
    with pytest.raises(ValueError, match="has no encoded negatives: put the block EncodeNegatives in front"):
        both.run(pipe)

    pipe = with_perp_neg(both.pipe, WHOLE)
    pipe.update_components(guider=ClassifierFreeGuidance(SCALE))
    with pytest.raises(ValueError, match="EncodeNegatives found no PerpNegGuidance"):
        both.run(pipe)

    pipe = with_perp_neg(both.pipe, PerpNeg(always("black glasses", stop=0.1)))
    with pytest.raises(ValueError, match="holds none of the 4 steps"):
        both.run(pipe)

    pipe = with_perp_neg(both.pipe, PerpNeg(always("black glasses", mask=torch.ones(8, 24))))
    with pytest.raises(ValueError, match=r"mask of Negative\('black glasses'\) is 24x8"):
        both.run(pipe)

    pipe = with_perp_neg(both.pipe, WHOLE)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        monkeypatch.setattr(pipe, name, None)
    with pytest.raises(ValueError, match="needs the pipeline's text_encoder to encode negatives"):
        both.run(pipe)


def test_a_negative_is_read_to_its_end_or_refused_with_what_would_be_lost(both: Any) -> None:
    short = {"max_sequence_length": 24} if both.family.name == "qwen-image" else {}

    def guided(words: int, last: str) -> torch.Tensor:
        negative = always(" ".join([*["hat"] * (words - 1), last]))
        return both.run(with_perp_neg(both.pipe, PerpNeg(negative)), steps=2, **short)

    def reads(words: int) -> bool:
        arguments = {**both.family.both, **short}
        classic = negguide.from_pipe(both.classic)
        reading = classic.family.token_budget(classic, " ".join(["hat"] * words), arguments)
        return bool(reading.tokens <= reading.limit)

    longest = next(words for words in range(1, 60) if not reads(words + 1))
    assert differ(guided(longest, "robot"), guided(longest, "bear")) > 1e-5
    says = r"^prompt of Negative\(.* tokens long.*: 'robot' would be cut off; shorten it"
    with pytest.raises(ValueError, match=says):
        guided(longest + 1, "robot")


def test_distilled_models_are_refused(family: Family) -> None:
    klein = family("flux2-klein")
    pipe = klein.modular(klein.family.blocks)
    pipe.update_components(is_distilled=True)
    with pytest.raises(ValueError, match="is_distilled is True, so there is no unconditional prediction"):
        klein.run(with_perp_neg(pipe, WHOLE))

    sdxl = family("sdxl")
    pipe = sdxl.modular(sdxl.family.blocks)
    unet = deepcopy(sdxl.classic.unet)
    unet.register_to_config(time_cond_proj_dim=8)
    pipe.update_components(unet=unet)
    with pytest.raises(ValueError, match="this UNet is distilled"):
        sdxl.run(with_perp_neg(pipe, WHOLE))


def test_a_mask_needs_the_size_that_an_image_would_give(family: Family) -> None:
    both = family("flux2-klein")
    pipe = with_perp_neg(both.pipe, PerpNeg(always("black glasses", mask=left_half())))
    picture = __import__("tiny_joint").pil_picture()
    with pytest.raises(ValueError, match="needs height= and width="):
        both.run(pipe, image=picture, height=None, width=None)
    masked = both.run(pipe, image=picture)
    everywhere = both.run(with_perp_neg(both.pipe, PerpNeg(always("black glasses"))), image=picture)
    assert differ(masked, everywhere) > 1e-4


def test_a_switched_off_guider_runs_the_prompt_alone(family: Family) -> None:
    both = family("qwen-image")
    pipe = with_perp_neg(both.pipe, PerpNegGuidance(WHOLE, guidance_scale=SCALE))
    pipe.guider.disable()
    plain = both.modular(both.family.blocks)
    plain.guider.disable()
    assert torch.equal(both.run(pipe), both.run(plain))
    pipe.guider.enable()
    assert torch.equal(both.run(pipe), both.run(with_perp_neg(both.pipe, WHOLE)))
