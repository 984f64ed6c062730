"""How often negatives are evaluated, on small tensors and on the embedded model."""

import pytest
import torch
from diffusers import DDIMScheduler

import negguide
from negguide import Negative, PerpNeg
from negguide.guidance import perp_neg_shift, relative_shift
from negguide.integration.hooks.step_tracking import Step, StepTracker, step_of_loop
from negguide.integration.runtime.economy import NOISE, is_noise
from negguide.integration.runtime.refresh import ADAPTIVE_THRESHOLD, RefreshSchedule
from negguide.methods import ScoreMethod, method_from_dict


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_relative_shift_is_the_length_of_the_shift_over_that_of_the_direction():
    u, c, n = normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(2, 2, 3, 4, seed=2)
    got = relative_shift(u, c, n, [0.5, 2.0])
    for k, weight in enumerate((0.5, 2.0)):
        for b in range(2):
            shift = perp_neg_shift(u[b : b + 1], c[b : b + 1], n[k : k + 1, b : b + 1], [weight])
            assert got[k, b] == pytest.approx(float(shift.norm() / (c[b] - u[b]).norm()))
    assert relative_shift(u, c, c[None], [1.0]).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("every", "windows", "asked"),
    [
        (1, [(0.0, 0.5)], [[0], [0], [0], [0], [], [], [], []]),
        (2, [(0.0, 1.0)], [[0], [], [0], [], [0], [], [0], []]),
        (3, [(0.0, 1.0), (0.25, 1.0)], [[0], [], [1], [0], [], [1], [0], []]),
    ],
)
def test_negatives_are_evaluated_every_so_many_steps_of_their_own_window(every, windows, asked):
    negatives = [Negative(str(i), start=a, stop=b) for i, (a, b) in enumerate(windows)]
    schedule = RefreshSchedule(PerpNeg(*negatives, refresh_every=every))
    u = normal(2, 3)
    for index, wanted in enumerate(asked):
        step = Step(index, 8)
        active = schedule.active(step)
        stale = schedule.stale(active, step)
        assert stale == wanted
        # a second denoiser call of the same step evaluates the same again
        for k in stale:
            schedule.complete(k, u, u + 1, normal(2, 3, seed=k), step)
        assert schedule.stale(active, step) == stale


def test_between_two_evaluations_the_last_perpendicular_part_counts_as_long_as_the_guidance_is():
    schedule = RefreshSchedule(PerpNeg("a", refresh_every=2))
    u, c, said = normal(2, 3), normal(2, 3, seed=3), normal(2, 3, seed=2)
    assert torch.equal(schedule.complete(0, u, c, said, Step(0, 4)), said)
    later, prompt = normal(2, 3, seed=1), normal(2, 3, seed=4)
    ratio = (prompt - later).norm(dim=1, keepdim=True) / (c - u).norm(dim=1, keepdim=True)
    # what lies along the prompt of that step is not a part of it
    across = torch.stack([n - (n @ p) / (p @ p) * p for n, p in zip(said - u, c - u, strict=True)])
    reused = schedule.complete(0, later, prompt, None, Step(1, 4))
    assert torch.allclose(reused, later + ratio * across)
    # equal predictions leave no direction: nothing becomes NaN
    assert schedule.complete(0, u, u, said, Step(2, 4)).isfinite().all()
    assert schedule.complete(0, u, c, None, Step(3, 4)).isfinite().all()


def test_an_adaptive_negative_is_inactive_in_each_image_by_itself_and_is_then_evaluated_no_more():
    schedule = RefreshSchedule(PerpNeg(Negative("a", weight=3.0, stop=1.0), adaptive=True))
    u = torch.zeros(2, 2)
    c = torch.tensor([[1.0, 0.0]]).repeat(2, 1)
    # fractions of the two images: they fall below half of the largest after the second and the fourth step
    low = ADAPTIVE_THRESHOLD * 0.9
    fractions = torch.tensor([[1.0, 2.0], [low, 2.0], [1.0, 1.5], [1.0, 2.0 * low], [9.0, 9.0]])
    weights = []
    for index, fraction in enumerate(fractions):
        if not schedule.active(Step(index, 5)):
            break
        n = torch.stack([torch.zeros(2), fraction], dim=1)
        weights.append(schedule.weight(0, u, c, n, True, Step(index, 5)).tolist())
    assert weights == [[3.0, 3.0], [3.0, 3.0], [0.0, 3.0], [0.0, 3.0]]
    assert schedule.active(Step(4, 5)) == []


def test_what_is_absent_in_one_image_rests_there_alone_and_leaves_the_turn_of_others():
    """Image 0 shows the second negative alone, image 1 both; alone or beside the other, an image is the same."""
    negatives = (Negative("absent", "auto", stop=1.0), Negative("present", "auto", stop=1.0))
    noise_first = tuple(1000 - 80.0 * index for index in range(12))
    u, c = torch.zeros(2, 2), torch.tensor([[1.0, 0.0]]).repeat(2, 1)
    # the absent one counts 0.03 where it is least absent, which is a weight of 0.26
    predictions = torch.tensor([[[0.0, 1.16], [1.0, 0.1]], [[1.0, 0.2], [1.0, 0.2]]])

    def run(images):
        schedule, evaluated, weights = RefreshSchedule(PerpNeg(*negatives, economy=True)), [], []
        for index in range(12):
            step = Step(index, 12, schedule=noise_first)
            active = schedule.active(step)
            stale = schedule.stale(active, step)
            evaluated.append(stale)
            weights.append(torch.zeros(2, 2)[:, images])
            for k in active:
                own = predictions[k, images] if k in stale else None
                whole = schedule.complete(k, u[images], c[images], own, step)
                weights[-1][k] = schedule.weight(k, u[images], c[images], whole, own is not None, step)
        return evaluated, torch.stack(weights)

    together, both = run(slice(0, 2))
    alone, first = run(slice(0, 1))
    assert torch.equal(both[:, :, :1], first)
    assert torch.equal(both[:, :, 1:], run(slice(1, 2))[1])
    # found at the second step, the first that is no noise, and true from the third on
    assert (first[1, 0] > 0.2).all() and (first[2:, 0] == 0).all()
    assert (first[1:, 1] > 1).all() and (both[1:, :, 1] > 1).all()
    assert [k for stale in alone[2:] for k in stale] == [1] * 6
    assert [1 in stale for stale in alone] == [1 in stale for stale in together]
    assert sum(0 in stale for stale in together) > 3


def test_the_turn_of_a_negative_of_all_prompts_does_not_depend_on_what_the_other_prompts_have():
    """Prompt 0 has three negatives of its own or none: those that act in prompt 1 are evaluated at the same steps."""
    shared, own = Negative("shared", stop=1.0), Negative("own", stop=1.0, prompt_index=1)
    others = [Negative(text, stop=1.0, prompt_index=0) for text in "abc"]

    def evaluated(*negatives):
        schedule, steps = RefreshSchedule(PerpNeg(*negatives, economy=True)), []
        u, c = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        for index in range(12):
            step = Step(index, 12)
            stale = schedule.stale(schedule.active(step), step)
            for k in stale:
                schedule.complete(k, u, c, torch.ones(1, 2), step)
            steps.append({negatives[k].prompt for k in stale} & {"shared", "own"})
        return steps

    alone = evaluated(shared, own)
    assert evaluated(*others, shared, own) == alone
    assert evaluated(shared, own, *others) == alone
    # and they still take turns
    assert alone[0] == {"shared", "own"} and {"own"} in alone


def test_a_method_that_says_nothing_of_a_remainder_keeps_the_whole_negative():
    class Whole(PerpNeg):
        def remainder(self, negative, positive):
            return ScoreMethod.remainder(self, negative, positive)

    u, c, said = normal(2, 3), normal(2, 3, seed=3), normal(2, 3, seed=2)
    schedule = RefreshSchedule(Whole("a", refresh_every=2))
    schedule.complete(0, u, c, said, Step(0, 4))
    assert torch.allclose(schedule.complete(0, u, c, None, Step(1, 4)), said)


def test_a_negative_without_weight_is_not_evaluated():
    schedule = RefreshSchedule(PerpNeg(Negative("a", weight=0.0), "b"))
    assert schedule.active(Step(0, 4)) == [1]


@pytest.fixture
def rows(pipe):
    """How many rows each call of the UNet has had since the test cleared it."""
    counts = []
    handle = pipe.unet.conv_in.register_forward_hook(
        lambda module, inputs, output: counts.append(len(output))
    )
    yield counts
    handle.remove()


@pytest.fixture(scope="module")
def pipe():
    from negguide.toyworld import load_pipeline

    made = negguide.from_pipe(load_pipeline())
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, method, prompts=("a bear wearing glasses",), seeds=(0,), **more):
    return pipe(
        list(prompts),
        num_inference_steps=6,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        negative_guidance=[method],
        output_type="latent",
        **more,
    )


def test_refreshing_costs_what_it_says_and_changes_little(pipe, rows):
    whole = [Negative("black glasses", stop=1.0)]
    every_step = draw(pipe, PerpNeg(*whole)).images
    assert torch.equal(draw(pipe, PerpNeg(*whole, refresh_every=1)).images, every_step)
    plain = draw(pipe, PerpNeg(Negative("black glasses", weight=0.0))).images
    rows.clear()
    reused = draw(pipe, PerpNeg(*whole, refresh_every=3)).images
    assert rows == [3, 2, 2, 3, 2, 2]
    assert 0 < (reused - every_step).norm() < (plain - every_step).norm()


def test_adaptive_asks_less_and_an_image_does_not_depend_on_its_batch_mates(pipe, rows):
    method = PerpNeg(Negative("a bear wearing black glasses", stop=1.0), adaptive=True)
    prompts, seeds = ("a bear wearing glasses", "a cat in the snow"), (0, 1)
    together = draw(pipe, method, prompts, seeds).images
    for i in range(2):
        alone = draw(pipe, method, prompts[i : i + 1], seeds[i : i + 1]).images
        assert torch.allclose(alone[0], together[i], atol=1e-4)
    trace = draw(pipe, method, trace=True).trace
    rows.clear()
    draw(pipe, method)
    asked = [count == 3 for count in rows]
    assert asked == sorted(asked, reverse=True), "once it rests it stays at rest"
    assert 0 < sum(asked) < 6
    assert trace.cosine[:, 0, 0].isfinite().tolist() == asked


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"refresh_every": 0}, ValueError, "refresh_every must be at least 1, got 0"),
        ({"refresh_every": 1.5}, TypeError, "refresh_every must be a whole number, got 1.5"),
        ({"refresh_every": True}, TypeError, "refresh_every must be a whole number"),
        ({"adaptive": 1}, TypeError, "adaptive must be True or False, got 1"),
    ],
)
def test_wrong_values_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        PerpNeg("hat", **arguments)


def test_json_holds_both():
    method = PerpNeg("hat", refresh_every=3, adaptive=True)
    assert method_from_dict(method.to_dict()) == method
    assert method != PerpNeg("hat", refresh_every=3)


def test_a_run_from_noise_begins_with_noise_however_early_its_schedule_begins():
    scheduler = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(12)
    whole, late = StepTracker(scheduler), StepTracker(scheduler, calls=9, first=float(scheduler.timesteps[3]))
    assert whole.at(0).schedule[0] < NOISE, "what the timestep alone would not tell"
    assert [is_noise(whole.at(call)) for call in range(3)] == [True, False, False]
    assert not any(is_noise(late.at(call)) for call in range(9))
    loop = [step_of_loop(scheduler, call, count, None) for call, count in ((0, 12), (1, 12), (0, 9))]
    assert [is_noise(step) for step in loop] == [True, False, False]
