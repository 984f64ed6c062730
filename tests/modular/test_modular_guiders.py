"""The guider alone, on given predictions: its formulas around each of diffusers' guiders, its steps, its JSON."""

from typing import Any

import diffusers
import diffusers.guiders
import pytest
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.guiders import MagnitudeAwareGuidance, frequency_decoupled_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from diffusers.hooks import LayerSkipConfig
from diffusers.modular_pipelines.modular_pipeline import BlockState

from negguide import Negative, PerpNeg, PerpNegGuidance
from negguide.guidance import perp_neg, perpendicular

KIND = "__guidance_identifier__"
TWO = PerpNeg(Negative("black glasses", weight=1.5, stop=1.0), Negative("a hat", weight=0.5, stop=1.0))
WEIGHTS = [1.5, 0.5]
SHAPE = (2, 4, 8, 8)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


U, C, SKIPPED = (drawn(seed, *SHAPE) for seed in (1, 2, 3))
NEGATIVES = drawn(4, 2, *SHAPE)
CLEANED = perp_neg(U, C, NEGATIVES, WEIGHTS, 1.0)
"""c - S: u + (p - S)."""


def batches_of(guider: Any, step: int, steps: int = 4, **more: Any) -> list[BlockState]:
    """The batches of one step, in which each prediction is what the denoiser would be given as its text."""
    guider.set_state(step=step, num_inference_steps=steps, timestep=torch.tensor(step))
    return guider.prepare_inputs({"text": (C, U), **more})


def step_of(guider: Any, step: int, steps: int = 4) -> Any:
    """One step of a denoising loop."""
    if isinstance(guider, PerpNegGuidance) and (step == 0 or guider._run.texts is None):
        guider.begin_run()
        guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    batches = batches_of(guider, step, steps)
    for batch in batches:
        kind = getattr(batch, KIND)
        batch.noise_pred = batch.text
        if kind in ("pred_cond_skip", "pred_cond_seg"):
            batch.noise_pred = SKIPPED
        if kind.startswith("pred_negative"):
            assert torch.equal(batch.text[0], NEGATIVES[int(kind[-1]), 0])
            batch.noise_pred = NEGATIVES[int(kind[-1])]
    return guider(batches)


def guided(inner: Any, step: int = 2, method: PerpNeg = TWO) -> torch.Tensor:
    output = step_of(PerpNegGuidance(method, guidance=inner), step)
    assert torch.equal(output.pred_cond, C) and torch.equal(output.pred_uncond, U)
    return output.pred


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# ---- Formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("scale", [0.5, 1.5, 7.5])
def test_classifier_free_guidance_becomes_the_formula(scale: float, rescale: float, original: bool) -> None:
    guider = PerpNegGuidance(
        TWO, guidance_scale=scale, guidance_rescale=rescale, use_original_formulation=original
    )
    # c + g (c - u) is u + (g + 1) (c - u)
    expected = perp_neg(U, C, NEGATIVES, WEIGHTS, scale + original)
    if rescale:
        expected = rescale_noise_cfg(expected, C, rescale)
    close(step_of(guider, 1).pred, expected)


def perturbed(**changes: Any) -> Any:
    return PerturbedAttentionGuidance(perturbed_guidance_stop=1.0, perturbed_guidance_layers=[0], **changes)


def skipping(**changes: Any) -> Any:
    config = LayerSkipConfig(indices=[0], fqn="blocks")
    return SkipLayerGuidance(skip_layer_guidance_stop=1.0, skip_layer_config=config, **changes)


def smoothed(**changes: Any) -> Any:
    return SmoothedEnergyGuidance(seg_guidance_layers=[0], **changes)


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("make", [perturbed, skipping, smoothed])
def test_guiders_with_a_third_prediction_add_their_term_to_the_formula(make: Any, original: bool) -> None:
    inner = make(guidance_scale=5.0, use_original_formulation=original)
    own = 2.8  # the default of all three
    close(guided(inner), perp_neg(U, C, NEGATIVES, WEIGHTS, 5.0 + original) + own * (C - SKIPPED))


def test_a_third_prediction_without_an_unconditional_one_leaves_no_room_for_negatives() -> None:
    inner = perturbed(guidance_scale=5.0, stop=0.5)
    guider = PerpNegGuidance(TWO, guidance=inner)
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    kinds = [getattr(batch, KIND) for batch in batches_of(guider, 3)]
    assert kinds == ["pred_cond", "pred_cond_skip"] and guider.num_conditions == 2


BENDING = [
    lambda: AdaptiveProjectedGuidance(guidance_scale=5.0, eta=0.3, adaptive_projected_guidance_rescale=9.0),
    lambda: AdaptiveProjectedGuidance(guidance_scale=5.0, use_original_formulation=True),
    lambda: AdaptiveProjectedMixGuidance(guidance_scale=5.0, adaptive_projected_guidance_start_step=1),
    lambda: ClassifierFreeZeroStarGuidance(guidance_scale=5.0, guidance_rescale=0.5),
    lambda: TangentialClassifierFreeGuidance(guidance_scale=5.0),
]


@pytest.mark.parametrize("make", BENDING)
def test_guiders_that_bend_the_direction_bend_that_of_perp_neg(make: Any) -> None:
    alone = make()
    alone.set_state(step=2, num_inference_steps=4, timestep=None)
    expected = alone.forward(CLEANED, U).pred
    close(guided(make()), expected)
    assert float((expected - step_of(make(), 2).pred).abs().max()) > 0.1


def test_adaptive_projected_guidance_is_its_formula_on_the_direction_of_perp_neg() -> None:
    inner = AdaptiveProjectedGuidance(guidance_scale=5.0, eta=0.0, adaptive_projected_guidance_rescale=9.0)
    direction, cond = (CLEANED - U).double().flatten(1), CLEANED.double().flatten(1)
    clipped = direction * (9.0 / direction.norm(dim=1, keepdim=True)).clamp(max=1.0)
    along = cond / cond.norm(dim=1, keepdim=True)
    across = clipped - (clipped * along).sum(1, keepdim=True) * along
    close(guided(inner), U + 5.0 * across.view(SHAPE).float())


def test_adaptive_projected_guidance_that_does_nothing_leaves_the_formula() -> None:
    inner = AdaptiveProjectedGuidance(guidance_scale=5.0, adaptive_projected_guidance_rescale=0.0)
    close(guided(inner), perp_neg(U, C, NEGATIVES, WEIGHTS, 5.0))


def test_its_momentum_starts_anew_with_each_run() -> None:
    def run(guider: Any) -> list[torch.Tensor]:
        return [step_of(guider, step, 3).pred for step in range(3)]

    inner = AdaptiveProjectedGuidance(
        guidance_scale=5.0,
        adaptive_projected_guidance_momentum=-0.5,
        adaptive_projected_guidance_rescale=0.0,
    )
    guider = PerpNegGuidance(TWO, guidance=inner)
    first, second = run(guider), run(guider)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert float((first[1] - first[0]).abs().max()) > 0.1


def test_cfg_zero_star_is_its_formula_on_the_cleaned_prediction() -> None:
    alpha = (CLEANED * U).flatten(1).sum(1) / (U * U).flatten(1).sum(1)
    base = alpha.view(-1, 1, 1, 1) * U
    close(guided(ClassifierFreeZeroStarGuidance(guidance_scale=5.0)), base + 5.0 * (CLEANED - base))
    assert not guided(ClassifierFreeZeroStarGuidance(guidance_scale=5.0), step=0).any()


def test_magnitude_aware_guidance_is_its_formula_on_the_direction_of_perp_neg() -> None:
    # diffusers takes its norms over two axes only, so that it works on packed predictions
    uncond, cond, cleaned = (tensor.flatten(2) for tensor in (U, C, CLEANED))
    guider = PerpNegGuidance(TWO, guidance=MagnitudeAwareGuidance(guidance_scale=5.0, alpha=0.5))
    guider.set_negatives([{"text": negative.flatten(2)} for negative in NEGATIVES])
    guider.set_state(step=0, num_inference_steps=4, timestep=None)
    batches = guider.prepare_inputs({"text": (cond, uncond)})
    for batch in batches:
        batch.noise_pred = batch.text
    direction = cleaned - uncond
    scale = 1 + (5.0 - 1) * torch.exp(-0.5 * direction.flatten(1).norm(dim=1) / uncond.flatten(1).norm(dim=1))
    close(guider(batches).pred, uncond + scale.view(-1, 1, 1) * direction)


def test_frequency_decoupled_guidance_has_perp_neg_in_each_band(monkeypatch: pytest.MonkeyPatch) -> None:
    def low(x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(-2, -1), keepdim=True)

    # kornia, which makes the pyramids, is no part of the tests: two bands are enough, the mean and the rest
    monkeypatch.setattr(frequency_decoupled_guidance, "_CAN_USE_KORNIA", True)
    monkeypatch.setattr(
        frequency_decoupled_guidance, "build_laplacian_pyramid_func", lambda x, levels: [x - low(x), low(x)]
    )
    monkeypatch.setattr(frequency_decoupled_guidance, "upsample_and_blur_func", lambda x: x)
    inner = frequency_decoupled_guidance.FrequencyDecoupledGuidance(guidance_scales=[10.0, 3.0])
    strong, weak = (perp_neg(U, C, NEGATIVES, WEIGHTS, scale) for scale in (10.0, 3.0))
    close(guided(inner), strong - low(strong) + low(weak))


# ---- Steps ----------------------------------------------------------------------------------------------------------


def test_batches_are_those_of_the_guider_and_of_the_negatives_whose_window_is_open() -> None:
    method = PerpNeg(Negative("black glasses", stop=0.5), Negative("a hat", start=0.5, stop=1.0))
    guider = PerpNegGuidance(method, guidance_scale=5.0, stop=0.75)
    assert guider.num_conditions == 4
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    kinds = [[getattr(batch, KIND) for batch in batches_of(guider, step)] for step in range(4)]
    two = ["pred_cond", "pred_uncond"]
    assert kinds == [[*two, "pred_negative_0"]] * 2 + [[*two, "pred_negative_1"], ["pred_cond"]]
    assert guider.num_conditions == 1
    guider.end_step()
    assert guider.num_conditions == 4


def test_a_negative_is_asked_every_so_many_steps_and_its_last_perpendicular_part_counts_in_between() -> None:
    method = PerpNeg(*(Negative(str(k), weight=w, stop=1.0) for k, w in enumerate(WEIGHTS)), refresh_every=2)
    guider = PerpNegGuidance(method, guidance_scale=5.0)
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    later = drawn(9, *SHAPE)
    asked = []
    for step, uncond in enumerate((U, later, U)):
        batches = batches_of(guider, step)
        asked.append(len(batches) - 2)
        for batch in batches:
            kind = getattr(batch, KIND)
            batch.noise_pred = {"pred_cond": C, "pred_uncond": uncond}.get(kind)
            if batch.noise_pred is None:
                batch.noise_pred = NEGATIVES[int(kind[-1])]
        pred = guider(batches).pred
        lengths = [(C - u).flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for u in (uncond, U)]
        across = torch.stack([perpendicular(negative - U, C - U) for negative in NEGATIVES])
        close(pred, perp_neg(uncond, C, uncond + lengths[0] / lengths[1] * across, WEIGHTS, 5.0))
    assert asked == [2, 0, 2]
    # the next run begins with a question
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    assert len(batches_of(guider, 0)) == 4


def steps_of(guider: Any, steps: int) -> list[tuple[list[str], Any]]:
    """The kinds of batches and the output of each step of a run, in which the prompt's prediction moves."""
    found = []
    guider.begin_run()
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES[: len(guider.perp_neg.negatives)]])
    for step in range(steps):
        batches = batches_of(guider, step, steps)
        kinds = [getattr(batch, KIND) for batch in batches]
        assert guider.num_conditions == len(kinds)
        for kind, batch in zip(kinds, batches, strict=True):
            shared = {"pred_cond": C + 0.1 * step, "pred_uncond": U}
            batch.noise_pred = shared[kind] if kind in shared else NEGATIVES[int(kind[-1])]
        found.append((kinds, guider(batches)))
    return found


def test_behind_the_end_of_guidance_there_is_the_conditional_prediction_alone() -> None:
    method = PerpNeg(*TWO.negatives, guidance_stop=0.5)
    for rescale in (0.0, 0.7):
        guider = PerpNegGuidance(method, guidance_scale=5.0, guidance_rescale=rescale)
        for step, (kinds, output) in enumerate(steps_of(guider, 4)):
            cond = C + 0.1 * step
            if step < 2:
                assert kinds == ["pred_cond", "pred_uncond", "pred_negative_0", "pred_negative_1"]
                expected = perp_neg(U, cond, NEGATIVES, WEIGHTS, 5.0)
                close(output.pred, rescale_noise_cfg(expected, cond, rescale) if rescale else expected)
            else:
                assert kinds == ["pred_cond"]
                close(output.pred, cond)
                assert torch.equal(output.pred_cond, cond)


def test_economy_goes_on_with_the_last_direction_where_it_makes_no_unconditional_prediction() -> None:
    method = PerpNeg(Negative("a", weight=1.5, stop=1.0), economy=True)
    guider = PerpNegGuidance(method, guidance_scale=5.0)
    direction = torch.empty(0)
    for step, (kinds, output) in enumerate(steps_of(guider, 6)):
        cond = C + 0.1 * step
        without = step in (3, 5)
        assert kinds == ["pred_cond", *([] if without else ["pred_uncond"]), "pred_negative_0"]
        if not without:
            direction = cond - U
        close(output.pred, perp_neg(cond - direction, cond, NEGATIVES[:1], [1.5], 5.0))


def test_economy_makes_an_unconditional_prediction_where_guidance_begins() -> None:
    method = PerpNeg(Negative("a", weight=1.5, stop=1.0), economy=True)
    guider = PerpNegGuidance(method, guidance_scale=5.0, start=0.5)
    kinds = [kinds for kinds, _ in steps_of(guider, 6)]
    # the fourth step would go on with the last direction, and there is none
    whole = ["pred_cond", "pred_uncond", "pred_negative_0"]
    assert kinds == [["pred_cond"]] * 3 + [whole, whole, ["pred_cond", "pred_negative_0"]]


@pytest.mark.parametrize(
    "make", [perturbed, skipping, smoothed, *BENDING], ids=lambda make: getattr(make, "__name__", "bending")
)
def test_guiders_that_need_every_prediction_refuse_to_leave_some_out(make: Any) -> None:
    inner = make() if make in BENDING else make(guidance_scale=5.0)
    name = type(inner).__name__
    for options, says in (
        ({"economy": True}, f"economy=True leaves out unconditional predictions, which {name}"),
        ({"guidance_stop": 0.5}, f"guidance_stop=0.5 leaves out unconditional predictions, which {name}"),
    ):
        with pytest.raises(ValueError, match=says):
            PerpNegGuidance(PerpNeg("hat", **options), guidance=inner)
    # an automatic weight needs no less
    PerpNegGuidance(PerpNeg(Negative("hat", weight="auto")), guidance=inner)


def test_adaptive_negatives_are_no_longer_asked_for_once_they_rest() -> None:
    method = PerpNeg(*(Negative(str(k), weight=w, stop=1.0) for k, w in enumerate(WEIGHTS)), adaptive=True)
    guider = PerpNegGuidance(method, guidance_scale=5.0)
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    asked = []
    for step, size in enumerate((1.0, 0.1, 1.0)):
        batches = batches_of(guider, step)
        asked.append(len(batches) - 2)
        for batch in batches:
            kind = getattr(batch, KIND)
            batch.noise_pred = {"pred_cond": C, "pred_uncond": U}.get(kind)
            if batch.noise_pred is None:
                k = int(kind[-1])
                batch.noise_pred = U + (size if k == 0 else 1.0) * (NEGATIVES[k] - U)
        guider(batches)
    assert asked == [2, 2, 1]


def test_a_step_ends_with_the_guidance() -> None:
    guider = PerpNegGuidance(TWO, guidance_scale=5.0, stop=0.5)
    assert torch.equal(step_of(guider, 3).pred, C)
    assert guider.num_conditions == 4 and guider.guidance.num_conditions == 2


def test_only_the_unconditional_prediction_is_none_of_the_prompt() -> None:
    guider = PerpNegGuidance(TWO, guidance=perturbed(guidance_scale=5.0))
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    model = torch.nn.Linear(1, 1)
    conditional = []
    assert not guider.is_conditional
    for _ in batches_of(guider, 0):
        guider.prepare_models(model)
        conditional.append(guider.is_conditional)
        guider.cleanup_models(model)
    assert conditional == [True, False, True, True]
    # what the guider does to a model it does for its own predictions
    assert guider._run.guidance._count_prepared == 2


def test_values_that_diffusers_drops_are_kept() -> None:
    guider = PerpNegGuidance(TWO, guidance_scale=5.0)
    guider.set_negatives([{"text": negative[:1]} for negative in NEGATIVES])
    for batch in batches_of(guider, 0, shapes=[(1, 4, 4)], flag=True, shared=U):
        assert batch.shapes == [(1, 4, 4)] and batch.flag is True and torch.equal(batch.shared, U)


def test_text_takes_the_dtype_and_the_number_of_rows_of_the_prompt() -> None:
    guider = PerpNegGuidance(PerpNeg("black glasses"), guidance_scale=5.0)
    guider.set_negatives([{"rows": [drawn(1, 3, 5)], "table": drawn(2, 1, 3, 5), "mask": torch.ones(1, 3)}])
    guider.set_state(step=0, num_inference_steps=4, timestep=None)
    half = drawn(3, 2, 7, 5).half()
    data = {"rows": ([*half], [*half]), "table": (half, half), "mask": (torch.ones(2, 7).bool(), half)}
    negative = guider.prepare_inputs(data)[-1]
    assert [row.shape for row in negative.rows] == [(3, 5)] * 2 and negative.rows[0].dtype == torch.half
    assert negative.table.shape == (2, 3, 5) and negative.table.dtype == torch.half
    assert negative.mask.shape == (2, 3) and negative.mask.dtype == torch.bool


# ---- Configuration --------------------------------------------------------------------------------------------------


def masked() -> PerpNeg:
    mask = torch.zeros(8, 8)
    mask[:, :3] = 0.25
    return PerpNeg(Negative("black glasses", weight=2.0, start=0.1, stop=0.9, mask=mask), "a hat", joint=True)


@pytest.mark.parametrize(
    "guider",
    [
        lambda: PerpNegGuidance(TWO, guidance_scale=3.5, guidance_rescale=0.25, stop=0.75),
        lambda: PerpNegGuidance(masked(), use_original_formulation=True, enabled=False),
        lambda: PerpNegGuidance(TWO, guidance=AdaptiveProjectedGuidance(guidance_scale=3.5, eta=0.5)),
        lambda: PerpNegGuidance(TWO, guidance=perturbed(guidance_scale=3.5)),
        lambda: PerpNegGuidance(TWO, guidance=skipping(guidance_scale=3.5)),
    ],
)
def test_a_guider_comes_back_from_its_folder_and_its_config(guider: Any, tmp_path: Any) -> None:
    original = guider()
    original.save_pretrained(str(tmp_path))
    for again in (PerpNegGuidance.from_pretrained(str(tmp_path)), original.new()):
        assert again.perp_neg == original.perp_neg
        assert type(again.guidance) is type(original.guidance)
        assert again.guidance.to_json_string() == original.guidance.to_json_string()
        assert again.to_json_string() == original.to_json_string()
        assert again._enabled == original._enabled
        assert torch.equal(step_of(again, 1).pred, step_of(original, 1).pred)


def test_new_changes_the_guider_of_its_own() -> None:
    guider = PerpNegGuidance(TWO, guidance_scale=3.5).new(guidance_scale=5.0)
    assert guider.guidance_scale == 5.0 and guider.perp_neg == TWO
    wrapped = PerpNegGuidance(TWO, guidance=AdaptiveProjectedGuidance(guidance_scale=3.5))
    with pytest.raises(ValueError, match="cannot be given beside guidance=AdaptiveProjectedGuidance"):
        wrapped.new(guidance_scale=5.0)


def test_one_switch_turns_both() -> None:
    inner = AdaptiveProjectedGuidance(guidance_scale=3.5)
    guider = PerpNegGuidance(TWO, guidance=inner)
    guider.disable()
    assert not inner._enabled and guider.num_conditions == 1 and torch.equal(step_of(guider, 1).pred, C)
    inner.enable()
    assert guider._enabled and guider.num_conditions == 4


# ---- Refusals -------------------------------------------------------------------------------------------------------


class Custom(ClassifierFreeGuidance):
    pass


# diffusers has it since 0.41
NEWER: list[tuple[Any, str]] = (
    [(lambda: diffusers.LTX2Guidance(guidance_scale=3.0), "LTX2Guidance .* LTX-2 denoiser names its")]
    if hasattr(diffusers, "LTX2Guidance")
    else []
)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (lambda: AutoGuidance(auto_guidance_layers=[0], dropout=0.5), "AutoGuidance .* of a weakened model"),
        (lambda: PerpNegGuidance(TWO), "Perp-Neg inside Perp-Neg would subtract twice; put all"),
        (lambda: Custom(), "Custom .* is not known here. Those that can: ClassifierFreeGuidance, Perturbed"),
        (lambda: ClassifierFreeGuidance(1.0), "guidance_scale of ClassifierFreeGuidance is 1.0, where"),
        (lambda: ClassifierFreeGuidance(0.0, 0.0, True), "guidance_scale of ClassifierFreeGuidance is 0.0"),
        (lambda: perturbed(guidance_scale=1.0), "guidance_scale of PerturbedAttentionGuidance is 1.0"),
        (lambda: ClassifierFreeGuidance(start=0.6), "acts from 0.0 to 0.5, and .* from 0.6 to 1.0"),
        *NEWER,
    ],
)
def test_guiders_that_cannot_have_negatives_are_refused(inner: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerpNegGuidance(PerpNeg("black glasses"), guidance=inner())


def test_every_guider_of_diffusers_is_either_taken_or_refused_with_a_reason() -> None:
    from negguide.integration.modular import combinations

    names = {name for name in dir(diffusers.guiders) if name.endswith("Guidance")} - {"BaseGuidance"}
    assert names <= {*combinations.LINEAR, *combinations.BENDING, *combinations.REFUSED}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"perp_neg must be a PerpNeg, e\.g\. .* got 'black glasses'"):
        PerpNegGuidance("black glasses")
    with pytest.raises(TypeError, match=r"guidance must be a guider of diffusers, got 7\.5"):
        PerpNegGuidance(TWO, guidance=7.5)
    with pytest.raises(ValueError, match="guidance_scale, stop cannot be given beside guidance=Class"):
        PerpNegGuidance(TWO, guidance_scale=5.0, stop=0.5, guidance=ClassifierFreeGuidance())
    with pytest.raises(ValueError, match=r"_class_name of guidance must be one of .* got 'AutoGuidance'"):
        PerpNegGuidance(TWO, guidance={"_class_name": "AutoGuidance"})
    guider = PerpNegGuidance(TWO)
    with pytest.raises(ValueError, match="texts must be one for each of the 2 negatives, got 1"):
        guider.set_negatives([{"text": U}])
    guider.set_negatives([{"words": U[:1]}] * 2)
    with pytest.raises(ValueError, match="encoded as words, and this denoiser takes text"):
        batches_of(guider, 0)
