"""Windows over the noise, and over steps, for every way of sampling that ComfyUI has."""

import math
from types import SimpleNamespace
from typing import Any

import comfy.model_sampling as kinds
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from negguide_pack.schedule import noisy_steps
from negguide_pack.windows import Steps, noise_gone
from tiny import NEGATIVE, SAME, in_attention, negative, negtome, perp_neg, rms, run, unet


@pytest.fixture(scope="module")
def model() -> Any:
    return unet()


@pytest.fixture(scope="module")
def lcm(model: Any) -> Any:
    return ModelSamplingDiscrete().patch(model, "lcm", False)[0]


def discrete(t: int) -> float:
    """sigma of the timestep t of 1000."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = float(torch.cumprod(1 - betas, 0)[t])
    return math.sqrt((1 - alpha) / alpha)


# a sampling, a sigma, and how much of the noise is gone there
GONE: dict[str, tuple[Any, float, float | None]] = {
    "discrete, all of it": (kinds.ModelSamplingDiscrete, discrete(999), 0.001),
    "discrete": (kinds.ModelSamplingDiscrete, discrete(400), 0.6),
    "cascade": (kinds.StableCascadeSampling, math.tan(0.5 * math.pi * 0.708 / 1.008), 0.3),
    "continuous v": (kinds.ModelSamplingContinuousV, math.tan(0.5 * math.pi * 0.7), 0.3),
    "cosmos": (kinds.ModelSamplingCosmosRFlow, 0.7 / 0.3, 0.3),
    "flow": ((kinds.ModelSamplingDiscreteFlow, kinds.CONST), 0.7, 0.3),
    "flux": ((kinds.ModelSamplingFlux, kinds.CONST), 0.7, 0.3),
    "edm": (kinds.ModelSamplingContinuousEDM, 2.0, None),
    "discrete edm": (kinds.ModelSamplingDiscreteEDM, 2.0, None),
}


@pytest.mark.parametrize("name", GONE)
def test_how_much_of_the_noise_is_gone_is_what_the_timestep_says(name: str) -> None:
    kind, sigma, gone = GONE[name]
    bases = kind if isinstance(kind, tuple) else (kind, kinds.V_PREDICTION)
    sampling = type("Sampling", bases, {})(SimpleNamespace(sampling_settings={"beta_schedule": "linear"}))
    found = noise_gone(SimpleNamespace(model_sampling=sampling), sigma)
    assert found is None if gone is None else found == pytest.approx(gone, abs=1e-3)


@pytest.mark.parametrize("sampling", ["lcm", "x0", "img_to_img", "img_to_img_flow"])
def test_other_samplings_of_a_discrete_model_have_its_timesteps(model: Any, sampling: str) -> None:
    if sampling not in ModelSamplingDiscrete.INPUT_TYPES()["required"]["sampling"][0]:
        pytest.skip("this ComfyUI has no such sampling")
    made = ModelSamplingDiscrete().patch(model, sampling, False)[0].get_model_object("model_sampling")
    for t in (999, 499, 19):
        found = noise_gone(SimpleNamespace(model_sampling=made), discrete(t))
        assert found == pytest.approx(1 - t / 1000, abs=1e-3)


def test_with_lcm_the_whole_noise_is_the_whole_run(lcm: Any) -> None:
    options = {"sampler": "lcm", "cfg": 1.0, "steps": 4, "scheduler": "sgm_uniform"}
    whole = run(in_attention("NAG", lcm, negative(unit="noise")), **options)
    assert torch.equal(whole, run(in_attention("NAG", lcm), **options))
    # at the timesteps 999, 759, 499 and 259
    half = run(in_attention("NAG", lcm, negative(unit="noise", stop=0.45)), **options)
    assert torch.equal(half, run(in_attention("NAG", lcm, negative(stop=0.5)), **options))
    assert rms(half, whole) > 10 * SAME


def test_with_lcm_negtome_acts_in_its_window(lcm: Any) -> None:
    options = {"sampler": "lcm", "cfg": 1.0, "steps": 4, "scheduler": "sgm_uniform", "batch": 2}
    found = run(negtome(lcm, stop=0.3, unit="noise"), **options)
    assert torch.equal(found, run(negtome(lcm, stop=0.5), **options))


def test_with_lcm_one_step_begins_with_noise(lcm: Any) -> None:
    sampling = SimpleNamespace(model_sampling=lcm.get_model_object("model_sampling"))
    sigmas = torch.tensor([discrete(t) for t in (999, 759, 499, 259)] + [0.0])
    assert noisy_steps(Steps(sigmas, sampling, False).at(sigmas[:1])) == 1


def test_steps_of_rising_sigmas_are_counted_in_their_order(model: Any) -> None:
    falling = torch.tensor([discrete(t) for t in (999, 749, 499, 249)] + [0.0])
    rising = falling.flip(0)
    rising[0] = 1e-4
    for sigmas in (falling, rising):
        steps = Steps(sigmas, model.model, False)
        assert [steps.at(sigma).index for sigma in sigmas[:-1]] == [0, 1, 2, 3]
        # a sampler of higher order asks between two
        between = 0.5 * (sigmas[1:] + sigmas[:-1])
        assert [steps.at(sigma).index for sigma in between] == [0, 1, 2, 3]


def test_an_image_is_turned_into_noise_with_a_negative_in_the_first_half(model: Any) -> None:
    sigmas = torch.tensor([1e-4] + [discrete(t) for t in (249, 499, 749, 999)])
    image = 0.5 * torch.randn(1, 4, 16, 16, generator=torch.manual_seed(7))
    still = {"noise": torch.zeros_like(image)}
    for patched, half in (
        (in_attention("NAG", model), in_attention("NAG", model, negative(stop=0.5))),
        (perp_neg(model), perp_neg(model, negative(NEGATIVE, stop=0.5))),
    ):
        begun = run(patched, sigmas=sigmas[:3], latent=image, **still)
        right = run(model, sigmas=sigmas[2:], latent=begun, **still)
        found = run(half, sigmas=sigmas, latent=image, **still)
        assert rms(found, right) < SAME < rms(right, run(model, sigmas=sigmas, latent=image, **still))


def test_sigmas_that_go_up_and_down_are_refused(model: Any) -> None:
    sigmas = torch.tensor([10.0, 5.0, 2.0, 4.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"sigmas must fall or rise .* got 10, 5, 2, 4, 1, 0"):
        run(in_attention("NAG", model), sigmas=sigmas)
