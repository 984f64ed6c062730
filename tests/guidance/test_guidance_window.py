"""Windows are rounded as diffusers' guiders round them."""

import pytest
from diffusers.guiders import ClassifierFreeGuidance
from hypothesis import given
from hypothesis import strategies as st

from negguide.guidance import active


def test_the_window_includes_its_start_and_excludes_its_stop():
    assert [active(0.25, 0.75, step, 8) for step in range(8)] == [False] * 2 + [True] * 4 + [False] * 2


def test_the_whole_run_is_active_from_zero_to_one():
    assert all(active(0.0, 1.0, step, 7) for step in range(7))


def test_windows_that_meet_neither_overlap_nor_leave_a_gap():
    for num_steps in (1, 3, 10, 25, 50):
        for step in range(num_steps):
            assert active(0.0, 0.3, step, num_steps) + active(0.3, 1.0, step, num_steps) == 1


def test_a_window_shorter_than_one_step_may_be_empty():
    assert not any(active(0.0, 0.2, step, 4) for step in range(4))


@given(num_steps=st.integers(1, 60), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_it_agrees_with_the_guiders_of_diffusers(num_steps, ends):
    start, stop = min(ends), max(ends)
    if start == stop or stop == 0:
        return
    guider = ClassifierFreeGuidance(guidance_scale=3.0, start=start, stop=stop)
    for step in range(num_steps):
        guider.set_state(step=step, num_inference_steps=num_steps, timestep=None)
        assert active(start, stop, step, num_steps) == guider._is_cfg_enabled()


@pytest.mark.parametrize(
    ("start", "stop"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.0, 1.1), (float("nan"), 1.0)]
)
def test_a_window_that_is_empty_or_outside_the_run_is_an_error(start, stop):
    with pytest.raises(ValueError, match=f"start={start}, stop={stop}"):
        active(start, stop, 0, 10)


def test_a_run_without_steps_is_an_error():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        active(0.0, 1.0, 0, 0)
