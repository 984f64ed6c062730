"""The refresh schedule: when a run evaluates its negatives, and what counts in between."""

from collections.abc import Sequence

import torch
from torch import Tensor

from negguide.guidance import relative_shift
from negguide.guidance.precision import norm_floor
from negguide.integration.hooks.step_tracking import Step
from negguide.methods import ScoreMethod

ADAPTIVE_THRESHOLD = 0.5
"""With `adaptive=True` a negative becomes inactive when its fraction of the guidance is below so much of its largest.

A fraction of |p| is the same whatever the model predicts (noise, velocity, flow); its size differs from model to model,
hence relative to its own largest.
"""


class RefreshSchedule:
    """What the negatives of one run were when they were last evaluated, and which of them are inactive.

    One step goes: `active` (which negatives act), `stale` (which of these are to be evaluated), `complete` (the
    predictions of all that act), `weights`. Tensors are those of the images that a negative belongs to.
    """

    def __init__(self, method: ScoreMethod) -> None:
        self.method = method
        self.windows = method.windows
        # with refresh_every > 1: the step of the last evaluation, and (n - u) / |p| of that step
        self.evaluated: dict[int, int] = {}
        self.directions: dict[int, Tensor] = {}
        # of adaptive negatives: [B] largest fractions and [B] bool on the device, and what has arrived on the host
        self.largest: dict[int, Tensor] = {}
        self.active_images: dict[int, Tensor] = {}
        self.arrivals: dict[int, Arrival] = {}

    def active(self, step: Step) -> list[int]:
        """The negatives that act: of weight above 0, whose window is open, and not inactive in every image."""
        return [
            k
            for k, (negative, window) in enumerate(zip(self.method.negatives, self.windows, strict=True))
            if negative.weight > 0 and step.inside(window) and not self._inactive(k)
        ]

    def _inactive(self, k: int) -> bool:
        return k in self.arrivals and self.arrivals[k].value() is False

    def stale(self, active: Sequence[int], step: Step) -> list[int]:
        """Those of `active` that must be evaluated at this step.

        A step of several denoiser calls (samplers of higher order) evaluates in all of them or in none.
        """
        every = self.method.refresh_every
        return [k for k in active if k not in self.evaluated or (step.index - self.evaluated[k]) % every == 0]

    def complete(self, k: int, uncond: Tensor, cond: Tensor, prediction: Tensor | None, step: Step) -> Tensor:
        """The prediction [B, ...] of negative k, evaluated at this step or not (None).

        A negative that was not evaluated is what it was last, relative to the guidance: uncond + |p| / |p'| (n' - u'),
        with p = cond - uncond of this step, and n', u', p' of the step that evaluated it. All differences of
        predictions shrink quickly in the first steps; kept at its old length, a negative would outweigh the prompt.
        """
        if self.method.refresh_every == 1:
            assert prediction is not None
            return prediction
        length = _length(cond - uncond)
        if prediction is None:
            return uncond + (length * self.directions[k]).to(uncond)
        self.evaluated[k] = step.index
        self.directions[k] = (prediction - uncond).to(length) / length
        return prediction

    def weight(self, k: int, weight: Tensor, uncond: Tensor, cond: Tensor, negative: Tensor) -> Tensor:
        """[B] weight of negative k at this step: 0 in the images where an adaptive one is inactive."""
        expanded = weight.expand(len(uncond))
        if not self.method.adaptive:
            return expanded
        fraction = relative_shift(uncond, cond, negative[None], weight[None])[0]
        before = self.active_images.get(k)
        largest = torch.maximum(self.largest.get(k, fraction), fraction)
        self.largest[k] = largest
        enough = fraction >= ADAPTIVE_THRESHOLD * largest
        self.active_images[k] = enough if before is None else before & enough
        self.arrivals[k] = Arrival(self.active_images[k].any())
        # what a step finds out holds from the next one on, however late the host hears of it
        return expanded if before is None else expanded * before


def _length(difference: Tensor) -> Tensor:
    """[B, 1, ...] float32 norms of [B, ...], never zero."""
    wide = difference.to(torch.promote_types(difference.dtype, torch.float32))
    norm: Tensor = torch.linalg.vector_norm(wide.flatten(1), dim=1).clamp_min(norm_floor(difference.dtype))
    return norm.reshape(-1, *[1] * (difference.ndim - 1))


class Arrival:
    """One flag on its way from the device to the host."""

    def __init__(self, flag: Tensor) -> None:
        self.event: torch.Event | None = None
        if flag.device.type == "cpu":
            self.copy = flag
        else:
            self.copy = torch.empty((), dtype=flag.dtype, pin_memory=True)
            self.copy.copy_(flag, non_blocking=True)
            self.event = torch.Event(flag.device)
            self.event.record()

    def value(self) -> bool | None:
        """The flag, or None while it has not arrived."""
        if self.event is not None and not self.event.query():
            return None
        return bool(self.copy)
