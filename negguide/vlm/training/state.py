"""Where a run stands: its step, weights and optimiser, saved and restored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from negguide.vlm.training.checkpoint import Checkpoints, read_state
from negguide.vlm.training.log import Log
from negguide.vlm.training.towers import Towers

logger = logging.getLogger(__name__)

FREE = ("workers", "save_every")
"""Settings that may differ when a run goes on: they do not change its result."""


class TrainState:
    """The step that a run has reached, with all that is needed to go on from there.

    Attributes:
        step: how many optimiser steps were made.
        images_seen: how many images went through the model in them.
        batches: what was chosen at the last refresh, from its step on; None before the first, or without any.

    Args:
        out: the run's folder.
        towers: what is trained.
        optimizer: AdamW over its parameters, as `accelerator.prepare` gave it.
        accelerator: of the run.
        identity: what makes it this run: its settings, set, start model and processes. A checkpoint is of one identity.
        log: of its steps.
    """

    def __init__(
        self,
        out: Path,
        towers: Towers,
        optimizer: Any,
        accelerator: Accelerator,
        identity: Mapping[str, Any],
        log: Log,
    ) -> None:
        self.out, self.towers, self.optimizer, self.accelerator = out, towers, optimizer, accelerator
        self.identity, self.log = dict(identity), log
        self.checkpoints = Checkpoints(out / "checkpoints")
        self.step = self.images_seen = 0
        self.batches: list[list[int]] | None = None

    def restore(self, resume: str | None) -> None:
        """Go to the checkpoint that `resume` names, or to the beginning.

        Args:
            resume: "latest" (which begins where there is none), or a checkpoint; None = begin.

        Raises:
            ValueError: the folder holds a run and nothing says to go on with it, no such checkpoint, or one that was
                made with other settings.
        """
        found = self.checkpoints.find(resume) if resume is not None else None
        main = self.accelerator.is_main_process
        if found is None:
            if self.checkpoints.steps() or (self.out / "config.json").exists():
                raise ValueError(
                    f"out={str(self.out)!r} holds a run already; go on with it by resume='latest', or give another "
                    f"folder"
                )
            if main:
                # of a run that was killed before its first checkpoint, and may have had other settings
                self.checkpoints.clear()
                self.log.begin(0)
            return
        self._check_identity(found)
        saved = self.checkpoints.load(found, self.towers, self.optimizer.optimizer)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.images_seen = int(saved["step"]), int(saved["images_seen"])
        self.batches = self.checkpoints.load_batches(found)
        if main:
            self.log.begin(self.step)
            logger.info("going on from %s", found)

    def save(self) -> None:
        """Write a checkpoint; all processes wait for it."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            saved = {
                "step": self.step,
                "images_seen": self.images_seen,
                "run": self.identity,
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            self.checkpoints.save(self.towers, self.optimizer.optimizer, saved, self.batches)
        self.accelerator.wait_for_everyone()

    def _check_identity(self, path: Path) -> None:
        saved = read_state(path)["run"]
        changed = [
            f"{name}={self.identity.get(name)!r} (was {saved.get(name)!r})"
            for name in {**saved, **self.identity}
            if name not in FREE and self.identity.get(name) != saved.get(name)
        ]
        if changed:
            raise ValueError(
                f"{path} was made with other settings: {', '.join(changed)}; give the same, or another out folder"
            )
