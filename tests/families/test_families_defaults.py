"""`negguide.defaults`: what it says of a pipeline is true of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import NEGATIVES, TINY, differ

import negguide
from negguide import NAG, ONG, VSF, NegToMe, PerpNeg, Timestep
from negguide.integration.families import family_of, registered_families
from negguide.methods import NegativesMethod
from negguide.toyworld import load_pipeline
from negguide.toyworld.domain import TOYWORLD_DEFAULTS

Run = Callable[..., torch.Tensor]


@pytest.mark.main
def test_the_methods_that_a_pipeline_takes_act_in_it(
    base: Any, pipe: Any, run: Run, tiny: Any, two: dict[str, int]
) -> None:
    suited = negguide.defaults(base)
    assert negguide.defaults(pipe) == suited
    assert ("perp-neg" in suited.suggestions) == tiny.guided and ("perp-neg" in suited.refused) != tiny.guided
    assert negguide.defaults(type(base)).suggestions.keys() == suited.suggestions.keys()
    plain = run(base, **two)
    for key, suggestion in suited.suggestions.items():
        method = suggestion.method
        # tokens of random models are hardly alike
        words = isinstance(method, NegativesMethod)
        method = method.with_negatives(NEGATIVES[0]) if words else NegToMe(threshold=0.0)
        own = {name: value for name, value in suggestion.arguments.items() if "per_prompt" not in name}
        unaided = run(base, **{**two, **own}) if own else plain
        assert differ(run(pipe, negative_guidance=method, **{**two, **own}), unaided) > 1e-5, key


def test_where_guidance_is_on_perp_neg_comes_first_and_where_it_is_not_nag(bases: list[Any]) -> None:
    for tiny, base in zip(TINY, bases, strict=True):
        begin = negguide.defaults(base).begin_with
        assert begin in ("perp-neg", "nag"), tiny.name
        if not tiny.guided or type(base) is diffusers.FluxPipeline:
            assert begin == "nag", tiny.name
    assert negguide.defaults(diffusers.FluxPipeline)["perp-neg"].arguments == {
        "true_cfg_scale": 4.0,
        "negative_prompt": "",
    }
    assert negguide.defaults(diffusers.StableDiffusionXLPipeline).begin_with == "perp-neg"


def test_values_are_those_published_for_the_family() -> None:
    suited = negguide.defaults(diffusers.StableDiffusionXLPipeline)
    assert isinstance(suited["nag"].method, NAG) and suited["nag"].method.scale == 3.0
    assert suited["negtome"].method == NegToMe(threshold=0.7, stop=Timestep(800))
    assert suited["perp-neg"].method == PerpNeg("what to leave out")
    wan = negguide.defaults(diffusers.WanPipeline)["nag"].method
    assert isinstance(wan, NAG) and wan.scale == 9.0
    assert all(
        n.weight == 1.0 for one in suited.suggestions.values() for n in getattr(one.method, "negatives", ())
    )


def test_the_familys_values_stay_told_from_those_of_the_user() -> None:
    suited = negguide.defaults(diffusers.StableDiffusionXLPipeline)
    method = suited["negtome"].method
    assert isinstance(method, NegToMe) and method.defaulted == {"threshold", "stop"}
    assert method.windows[0].default and not NegToMe(threshold=0.7, stop=Timestep(800)).windows[0].default
    assert replace(method, alpha=0.5).windows[0].default
    assert not replace(method, stop=Timestep(700)).windows[0].default
    nag = suited["nag"].method
    assert isinstance(nag, NAG) and nag.with_negatives("snow").defaulted == {"scale"}


def test_the_embedded_model_has_values_of_its_own_and_others_of_its_class_do_not() -> None:
    embedded = load_pipeline()
    for suited in (negguide.defaults(embedded), negguide.defaults(negguide.from_pipe(embedded))):
        assert suited["vsf"].method == VSF("what to leave out", **TOYWORLD_DEFAULTS.arguments("vsf"))
        assert suited["nag"].method == NAG("what to leave out", **TOYWORLD_DEFAULTS.arguments("nag"))
        assert suited["ong"].method == ONG("what to leave out", **TOYWORLD_DEFAULTS.arguments("ong"))
        method = suited["negtome"].method
        assert isinstance(method, NegToMe)
        assert all(getattr(method, name) == value for name, value in TOYWORLD_DEFAULTS.negtome.items())
    same_class = negguide.defaults(type(embedded))
    for key, method in (("vsf", VSF), ("nag", NAG), ("ong", ONG)):
        assert same_class[key].method == method("what to leave out")


def test_it_prints_a_page_that_can_be_run(bases: list[Any]) -> None:
    page = str(
        negguide.defaults(next(base for base in bases if type(base) is diffusers.StableDiffusionPipeline))
    )
    assert "begin with perp-neg" in page
    assert "pipe(prompt, negative_guidance=PerpNeg('what to leave out'), guidance_scale=7.5)" in page
    assert "acts: 0-50% of the steps" in page and "num_images_per_prompt=4" in page
    assert "acts: t 1000-800" in page
    flux_2 = str(negguide.defaults(diffusers.Flux2Pipeline))
    assert (
        "perp-neg: FLUX.2 dev is guidance-distilled, so there is no second prediction; NAG, NASA, ONG"
        in flux_2
    )


def test_a_method_that_a_pipeline_does_not_take_is_refused_with_the_reason() -> None:
    suited = negguide.defaults(diffusers.Flux2Pipeline)
    with pytest.raises(KeyError, match="guidance-distilled"):
        suited["perp-neg"]
    with pytest.raises(KeyError, match=r"there is no method 'nagg'; known are .*nag"):
        suited["nagg"]
    with pytest.raises(ValueError, match="does not know ShapEPipeline"):
        negguide.defaults(diffusers.ShapEPipeline)


def test_every_family_knows_the_defaults_of_token_space() -> None:
    for family in registered_families():
        method = family.with_defaults(NegToMe())
        assert method.threshold is not None and method.stop is not None
    assert family_of(diffusers.FluxPipeline) is not None
