"""Perp-Neg beside nodes that change the predictions, and samplers that renoise with one of them."""

from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_fresca import FreSca
from comfy_extras.nodes_latent import LatentApplyOperationCFG
from tiny import NEGATIVE, SAME, first, perp_neg, rms, run, unet

STEPS, SCALE = 8, 4.0
NODES = {
    "FreSca": lambda model: first(FreSca.execute(model, 1.0, 1.25, 4)),
    "APG": lambda model: first(APG.execute(model, 1.0, 5.0, 0.0)),
    "LatentApplyOperationCFG": lambda model: first(LatentApplyOperationCFG.execute(model, halved)),
}


def halved(latent: torch.Tensor) -> torch.Tensor:
    return latent / 2


@pytest.fixture(scope="module")
def model() -> Any:
    return unet()


class Seen:
    """The model's predictions before any node sees them, and what comes behind guidance; one of each for a step."""

    def __init__(self, model: Any) -> None:
        # no methods in the model: an older ComfyUI copies what they belong to
        before: list[tuple[float, torch.Tensor, torch.Tensor]] = []
        behind: list[dict[str, Any]] = []

        def keep_predictions(arguments: dict[str, Any]) -> Any:
            c, u = arguments["conds_out"]
            before.append((float(arguments["sigma"][0]), c.clone(), u.clone()))
            return arguments["conds_out"]

        def keep_result(arguments: dict[str, Any]) -> torch.Tensor:
            behind.append(arguments)
            return arguments["denoised"]

        self.before, self.behind = before, behind
        self.model = model.clone()
        self.model.set_model_sampler_pre_cfg_function(keep_predictions)
        self.model.set_model_sampler_post_cfg_function(keep_result)


@pytest.mark.parametrize("name", NODES)
def test_behind_the_end_of_guidance_the_prompts_prediction_alone_counts(model: Any, name: str) -> None:
    seen = Seen(model)
    run(perp_neg(NODES[name](seen.model), guidance_stop=0.5), steps=STEPS, cfg=SCALE)
    for i in range(STEPS):
        away = rms(seen.behind[i]["denoised"], seen.before[i][1])
        assert away < SAME if i >= STEPS // 2 else away > 100 * SAME


@pytest.mark.parametrize("name", [None, *NODES])
def test_economy_stands_in_for_a_prediction_before_other_nodes_see_it(model: Any, name: str | None) -> None:
    """c - p with the last p that the model predicted, in terms of its v, whatever a node made of it."""
    seen = Seen(model)
    given = seen.model if name is None else NODES[name](seen.model)
    asked = []

    def asks(executor: Any, inner: Any, conds: Any, *args: Any) -> Any:
        asked.append([cond is not None for cond in conds])
        return executor(inner, conds, *args)

    patched = perp_neg(given, economy=True)
    patched.add_wrapper_with_key("calc_cond_batch", "tests", asks)
    run(patched, steps=STEPS, cfg=SCALE)
    both = [len(conds) == 2 and conds[1] for conds in asked if len(conds) == 2]
    assert len(both) == STEPS and 1 < sum(both) < STEPS
    last = None
    for (sigma, c, u), evaluated in zip(seen.before, both, strict=True):
        # v of the two differs by so much for each (c - u)
        slope = sigma / (sigma**2 + 1) ** 0.5
        if evaluated:
            last = (c - u) / slope
        else:
            assert last is not None
            assert rms(u, c - last * slope) < 1e-5


def by_cfg_function(model: Any) -> Any:
    """Perp-Neg written out as a function in the place of guidance, which leaves both predictions as they are."""
    patched = model.clone()

    def guide(arguments: dict[str, Any]) -> torch.Tensor:
        x, inner, sigma = arguments["input"], arguments["model"], arguments["sigma"]
        conds = comfy.sampler_helpers.convert_cond(NEGATIVE)
        conds = comfy.samplers.encode_model_conds(inner.extra_conds, conds, x, x.device, "negative")
        (n,) = comfy.samplers.calc_cond_batch(inner, [conds], x, sigma, arguments["model_options"])
        c, u = arguments["cond_denoised"], arguments["uncond_denoised"]
        p, q = (c - u).flatten(1), (n - u).flatten(1)
        across = q - (q * p).sum(1, keepdim=True) / (p * p).sum(1, keepdim=True) * p
        return x - (u + arguments["cond_scale"] * (p - across).reshape(c.shape))

    patched.set_model_sampler_cfg_function(guide)
    return patched


SAMPLERS = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "gradient_estimation_cfg_pp",
]


@pytest.mark.parametrize("cfg", [0.6, 1.1, 4.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_renoise_do_so_with_the_negative_prompts_own_prediction(
    model: Any, sampler: str, cfg: float
) -> None:
    options = {"sampler": sampler, "cfg": cfg, "batch": 2, "steps": 4}
    found, right = run(perp_neg(model), **options), run(by_cfg_function(model), **options)
    assert rms(found, right) < SAME * max(1.0, float(right.abs().max()) / 10)
    assert rms(right, run(model, **options)) > 100 * SAME


@pytest.mark.parametrize("sampler", ["euler", "euler_cfg_pp"])
def test_nodes_behind_guidance_see_the_two_predictions_that_it_had(model: Any, sampler: str) -> None:
    seen = Seen(model)
    run(perp_neg(seen.model), sampler=sampler, cfg=SCALE, steps=2)
    for arguments, (_, _, u) in zip(seen.behind, seen.before, strict=True):
        c, instead = arguments["cond_denoised"], arguments["uncond_denoised"]
        assert rms(arguments["denoised"], instead + SCALE * (c - instead)) < SAME < rms(instead, u)
