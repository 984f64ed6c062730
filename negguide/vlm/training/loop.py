"""Fine-tune a CLIP-like model on a set of pairs and their negatives.

outcome = finetune(Settings(train_data="mined", loss="triplet"), Path("tuned"))
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from negguide.vlm.data.dataset import read_training_set
from negguide.vlm.data.loader import Batch
from negguide.vlm.evaluation.evaluate import evaluate
from negguide.vlm.evaluation.results import Results
from negguide.vlm.evaluation.suites.base import Suite
from negguide.vlm.training.accelerator import make_accelerator
from negguide.vlm.training.checkpoint import BEFORE
from negguide.vlm.training.config import Settings
from negguide.vlm.training.log import Log
from negguide.vlm.training.model_card import write_result
from negguide.vlm.training.outcome import Outcome
from negguide.vlm.training.refresh import Refresher
from negguide.vlm.training.state import TrainState
from negguide.vlm.training.task import Task, derived_seed
from negguide.vlm.training.towers import parameter_groups
from negguide.vlm.training.validation import held_out_suite, score

logger = logging.getLogger(__name__)

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Of AdamW, as CLIP and open_clip have them."""
NAMED = 16
"""The most items of a bad batch that a message names; the log names all."""


class LossNotFiniteError(ValueError):
    """The loss or its gradient is NaN or infinite; the message names the rows."""


def finetune(
    settings: Settings,
    out: Path,
    *,
    resume: str | None = None,
    report_to: str | None = None,
    suites: Sequence[Suite] = (),
    limit: int | None = None,
    cpu: bool = False,
) -> Outcome:
    """Train, keep the checkpoint that is best on held-out rows, and write it as a model of transformers.

    It may be killed at any time; with `resume="latest"` the same call goes on from the last checkpoint, to the same
    weights. What a reader should know on the way goes to the logger `negguide.vlm.training`.

    Args:
        settings: which set, model and loss, and how long; see `Settings`.
        out: the folder of the result; checkpoints are in it while it is made.
        resume: "latest" or the name of a checkpoint in `out/checkpoints`; "latest" starts afresh where there is none.
        report_to: a tracker of accelerate: tensorboard, wandb, trackio, ...
        suites: evaluated before and after, beside the held-out rows.
        limit: what they were made with; for the record.
        cpu: use no GPU.

    Raises:
        ValueError: wrong settings, a set that cannot be used, a checkpoint of other settings, an image that does not
            decode.
        LossNotFiniteError: training went wrong; the last checkpoint is good.
    """
    accelerator = make_accelerator(settings, out, report_to, cpu)
    return _Loop(settings, out, accelerator, suites, limit).run(resume)


class _Loop:
    """One run: steps, validation, and what is measured before and after."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        accelerator: Accelerator,
        suites: Sequence[Suite],
        limit: int | None,
    ) -> None:
        self.settings, self.out, self.accelerator, self.limit = settings, out, accelerator, limit
        self.task = Task(settings, accelerator.device)
        self.data = read_training_set(settings, self.task.teacher, accelerator.num_processes)
        held_out = held_out_suite(
            self.data.held_out.triplets, self.data.held_out.valid, self.data.fingerprint
        )
        self.held_out = held_out if held_out.parts else None
        self.suites = [*([held_out] if held_out.parts else []), *suites]
        self.steps = len(self.data.sampler) * settings.epochs
        self.warmup = math.ceil(self.steps / 10) if settings.warmup is None else settings.warmup
        if self.warmup > self.steps:
            raise ValueError(
                f"warmup={self.warmup} is more than the {self.steps} steps of the run, which would never reach its "
                "learning rate; give fewer"
            )
        optimizer = torch.optim.AdamW(
            parameter_groups(self.task.towers, settings.wd), lr=settings.peak_lr, betas=BETAS, eps=EPSILON
        )
        if settings.torch_compile:
            # in place: its weights keep their names, and what is measured and saved stays uncompiled
            self.task.towers.compile()
        self.task.forward, self.optimizer = accelerator.prepare(self.task.towers, optimizer)
        self.log = Log(out / "log.jsonl")
        self.loader = self.data.loader(
            settings,
            self.task.teacher,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            device=accelerator.device,
        )
        self.refresher = (
            Refresher(settings, self.data, self.task, self.loader, accelerator)
            if settings.refresh_negatives is not None
            else None
        )
        identity = {
            **settings.to_dict(),
            "processes": accelerator.num_processes,
            "data": self.data.fingerprint,
            "revision": self.task.teacher.revision,
        }
        self.state = TrainState(out, self.task.towers, self.optimizer, accelerator, identity, self.log)

    def run(self, resume: str | None) -> Outcome:
        self.state.restore(resume)
        step = torch.tensor([self.state.step], device=self.accelerator.device)
        every = self.accelerator.gather(step).tolist()
        if len(set(every)) > 1:
            raise ValueError(
                f"out={str(self.out)!r}: the processes would go on from the steps {', '.join(map(str, every))}; all of "
                f"them must see the same folder"
            )
        if self.accelerator.is_main_process:
            for text in self.data.notes:
                logger.warning(text)
        before = self._before()
        if not self.settings.needs_teacher:
            # its place on the device is worth more than the time to fetch it back
            self.task.teacher.model.to("cpu")
        self.accelerator.init_trackers("negguide", config=_flat(self.settings))
        self._train()
        outcome = self._finish(before)
        self.accelerator.end_training()
        return outcome

    # ---- training

    def _train(self) -> None:
        settings, accelerator, state = self.settings, self.accelerator, self.state
        per_epoch = len(self.data.sampler)
        bar = tqdm(
            total=self.steps,
            initial=state.step,
            desc="finetune",
            unit="step",
            disable=not accelerator.is_main_process,
        )
        with closing(bar):
            for epoch in range(state.step // per_epoch, settings.epochs):
                self.task.forward.train()
                while state.step < (epoch + 1) * per_epoch:
                    self._steps(epoch, self._next_batches(epoch), bar)
                self._validate(epoch + 1)
                state.save()

    def _next_batches(self, epoch: int) -> list[list[int]]:
        """The batches of `epoch` from where the run stands to its end, or to the next refresh."""
        state, refresher, per_epoch = self.state, self.refresher, len(self.data.sampler)
        left = (epoch + 1) * per_epoch - state.step
        if refresher is None:
            return self.data.sampler.epoch(epoch)[-left:]
        place = state.step % refresher.every
        if not place:
            began = time.perf_counter()
            refreshed = refresher.refresh(state.step)
            state.batches = refreshed.batches
            # under the number of the first step that it is for: to go on from a checkpoint before it is to do it again
            seconds = time.perf_counter() - began
            self._note(
                {"step": state.step + 1, "epoch": epoch + 1, **refresher.note(refreshed), "seconds": seconds}
            )
        assert state.batches is not None
        return state.batches[place : place + left]

    def _steps(self, epoch: int, batches: list[list[int]], bar: Any) -> None:
        settings, accelerator, state = self.settings, self.accelerator, self.state
        began = time.perf_counter()
        for rows, own in zip(batches, self.loader.steps(epoch, batches), strict=True):
            line = self._step([batch.to(accelerator.device) for batch in own], rows)
            now = time.perf_counter()
            images = round(line.pop("images") * accelerator.num_processes)
            state.step += 1
            state.images_seen += images
            line |= {"step": state.step, "epoch": epoch + 1, "images_seen": state.images_seen}
            line |= {"images_per_second": images / (now - began)}
            began = now
            self._note(line)
            bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
            bar.update()
            if (
                settings.save_every
                and state.step % settings.save_every == 0
                and state.step % len(self.data.sampler)
            ):
                state.save()

    def _step(self, batches: Sequence[Batch], rows: Sequence[int]) -> dict[str, Any]:
        """One step of the optimiser over this process's `batches` of the `rows` of all."""
        settings, accelerator, step = self.settings, self.accelerator, self.state.step
        rate = self._rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derived_seed(settings.seed, step, accelerator.process_index))
        # what a curriculum teaches first is what the start model does not see: its view would hold it back
        first = bool(settings.curriculum) and step < settings.curriculum_epochs * len(self.data.sampler)

        def check(loss: Tensor) -> None:
            if not math.isfinite(float(accelerator.reduce(loss, "mean"))):
                raise self._failed(rows, "the loss")

        value, parts = self.task.backward(
            batches, accelerator, distilling=bool(settings.distill) and not first, check=check
        )
        towers = self.task.towers
        norm = accelerator.clip_grad_norm_(towers.parameters(), settings.grad_clip_norm or math.inf)
        # with float16 the scaler expects infinite gradients now and then, and leaves such steps out
        if settings.precision != "amp" and not math.isfinite(float(norm)):
            raise self._failed(rows, "the gradient")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        towers.clamp_scale()
        images = torch.tensor(float(sum(batch.images_seen for batch in batches)), device=value.device)
        named = {"loss": value, **(parts if len(parts) > 1 else {}), "images": images}
        means = accelerator.reduce(torch.stack(list(named.values())).float(), "mean").tolist()
        return {
            **dict(zip(named, means, strict=True)),
            "lr": rate,
            "scale": float(towers.model.logit_scale.detach().exp()),
            "grad_norm": float(norm),
        }

    def _rate(self, step: int) -> float:
        """The learning rate: up in a line, down along a cosine."""
        peak = self.settings.peak_lr
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return peak * (1 + math.cos(math.pi * done)) / 2

    def _failed(self, rows: Sequence[int], what: str) -> LossNotFiniteError:
        step, ids = self.state.step, self.data.names(rows)
        epoch = step // len(self.data.sampler)
        self._note({"step": step + 1, "epoch": epoch + 1, "failed": what, "items": ids})
        saved = self.state.checkpoints.steps()
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written yet"
        more = (
            f" and {len(ids) - NAMED} more (all of them are in {self.log.path})" if len(ids) > NAMED else ""
        )
        return LossNotFiniteError(
            f"{what} is not finite at step {step + 1}; the batch held the items {', '.join(ids[:NAMED])}{more}; "
            f"{kept}; look at these items, or train with a lower lr (now {self.settings.peak_lr:g}) or precision=fp32"
        )

    def _validate(self, epoch: int) -> None:
        settings, checkpoints = self.settings, self.state.checkpoints
        if self.held_out is None or (epoch % settings.val_every and epoch != settings.epochs):
            return
        if self.accelerator.is_main_process:
            found = evaluate(self.task.towers.vlm, [self.held_out], batch_size=settings.batch_size)
            value = score(found)
            self._note({"step": self.state.step, "epoch": epoch, "validation": value})
            best = checkpoints.best()
            if best is None or value >= best[1]:
                checkpoints.save_best(self.task.towers, self.state.step, value)
        self.accelerator.wait_for_everyone()

    def _note(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.log.add(line)
            numbers = {k: v for k, v in line.items() if isinstance(v, float | int) and k != "step"}
            self.accelerator.log(numbers, step=line["step"])

    # ---- before and after

    def _before(self) -> Results | None:
        if not self.accelerator.is_main_process:
            return None
        if not self.suites:
            rows = len(self.data.held_out.triplets)
            logger.warning(
                "nothing is measured before and after: no suite is named, and %s",
                f"the {rows} rows held out make no question: captions of several images, and no negatives"
                if rows
                else "val_fraction=0 holds no rows out",
            )
            return None
        path = self.state.checkpoints.folder / BEFORE
        if path.is_file():
            known = Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
            versions = {suite.name: suite.version for suite in self.suites}
            if (known.suites, known.limit) == (versions, self.limit):
                return known
        logger.info("measuring the start model")
        results = evaluate(self.task.teacher, self.suites, limit=self.limit)
        results.save(path)
        return results

    def _finish(self, before: Results | None) -> Outcome:
        state = self.state
        best = state.checkpoints.best()
        if best is not None:
            state.checkpoints.load_best(self.task.towers)
        self.accelerator.wait_for_everyone()
        vlm = self.task.result(str(self.out))
        main = self.accelerator.is_main_process
        outcome = Outcome(
            self.out, before, None, best, self.steps, state.images_seen, self.data.notes, written=main
        )
        if main:
            if self.suites:
                logger.info("measuring the result")
                outcome = replace(outcome, after=evaluate(vlm, self.suites, limit=self.limit))
            write_result(
                vlm, self.settings, outcome, self.task.teacher.revision, self.data.fingerprint, self.log
            )
        self.accelerator.wait_for_everyone()
        return outcome


def _flat(settings: Settings) -> dict[str, Any]:
    """What trackers take: no None."""
    return {name: "" if value is None else value for name, value in settings.to_dict().items()}
