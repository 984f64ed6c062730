"""Guiders that order conditionings otherwise, or pass one alone: which is the prompt is told by what it is."""

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance
from tiny import (
    EMPTY,
    METHODS,
    PROMPT,
    SAME,
    first,
    guider,
    in_attention,
    negative,
    perp_neg,
    rms,
    run,
    text,
    unet,
)

MIDDLE = text(20)
AREA = (8, 16, 0, 0)


@pytest.fixture(scope="module")
def model() -> Any:
    return unet()


def alone(model: Any, conditioning: Any, **options: Any) -> torch.Tensor:
    """The prediction for one conditioning in the only step of a run."""
    return run(model, steps=1, cfg=1.0, positive=conditioning, **options)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("nested", [False, True])
def test_of_three_conditionings_the_prompts_is_guided(model: Any, name: str, nested: bool) -> None:
    by = custom.Guider_DualCFG(in_attention(name, model))
    by.set_conds(PROMPT, MIDDLE, EMPTY)
    by.set_cfg(3.0, 4.0, nested=nested)
    prompt, plain = alone(in_attention(name, model), PROMPT), alone(model, PROMPT)
    middle, empty = alone(model, MIDDLE), alone(model, EMPTY)
    if nested:
        right = empty + 4.0 * (middle + 3.0 * (prompt - middle) - empty)
    else:
        right = empty + 4.0 * (middle - empty) + 3.0 * (prompt - middle)
    assert rms(run(by, steps=1), right) < SAME
    assert rms(prompt, plain) > 100 * SAME


@pytest.mark.parametrize("name", METHODS)
def test_a_negative_prompt_that_is_predicted_alone_stays_as_it_is(model: Any, name: str) -> None:
    """Self-attention guidance predicts it once more: what it adds is the same with the method and without."""

    def with_sag(given: Any) -> torch.Tensor:
        return run(first(SelfAttentionGuidance.execute(given, 0.5, 2.0)), steps=1)

    found = with_sag(in_attention(name, model)) - with_sag(model)
    right = run(in_attention(name, model), steps=1) - run(model, steps=1)
    assert rms(found, right) < SAME < rms(right, torch.zeros_like(right))


@pytest.mark.parametrize("name", METHODS)
def test_a_guider_of_two_models_guides_the_prompts(model: Any, name: str) -> None:
    if not hasattr(custom, "Guider_DualModel"):
        pytest.skip("this ComfyUI has no such guider")
    by = custom.Guider_DualModel(in_attention(name, model), unet())
    by.set_conds(PROMPT, EMPTY)
    by.set_cfg(4.0)
    assert rms(run(by, steps=2), run(in_attention(name, model), steps=2)) < SAME


@pytest.mark.parametrize("name", METHODS)
def test_where_the_prompt_has_an_area_the_negative_prompt_stays_as_it_is(model: Any, name: str) -> None:
    """ComfyUI gives the negative prompt a copy of each area of the prompt, and the same uuid."""
    both = [*PROMPT, *text(21, area=AREA, strength=1.0)]
    scale = 4.0
    guided = run(in_attention(name, model), steps=1, positive=both, cfg=scale)
    plain = run(model, steps=1, positive=both, cfg=scale)
    # without a prediction of the negative prompt
    change = alone(in_attention(name, model), both) - alone(model, both)
    assert rms(guided - plain, scale * change) < SAME < rms(guided, plain)


@pytest.mark.parametrize("name", METHODS)
def test_where_the_negative_prompt_has_an_area_the_prompt_is_guided_there_too(model: Any, name: str) -> None:
    negatives = [*EMPTY, *text(22, area=AREA, strength=1.0)]
    scale = 4.0
    guided = run(in_attention(name, model), steps=1, negative=negatives, cfg=scale)
    plain = run(model, steps=1, negative=negatives, cfg=scale)
    # the prompt's copy of that area is guided as the prompt is, whose area this is then
    both = [*PROMPT, *[[PROMPT[0][0], {"pooled_output": None, "area": AREA, "strength": 1.0}]]]
    change = alone(in_attention(name, model), both) - alone(model, both)
    assert rms(guided - plain, scale * change) < SAME < rms(guided, plain)


def test_a_guider_without_a_prompt_is_refused_with_what_it_has(model: Any) -> None:
    by = comfy.samplers.CFGGuider(in_attention("NAG", model))
    by.inner_set_conds({"one": PROMPT, "other": EMPTY})
    with pytest.raises(ValueError, match="NAG acts on the prompt, and this guider has one, other, NAG"):
        run(by)


def test_perp_neg_is_refused_beside_a_guider_with_three_predictions(model: Any) -> None:
    by = Guider_PerpNeg(perp_neg(model))
    by.set_conds(PROMPT, text(30), EMPTY)
    by.set_cfg(4.0, 1.0)
    with pytest.raises(ValueError, match=r"this guider has 3 predictions \(PerpNegGuider computes Perp-Neg"):
        run(by)


def test_comfyuis_perp_neg_guider_and_the_node_agree_each_by_itself(model: Any) -> None:
    by = Guider_PerpNeg(model)
    by.set_conds(PROMPT, text(30), EMPTY)
    by.set_cfg(4.0, 1.0)
    assert rms(run(by), run(guider(perp_neg(model, negative(text(30)))))) < SAME


def test_a_call_whose_conditionings_are_not_known_is_refused(model: Any) -> None:
    """As by a node that cuts a batch into its parts and says so of their places alone."""
    cut = model.clone()

    def part_by_part(apply: Any, arguments: dict[str, Any]) -> torch.Tensor:
        c = dict(arguments["c"])
        c["transformer_options"] = {
            **c["transformer_options"],
            "cond_or_uncond": arguments["cond_or_uncond"][:1],
        }
        return apply(arguments["input"], arguments["timestep"], **c)

    cut.set_model_unet_function_wrapper(part_by_part)
    with pytest.raises(
        ValueError, match="NAG: the model is called with 1 conditionings, of which 2 are known"
    ):
        run(in_attention("NAG", cut), steps=1)
