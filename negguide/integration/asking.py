"""When a run asks the model for its negatives: at every step, every few steps, or no longer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from negguide.guidance import active, relative_shift
from negguide.guidance.precision import norm_floor
from negguide.methods import PerpNeg

FADED = 0.5
"""With `PerpNeg(adaptive=True)` a negative rests when its share of the guidance is less than so much of its largest.

A share relative to |p| is the same whatever the model predicts (noise, velocity, flow); its size differs from model to
model, hence relative to its own largest.
"""


class Asking:
    """What the negatives of one run said when they were last asked, and which of them rest.

    One step goes: `acting` (which negatives act), `due` (which of these are to be predicted), `complete` (the
    predictions of all that act), `weights`.
    """

    def __init__(self, method: PerpNeg) -> None:
        self.method = method
        # with refresh_every > 1: the step of the last question, and (n - u) / |p| of that step
        self.asked: dict[int, int] = {}
        self.directions: dict[int, Tensor] = {}
        # of adaptive negatives: [B] largest shares and [B] bool on the device, and what of it has arrived on the host
        self.largest: dict[int, Tensor] = {}
        self.awake: dict[int, Tensor] = {}
        self.arrivals: dict[int, Arrival] = {}

    def acting(self, step: int, num_steps: int) -> list[int]:
        """The negatives whose window is open and that do not rest in every image."""
        return [
            k
            for k, negative in enumerate(self.method.negatives)
            if active(*negative.window, step, num_steps) and not self._rests(k)
        ]

    def _rests(self, k: int) -> bool:
        return k in self.arrivals and self.arrivals[k].value() is False

    def due(self, acting: Sequence[int], step: int) -> list[int]:
        """Those of `acting` that must be asked at this step.

        A step of several denoiser calls (samplers of higher order) asks in all of them or in none.
        """
        every = self.method.refresh_every
        return [k for k in acting if k not in self.asked or (step - self.asked[k]) % every == 0]

    def complete(
        self,
        uncond: Tensor,
        cond: Tensor,
        predictions: Sequence[Tensor],
        acting: Sequence[int],
        due: Sequence[int],
        step: int,
    ) -> Tensor:
        """The predictions [K, B, ...] of all K acting negatives, from those of the `due` ones.

        A negative that was not asked says what it said last, relative to the guidance:
        uncond + |p| / |p'| (n' - u'), with p = cond - uncond of this step, and n', u', p' of the step that asked. All
        differences of predictions shrink quickly in the first steps; kept at its old length, a negative would outweigh
        the prompt.
        """
        fresh = dict(zip(due, predictions, strict=True))
        if self.method.refresh_every == 1:
            return torch.stack([fresh[k] for k in acting])
        length = _length(cond - uncond)
        for k, prediction in fresh.items():
            self.asked[k] = step
            self.directions[k] = (prediction - uncond).to(length) / length
        return torch.stack(
            [fresh[k] if k in fresh else uncond + (length * self.directions[k]).to(uncond) for k in acting]
        )

    def weights(
        self, weights: Tensor, uncond: Tensor, cond: Tensor, negatives: Tensor, acting: Sequence[int]
    ) -> Tensor:
        """[K] weights of this step, or [K, B] with adaptive negatives: 0 in the images where one rests."""
        if not self.method.adaptive:
            return weights
        shares = relative_shift(uncond, cond, negatives, weights)
        rows = []
        for row, k in enumerate(acting):
            before = self.awake.get(k)
            # what a step finds out holds from the next one on, however late the host hears of it
            rows.append(weights[row].expand(len(uncond)) if before is None else weights[row] * before)
            largest = self.largest.get(k, shares[row])
            self.largest[k] = torch.maximum(largest, shares[row])
            enough = shares[row] >= FADED * self.largest[k]
            self.awake[k] = enough if before is None else before & enough
            self.arrivals[k] = Arrival(self.awake[k].any())
        return torch.stack(rows)


def _length(difference: Tensor) -> Tensor:
    """[B, 1, ...] float32 norms of [B, ...], never zero."""
    wide = difference.to(torch.promote_types(difference.dtype, torch.float32))
    norm = torch.linalg.vector_norm(wide.flatten(1), dim=1).clamp_min(norm_floor(difference.dtype))
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
