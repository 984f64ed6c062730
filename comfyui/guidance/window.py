# Written by scripts/comfyui_guidance.py from negguide/guidance/window.py; change that.
"""When a method acts, as fractions of the denoising steps."""


def active(start: float, stop: float, step: int, num_steps: int) -> bool:
    """Whether step number `step` lies in the window [start, stop).

    Formula: int(start num_steps) <= step < int(stop num_steps), the rounding of diffusers' guiders. Both ends
    round down, so a window shorter than one step may contain none: up to stop = 0.2 of 4 steps is never
    active.

    Args:
        start, stop: fractions of the steps, 0 <= start < stop <= 1.
        step: counted from 0.
        num_steps: how many steps the whole run has, >= 1.

    Raises:
        ValueError: a window that is empty or not inside [0, 1], or no steps.
    """
    if not 0 <= start < stop <= 1:
        raise ValueError(
            f"start and stop must satisfy 0 <= start < stop <= 1, got start={start}, stop={stop}"
        )
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return int(start * num_steps) <= step < int(stop * num_steps)
