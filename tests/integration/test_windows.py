"""Windows by fractions of the steps and by places on the noise schedule."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SCMScheduler,
)

from negguide import NAG, Negative, NegToMe, PerpNeg, Timestep
from negguide.integration.families import registered_families
from negguide.integration.hooks.step_tracking import Step, StepTracker, check_windows, timesteps_of
from negguide.methods import Window, method_from_dict

FLUX: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def flux_schedule(steps: int, pixels: int) -> list[float]:
    """That of FluxPipeline: sigmas 1 to 1 / steps, shifted by the number of tokens."""
    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX)
    tokens = (pixels // 16) ** 2
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    return timesteps_of(scheduler)


def window(start: Any = 0.0, stop: Any = 1.0, default: bool = False) -> Window:
    return Window("NegToMe", start, stop, default)


@pytest.mark.parametrize(
    ("steps", "pixels", "inside"), [(25, 1024, 7), (28, 1024, 8), (50, 1024, 13), (25, 512, 5)]
)
def test_the_published_window_of_flux_holds_the_steps_that_the_published_code_runs(
    steps: int, pixels: int, inside: int
) -> None:
    times = flux_schedule(steps, pixels)
    (published,) = (
        next(f for f in registered_families() if f.name == "FLUX.1").with_defaults(NegToMe()).windows
    )
    assert (
        published.steps(times) == set(range(inside)) == {i for i, t in enumerate(times) if 900 <= t <= 1000}
    )


@pytest.mark.parametrize("steps", [25, 50])
def test_the_published_window_of_sdxl_is_a_fifth_of_its_steps(steps: int) -> None:
    scheduler = DDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(steps)
    sdxl = next(f for f in registered_families() if f.name == "Stable Diffusion XL")
    (published,) = sdxl.with_defaults(NegToMe()).windows
    assert published.steps(timesteps_of(scheduler)) == set(range(steps // 5))


def test_both_ends_of_a_window_by_timestep_are_inside() -> None:
    times = [1000.0, 900.0, 600.0, 300.0]
    assert window(Timestep(900), Timestep(600)).steps(times) == {1, 2}
    assert window(0.0, Timestep(900)).steps(times) == {0, 1}
    assert window(Timestep(900), 0.75).steps(times) == {1, 2}
    assert window(Timestep(899), Timestep(601)).steps(times) == frozenset()


def test_a_window_that_was_left_to_the_family_holds_a_step_and_another_need_not() -> None:
    image_to_image = [600.0, 400.0, 200.0]
    assert window(0.0, Timestep(900), default=True).steps(image_to_image) == {0}
    assert window(0.0, 0.5, default=True).steps([None]) == {0}
    assert window(0.0, 0.5).steps([None]) == window(0.0, Timestep(900)).steps(image_to_image) == frozenset()


def test_windows_that_hold_no_step_are_refused_in_words_that_say_what_to_give() -> None:
    four = Step(0, 4, schedule=(1000.0, 750.0, 500.0, 250.0))
    with pytest.raises(
        ValueError, match=r"stop=0.2 of NegToMe holds none of the 4 steps; .*give stop=0.25 or more"
    ):
        check_windows([NegToMe(stop=0.2)], four)
    check_windows([NegToMe(stop=0.25)], four)
    with pytest.raises(
        ValueError, match=r"start=0.5, stop=0.6 of Negative\('hat'\) .*give stop=0.75 or more"
    ):
        check_windows([NAG(Negative("hat", start=0.5, stop=0.6))], four)
    check_windows([NAG(Negative("hat", start=0.5, stop=0.75))], four)
    says = (
        r"start=Timestep\(900\), stop=Timestep\(800\) of NegToMe holds none .* timesteps 1000, 750, 500, 250"
    )
    with pytest.raises(ValueError, match=says):
        check_windows([NegToMe(start=Timestep(900), stop=Timestep(800))], four)
    with pytest.raises(ValueError, match=r"start=0.5, stop=0.5|start and stop"):
        PerpNeg(Negative("hat", start=0.5))
    # what was left to the method or the family acts in the first step
    check_windows([NegToMe(), PerpNeg("hat")], Step(0, 1, schedule=(600.0,)))


def test_a_run_without_a_known_schedule_says_so() -> None:
    with pytest.raises(ValueError, match="that of this run is not known; give fractions"):
        Step(0, 4).inside(window(0.0, Timestep(900)))


@pytest.mark.parametrize(
    ("start", "stop", "error", "says"),
    [
        (Timestep(300), Timestep(600), ValueError, "start must be noisier than stop"),
        (Timestep(300), Timestep(300), ValueError, "start must be noisier than stop"),
        (0.0, 900, ValueError, r"0 <= start < stop <= 1, .*; timesteps are written Timestep\(900\)"),
        (1.0, Timestep(300), ValueError, "0 <= start < 1"),
        (Timestep(300), 0.0, ValueError, "0 < stop <= 1"),
        (0.0, "900", TypeError, "stop must be a number, got '900'"),
    ],
)
def test_wrong_windows_are_refused_when_they_are_made(start: Any, stop: Any, error: Any, says: str) -> None:
    for make in (NegToMe, lambda **edges: Negative("hat", **edges)):
        with pytest.raises(error, match=says):
            make(start=start, stop=stop)


@pytest.mark.parametrize("value", [-1, 1001, float("nan")])
def test_a_timestep_lies_between_image_and_noise(value: float) -> None:
    with pytest.raises(ValueError, match="from 0, the image, to 1000, pure noise"):
        Timestep(value)


def test_they_come_back_from_json() -> None:
    for method in (
        NegToMe(start=Timestep(950), stop=Timestep(300.5)),
        PerpNeg(Negative("hat", stop=Timestep(500)), "glasses"),
    ):
        again = method_from_dict(method.to_dict())
        assert again == method and hash(again) == hash(method) and again.windows == method.windows


def test_timesteps_go_from_noise_to_image_in_thousandths_whatever_a_scheduler_counts() -> None:
    trig = SCMScheduler()
    trig.set_timesteps(2, intermediate_timesteps=1.3)
    assert timesteps_of(trig)[0] == pytest.approx(1000, abs=1)
    for scheduler in (EDMEulerScheduler(), EulerDiscreteScheduler(timestep_type="continuous")):
        scheduler.set_timesteps(4)
        sigmas = scheduler.sigmas[:4].double()
        expected = 1000 * sigmas / (1 + sigmas)
        if not isinstance(scheduler, EDMEulerScheduler):
            expected = 1000 / (1 + torch.exp(-4 * scheduler.timesteps.double()))
        torch.testing.assert_close(
            torch.tensor(timesteps_of(scheduler)).double(), expected, rtol=1e-3, atol=0.1
        )
    hundred = DDIMScheduler(num_train_timesteps=100)
    hundred.set_timesteps(4)
    assert timesteps_of(hundred) == [750, 500, 250, 0]


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_the_places_of_a_flow_models_steps_are_its_sigmas(kind: Any) -> None:
    scheduler = kind(shift=3.0)
    scheduler.set_timesteps(4)
    assert timesteps_of(scheduler) == pytest.approx(scheduler.timesteps.tolist(), abs=0.01)


def test_they_are_also_where_timesteps_are_given_beside_them_as_cogview4_does() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    timesteps = [1000, 750, 500, 250]
    scheduler.set_timesteps(timesteps=timesteps, sigmas=[t / 1000 for t in timesteps], mu=0.5)
    assert scheduler.timesteps.tolist() == timesteps
    # sigma = mu / (mu + 1 / t - 1)
    expected = [1000 * 0.5 / (0.5 + 1000 / t - 1) for t in timesteps]
    assert timesteps_of(scheduler) == pytest.approx(expected, abs=0.01)
    assert StepTracker(scheduler).at(0).steps_of(window(0.0, Timestep(620))) == {0}


def test_a_step_of_two_calls_is_where_its_first_call_is() -> None:
    from diffusers import HeunDiscreteScheduler

    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(4)
    schedule = StepTracker(scheduler).at(0).schedule
    assert schedule is not None and len(schedule) == 4 and sorted(schedule, reverse=True) == list(schedule)


def test_windows_in_words() -> None:
    assert window(0, 0.5).in_words() == "0-50% of the steps"
    assert window(0, Timestep(900)).in_words() == "t 1000-900"
    assert window(Timestep(800), Timestep(400)).in_words() == "t 800-400"
    assert window(0.5, Timestep(400)).in_words() == "from 50% of the steps to t 400"
