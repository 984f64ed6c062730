"""The refresh schedule: when a run evaluates its negatives, what they weigh, and what counts in between."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from negguide.guidance import automatic_weight, presence, relative_shift
from negguide.guidance.precision import norm_floor
from negguide.integration.hooks.step_tracking import Step
from negguide.integration.runtime.economy import evaluates_negative, is_noise
from negguide.methods import ScoreMethod, Window

ADAPTIVE_THRESHOLD = 0.5
"""With `adaptive=True` a negative becomes inactive when its fraction of the guidance is below so much of its largest.

A fraction of |p| is the same whatever the model predicts (noise, velocity, flow); its size differs from model to model,
hence relative to its own largest.
"""
NOT_PRESENT = 0.05
"""With `economy` an automatic negative becomes inactive where it has not counted more than this in an image."""


@dataclass
class _Automatic:
    """What the run knows of an automatic negative: [B] how present it has been at most, and its last weights."""

    seen: Tensor
    weights: Tensor


class RefreshSchedule:
    """What the negatives of one run were when they were last evaluated, what they weigh, and which are inactive.

    One step goes: `active` (which negatives act), `stale` (which of these are to be evaluated), and for each that acts
    `weight` and `complete`. Tensors are those of the images that a negative belongs to.
    """

    def __init__(self, method: ScoreMethod) -> None:
        self.method = method
        self.windows = method.windows
        self.guidance = Window("guidance", 0.0, method.guidance_stop)
        # where not every step evaluates: the step of the last evaluation, and perp(n - u, p) / |p| of that step
        self.evaluated: dict[int, int] = {}
        self.remainders: dict[int, Tensor] = {}
        self.automatic: dict[int, _Automatic] = {}
        # of adaptive negatives: [B] largest fractions
        self.largest: dict[int, Tensor] = {}
        # of those that may become inactive: [B] bool on the device, and what has arrived of it on the host
        self.active_images: dict[int, Tensor] = {}
        self.arrivals: dict[int, Arrival] = {}

    @property
    def keeps(self) -> bool:
        """Whether what a negative was is needed in later steps."""
        return self.method.economy or self.method.refresh_every > 1

    def active(self, step: Step) -> list[int]:
        """The negatives that act: of weight above 0, whose window is open, and not inactive in every image."""
        return [k for k in self._open(step) if not self._inactive(k)]

    def _open(self, step: Step) -> list[int]:
        """Those of weight above 0 whose window is open."""
        if not step.inside(self.guidance):
            return []
        return [
            k
            for k, (negative, window) in enumerate(zip(self.method.negatives, self.windows, strict=True))
            if not negative.off and step.inside(window)
        ]

    def _inactive(self, k: int) -> bool:
        return k in self.arrivals and self.arrivals[k].value() is False

    def stale(self, active: Sequence[int], step: Step) -> list[int]:
        """Those of `active` that must be evaluated at this step.

        A step of several denoiser calls (samplers of higher order) evaluates in all of them or in none.
        """
        if self.method.economy:
            return [
                k
                for k in active
                if k not in self.evaluated
                or self.evaluated[k] == step.index
                or evaluates_negative(*self._turn(k, step), step)
            ]
        every = self.method.refresh_every
        return [k for k in active if k not in self.evaluated or (step.index - self.evaluated[k]) % every == 0]

    def _turn(self, k: int, step: Step) -> tuple[int, int]:
        """The place of negative k among those whose window is open for the same images, and how many these are.

        Inactive ones count: what they are in other images of the batch, and when the host hears of it, must not matter.
        """
        own = self.method.negatives[k].prompt_index
        mates = [j for j in self._open(step) if self.method.negatives[j].prompt_index in (None, own)]
        return mates.index(k), len(mates)

    def complete(self, k: int, uncond: Tensor, cond: Tensor, prediction: Tensor | None, step: Step) -> Tensor:
        """The prediction [B, ...] of negative k, evaluated at this step or not (None).

        Of a negative that was not evaluated counts the method's `remainder` q' of its last evaluation, relative to the
        guidance: uncond + |p| q' / |p'|, with p = cond - uncond of this step and p' of that one. All differences of
        predictions shrink quickly in the first steps; kept at its old length, a negative would outweigh the prompt.
        """
        if not self.keeps:
            assert prediction is not None
            return prediction
        length = _length(cond - uncond)
        if prediction is None:
            return uncond + (length * self.remainders[k]).to(uncond)
        self.evaluated[k] = step.index
        whole = (prediction - uncond).to(length)
        self.remainders[k] = self.method.remainder(whole, (cond - uncond).to(length)) / length
        return prediction

    def weight(
        self, k: int, uncond: Tensor, cond: Tensor, negative: Tensor, evaluated: bool, step: Step
    ) -> Tensor:
        """[B] weight of negative k at this step.

        An automatic one has that of its last evaluation where it is not evaluated. It is 0 in the images where the
        negative is inactive: where an adaptive one has little effect, or an automatic one of `economy` is not present.

        Args:
            negative: [B, ...] its prediction, as `complete` gives it.
            evaluated: whether it was evaluated at this step.
        """
        # what a step finds out holds from the next one on, however late the host hears of it
        before = self.active_images.get(k)
        if not self.method.negatives[k].automatic:
            weight = uncond.new_tensor(self.method.negatives[k].fixed_weight).expand(len(uncond))
        elif evaluated:
            weight = self._automatic_weight(k, uncond, cond, negative, step)
        else:
            weight = self.automatic[k].weights
        if self.method.adaptive:
            fraction = relative_shift(uncond, cond, negative[None], weight[None])[0]
            largest = torch.maximum(self.largest.get(k, fraction), fraction)
            self.largest[k] = largest
            self._stays_active(k, fraction >= ADAPTIVE_THRESHOLD * largest)
        return weight if before is None else weight * before

    def _stays_active(self, k: int, enough: Tensor) -> None:
        """Negative k goes on only in the images [B] in which it does enough."""
        before = self.active_images.get(k)
        self.active_images[k] = enough if before is None else before & enough
        self.arrivals[k] = Arrival(self.active_images[k].any())

    def _automatic_weight(self, k: int, uncond: Tensor, cond: Tensor, negative: Tensor, step: Step) -> Tensor:
        present, along = presence(uncond, cond, negative[None])
        before = self.automatic.get(k)
        seen = torch.zeros_like(present[0]) if before is None else before.seen
        weights, seen = automatic_weight(seen, present[0], along[0], self.method.auto_weight, is_noise(step))
        self.automatic[k] = _Automatic(seen, weights)
        if self.method.economy and not is_noise(step):
            self._stays_active(k, seen > NOT_PRESENT)
        return weights


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
