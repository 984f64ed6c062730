"""How long and how fast an embedded model is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps in all; a later run with more steps goes on from the checkpoint.
        minutes: minutes of training in all, those of earlier runs included, in place of ``steps``. How many steps that
            is depends on the machine, so two runs do not end at the same weights.
        batch_size: images per step.
        lr: peak learning rate of AdamW, reached after ``warmup`` steps, held, and lowered linearly to zero over the
            last ``decay`` share of the steps or minutes.
        ema: decay of the running average of the weights that is kept as the result; 0 keeps the weights themselves.
        seed: of the weights and of every batch; batch number i is a function of (seed, i), so a resumed run
            sees what an uninterrupted one would have seen.
        device: where to train.
        compile: let `torch.compile` fuse the UNet's operations (needs a C++ compiler; a sixth faster on two cores).
        workers: processes that draw batches ahead of time; worth it where the device is faster than drawing.
    """

    steps: int
    minutes: float | None = None
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 100
    decay: float = 0.25
    ema: float = 0.0
    seed: int = 0
    device: str = "cpu"
    compile: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes} must be above 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must be in [0, 1)")

    def done(self, step: int, seconds: float) -> float:
        """The share of the training that lies behind ``step`` steps and ``seconds`` of training; 1 at the end."""
        return step / self.steps if self.minutes is None else seconds / (60 * self.minutes)

    def lr_at(self, step: int, seconds: float = 0.0) -> float:
        """The learning rate of a step, after so many seconds of training."""
        rise = min(1.0, (step + 1) / self.warmup)
        left = max(0.0, 1 - self.done(step, seconds))
        return self.lr * rise * min(1.0, left / self.decay if self.decay else 1.0)
