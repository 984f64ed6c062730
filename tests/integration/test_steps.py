"""Steps are those of the scheduler: its order and its own index, for every scheduler that the pipeline can run."""

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch

from negguide import NAG, Negative, NegToMe, PerpNeg, apply_to_model, from_pipe
from negguide.integration.hooks.step_tracking import StepTracker, step_of_loop

STEPS = 10
ONE = [*range(STEPS)]
TWO = [step for step in range(STEPS) for _ in range(2)][:-1]
RUNGE_KUTTA = [0] * 4 + [1] * 4 + [2] * 4 + [*range(3, STEPS)]
# the step of each call of the model in a run of 10, as the samplers' papers count them
SCHEDULERS: dict[str, list[int]] = {
    "CMStochasticIterativeScheduler": ONE,
    "CogVideoXDDIMScheduler": ONE,
    "CosineDPMSolverMultistepScheduler": ONE,
    "DDIMInverseScheduler": ONE,
    "DDIMParallelScheduler": ONE,
    "DDIMScheduler": ONE,
    "DDPMParallelScheduler": ONE,
    "DDPMScheduler": ONE,
    "DEISMultistepScheduler": ONE,
    "DPMSolverMultistepInverseScheduler": ONE,
    "DPMSolverMultistepScheduler": ONE,
    "DPMSolverSDEScheduler": TWO,
    "DPMSolverSinglestepScheduler": ONE,
    "EDMDPMSolverMultistepScheduler": ONE,
    "EDMEulerScheduler": ONE,
    "EulerAncestralDiscreteScheduler": ONE,
    "EulerDiscreteScheduler": ONE,
    "HeunDiscreteScheduler": TWO,
    "IPNDMScheduler": ONE,
    "KDPM2AncestralDiscreteScheduler": TWO,
    "KDPM2DiscreteScheduler": TWO,
    "LCMScheduler": ONE,
    "LMSDiscreteScheduler": ONE,
    "PNDMScheduler": RUNGE_KUTTA,
    "SASolverScheduler": ONE,
    "TCDScheduler": ONE,
    "UniPCMultistepScheduler": ONE,
}
# one of each way to count the model's calls, and the common ones; the others are in the rest
QUICK = (
    *("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "LCMScheduler"),
    *("DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler"),
)
# whose timesteps repeat or differ by rounding alone
VARIANTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "DPM++ lu": ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, 100),
    "DPM++ exponential": ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}, 100),
    "DPM++ Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 50),
    "UniPC Karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, 50),
    "DEIS exponential": ("DEISMultistepScheduler", {"use_exponential_sigmas": True}, 50),
    "Euler beta": ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, 20),
}
WINDOWS = [(0.0, 0.5), (0.9, 1.0), (0.2, 0.6)]


def named(name: str, **config: Any) -> Any:
    return getattr(diffusers, name)(**config)


@pytest.fixture
def rows(base: Any) -> Iterator[list[int]]:
    """The rows of each call of the UNet."""
    counts: list[int] = []
    handle = base.unet.conv_in.register_forward_hook(
        lambda module, inputs, output: counts.append(len(output))
    )
    yield counts
    handle.remove()


def evaluated(rows: list[int]) -> list[bool]:
    """Whether each call held a negative beside the two branches of guidance."""
    found = [count > 2 for count in rows]
    rows.clear()
    return found


def test_no_scheduler_that_can_draw_is_left_out(make_pipeline: Any) -> None:
    pipe = make_pipeline()

    def draw_with(kind: Any) -> None:
        pipe.scheduler = kind()
        pipe("a bear", num_inference_steps=STEPS, output_type="latent")

    for name in dir(diffusers):
        kind = (
            getattr(diffusers, name) if name.endswith("Scheduler") and not name.startswith("Flax") else None
        )
        if not inspect.isclass(kind) or name in SCHEDULERS:
            continue
        # it needs what this pipeline does not give: arguments of its own, other steps, other noise
        with pytest.raises((TypeError, AttributeError, KeyError, ValueError)):
            draw_with(kind)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.rest) for name in SCHEDULERS]
)
def test_windows_and_refreshing_follow_the_steps_of_the_scheduler(
    pipe: Any, generate: Any, rows: list[int], name: str
) -> None:
    steps = SCHEDULERS[name]
    pipe.scheduler = named(name)
    for start, stop in WINDOWS:
        negative = Negative("black glasses", start=start, stop=stop)
        generate(pipe, num_inference_steps=STEPS, negative_guidance=PerpNeg(negative))
        first, end = round(start * STEPS), round(stop * STEPS)
        assert evaluated(rows) == [first <= step < end for step in steps]
    every_other = PerpNeg(Negative("black glasses", stop=1.0), refresh_every=2)
    generate(pipe, num_inference_steps=STEPS, negative_guidance=every_other)
    assert evaluated(rows) == [step % 2 == 0 for step in steps]
    push = NegToMe(alpha=0.5, stop=0.3)
    arguments = {"num_inference_steps": STEPS, "num_images_per_prompt": 2, "trace": True}
    pushed = generate(pipe, negative_guidance=push, **arguments).trace.pushed[:, 0]
    assert (~pushed.isnan()).tolist() == [step < 3 for step in steps]


def test_pndm_without_runge_kutta_takes_its_first_step_in_two_calls(
    pipe: Any, generate: Any, rows: list[int]
) -> None:
    pipe.scheduler = named("PNDMScheduler", skip_prk_steps=True)
    generate(pipe, num_inference_steps=STEPS, negative_guidance=PerpNeg("black glasses"))
    assert evaluated(rows) == [True] * 6 + [False] * 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_timesteps_are_steps_of_their_own(
    pipe: Any, generate: Any, rows: list[int], variant: str
) -> None:
    name, config, count = VARIANTS[variant]
    pipe.scheduler = named(name, **config)
    for start, stop in ((0.9, 1.0), (0.0, 0.5)):
        negative = Negative("black glasses", start=start, stop=stop)
        generate(pipe, num_inference_steps=count, negative_guidance=PerpNeg(negative))
        assert sum(evaluated(rows)) == round((stop - start) * count)


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "PNDMScheduler",
        "SASolverScheduler",
    ],
)
def test_a_method_on_the_model_has_the_same_steps(make_pipeline: Any, generate: Any, name: str) -> None:
    own = make_pipeline()
    own.scheduler = named(name)
    embeds = own.encode_prompt(["black glasses"], "cpu", 1, False)[0].detach()
    methods = [NAG(Negative("black glasses", start=0.2, stop=0.6), scale=3.0), NegToMe(alpha=2.0, stop=0.3)]
    arguments = {"num_inference_steps": STEPS, "num_images_per_prompt": 2}
    for method in methods:
        expected = generate(from_pipe(own), negative_guidance=method, **arguments).images
        given = {} if isinstance(method, NegToMe) else {"negative_embeds": embeds}
        apply_to_model(own.unet, method, num_inference_steps=STEPS, **given)
        assert torch.equal(generate(own, **arguments).images, expected)
        own.unet._diffusers_hook.remove_hook("negguide")


def test_a_run_that_begins_later_counts_its_own_steps() -> None:
    scheduler = named("HeunDiscreteScheduler")
    scheduler.set_timesteps(10)
    # image to image with strength 0.4: the last four steps
    scheduler.set_begin_index(12)
    tracker = StepTracker(scheduler, calls=7)
    assert tracker.count == 4
    assert [tracker.at(call).index for call in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    assert [step_of_loop(scheduler, call, 4, None).index for call in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    # a scheduler that does not say where it begins
    scheduler = named("DDIMScheduler")
    scheduler.set_timesteps(10)
    assert StepTracker(scheduler, calls=4, first=300.2).begin == 6
    assert StepTracker(scheduler, calls=4, first=899.8).begin == 0
    assert StepTracker(scheduler).begin == 0
    once = StepTracker(scheduler, calls=1)
    once.advance()
    with pytest.raises(ValueError, match="more often than the 1 timesteps"):
        once.advance()
