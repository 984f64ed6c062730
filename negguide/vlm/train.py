"""Fine-tune a CLIP-like model on a set of pairs and their negatives.

outcome = finetune(Settings(train_data="mined", loss="triplet"), Path("tuned"))
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from negguide.vlm import gradcache
from negguide.vlm.accelerator import make_accelerator
from negguide.vlm.batches import Batch
from negguide.vlm.checkpoint import BEFORE, Checkpoints, read_state
from negguide.vlm.evaluate import evaluate
from negguide.vlm.log import Log
from negguide.vlm.models import load_model
from negguide.vlm.objective import objective
from negguide.vlm.results import Results
from negguide.vlm.settings import LOSSES, SIGMOID, Settings
from negguide.vlm.suites.base import Suite
from negguide.vlm.towers import guide_features, interpolate, merged, parameter_groups, prepare
from negguide.vlm.training_set import read_training_set
from negguide.vlm.validation import score

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Of AdamW, as CLIP and open_clip have them."""
FREE = ("workers", "save_every")
"""Settings that may differ when a run goes on: they do not change its result."""
NAMED = 16
"""The most items of a bad batch that a message names; the log names all."""


class LossNotFinite(ValueError):
    """The loss or its gradient is NaN or infinite; the message names the rows."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        folder: the model, loadable by plain transformers, with README.md, log and curves.
        before, after: the figures of the start model and of the result; None without suites and held-out rows.
        best: the step and the validation score of the state that was taken; None without validation.
        steps: optimiser steps in all.
        remarks: what was found in the set.
        written: whether this process is the one that wrote the folder.
    """

    folder: Path
    before: Results | None
    after: Results | None
    best: tuple[int, float] | None
    steps: int
    remarks: tuple[str, ...]
    written: bool = True


def finetune(
    settings: Settings,
    out: Path,
    *,
    resume: str | None = None,
    report_to: str | None = None,
    suites: Sequence[Suite] = (),
    limit: int | None = None,
    cpu: bool = False,
    remark: Callable[[str], None] = print,
) -> Outcome:
    """Train, keep the state that is best on held-out rows, and write it as a model of transformers.

    It may be killed at any time; with ``resume="latest"`` the same call goes on from the last state, to the same
    weights.

    Args:
        settings: how.
        out: the folder of the result; checkpoints are in it while it is made.
        resume: "latest" or the name of a state in ``out/checkpoints``; "latest" starts afresh where there is none.
        report_to: a tracker of accelerate: tensorboard, wandb, trackio, ...
        suites: asked before and after, beside the held-out rows.
        limit: what they were made with; for the record.
        cpu: use no GPU.
        remark: gets a line of text now and then.

    Raises:
        ValueError: wrong settings, a set that cannot be used, a state of other settings, an image that does not
            decode.
        LossNotFinite: training went wrong; the last state is good.
    """
    accelerator = make_accelerator(settings, out, report_to, cpu)
    said = remark if accelerator.is_main_process else lambda text: None
    run = _Run(settings, out, accelerator, suites, limit, said)
    return run.go(resume)


class _Run:
    def __init__(
        self,
        settings: Settings,
        out: Path,
        accelerator: Accelerator,
        suites: Sequence[Suite],
        limit: int | None,
        remark: Callable[[str], None],
    ) -> None:
        self.limit = limit
        self.settings, self.out, self.accelerator, self.remark = settings, out, accelerator, remark
        self.checkpoints = Checkpoints(out / "checkpoints")
        self.start = load_model(settings.model, device=accelerator.device)
        if settings.loss in SIGMOID and self.start.kind != "siglip":
            raise ValueError(
                f"loss={settings.loss!r} needs a model with a logit bias (SiglipModel), and model={settings.model!r} "
                f"is a CLIPModel; use one of {', '.join(name for name in LOSSES if name not in SIGMOID)}"
            )
        self.data = read_training_set(settings, self.start, accelerator.num_processes)
        self.suites = [*([self.data.held_out] if self.data.held_out else []), *suites]
        self.steps = len(self.data.sampler) * settings.epochs
        self.warmup = math.ceil(self.steps / 10) if settings.warmup is None else settings.warmup

        tuned = load_model(settings.model, device=accelerator.device)
        if settings.precision == "amp_bf16" and accelerator.device.type == "cpu":
            # torch has no fast backward of fused attention in bfloat16 on CPUs: it would cost more than all the rest
            tuned.model.set_attn_implementation("eager")
        torch.manual_seed(_seed(settings.seed, 0, 0))  # low-rank updates begin with random numbers
        self.towers = prepare(
            tuned,
            lock_image=settings.lock_image,
            lock_text=settings.lock_text,
            lora=settings.lora,
            grad_checkpointing=settings.grad_checkpointing,
            bias=settings.loss in SIGMOID,
        )
        optimizer = torch.optim.AdamW(
            parameter_groups(self.towers, settings.wd), lr=settings.lr, betas=BETAS, eps=EPSILON
        )
        self.wrapped, self.optimizer = accelerator.prepare(self.towers, optimizer)
        self.guide_scale = self.start.model.logit_scale.detach().float().exp()
        self.log = Log(out / "log.jsonl")

    def go(self, resume: str | None) -> Outcome:
        first = self._restore(resume)
        every = self.accelerator.gather(torch.tensor([first], device=self.accelerator.device)).tolist()
        if len(set(every)) > 1:
            raise ValueError(
                f"out={str(self.out)!r}: the processes would go on from the steps {', '.join(map(str, every))}; all of "
                f"them must see the same folder"
            )
        for text in self.data.remarks:
            self.remark(text)
        before = self._before()
        if not self.settings.guided:  # its place on the device is worth more than the time to fetch it back
            self.start.model.to("cpu")
        self.accelerator.init_trackers("negguide", config=_flat(self.settings))
        self._steps(first)
        outcome = self._finish(before)
        self.accelerator.end_training()
        return outcome

    # ---- training

    def _steps(self, first: int) -> None:
        settings, accelerator, per_epoch = self.settings, self.accelerator, len(self.data.sampler)
        loader = self.data.loader(
            settings,
            self.start,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            device=accelerator.device,
        )
        bar = tqdm(
            total=self.steps,
            initial=first,
            desc="finetune",
            unit="step",
            disable=not accelerator.is_main_process,
        )
        with closing(bar):
            for epoch in range(first // per_epoch, settings.epochs):
                self.wrapped.train()
                began = time.perf_counter()
                for batches in loader.epoch(epoch, first - epoch * per_epoch):
                    line = self._step(first, [batch.to(accelerator.device) for batch in batches])
                    now = time.perf_counter()
                    images = sum(b.images_seen for b in batches) * accelerator.num_processes
                    first += 1
                    line |= {"step": first, "epoch": epoch + 1, "images_per_second": images / (now - began)}
                    began = now
                    self._note(line)
                    bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
                    bar.update()
                    if settings.save_every and first % settings.save_every == 0 and first % per_epoch:
                        self._save(first)
                self._epoch_ends(epoch + 1, first)

    def _step(self, step: int, batches: Sequence[Batch]) -> dict[str, Any]:
        settings, accelerator = self.settings, self.accelerator
        rate = self._rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # random numbers are a function of the step, so that a run that goes on draws the same
        torch.manual_seed(_seed(settings.seed, step, accelerator.process_index))
        # what a curriculum teaches first is what the start model does not see: its view would hold it back
        first = bool(settings.curriculum) and step < settings.curriculum_epochs * len(self.data.sampler)
        distilling = bool(settings.distill) and not first
        guided = distilling or settings.continuous or settings.false_negative_share is not None
        with accelerator.autocast():
            guides = [guide_features(self.start, batch) for batch in batches] if guided else []
        parts: dict[str, Tensor] = {}

        def loss(features: Sequence[tuple[Tensor, ...]]) -> Tensor:
            value, found = objective(
                settings, features, batches, guides, self.guide_scale, distilling=distilling
            )
            parts.update(found)
            if not math.isfinite(float(accelerator.reduce(value.detach(), "mean"))):
                raise self._failed(step, "the loss")
            return value

        value = gradcache.backward(
            lambda batch: self.wrapped(batch.images, batch.texts),
            batches,
            loss,
            loss_backward=accelerator.backward,
            no_sync=lambda: accelerator.no_sync(self.wrapped),
        )
        norm = accelerator.clip_grad_norm_(self.towers.parameters(), settings.grad_clip_norm or math.inf)
        # with float16 the scaler expects infinite gradients now and then, and leaves such steps out
        if settings.precision != "amp" and not math.isfinite(float(norm)):
            raise self._failed(step, "the gradient")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.towers.clamp_scale()
        named = {"loss": value, **{name: part.detach() for name, part in parts.items() if len(parts) > 1}}
        means = accelerator.reduce(torch.stack(list(named.values())), "mean").tolist()
        return {
            **dict(zip(named, means, strict=True)),
            "lr": rate,
            "scale": float(self.towers.model.logit_scale.detach().exp()),
            "grad_norm": float(norm),
        }

    def _rate(self, step: int) -> float:
        """The learning rate: up in a line, down along a cosine."""
        if step < self.warmup:
            return self.settings.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.settings.lr * (1 + math.cos(math.pi * done)) / 2

    def _failed(self, step: int, what: str) -> LossNotFinite:
        epoch, ids = step // len(self.data.sampler), self.data.names(step)
        self._note({"step": step + 1, "epoch": epoch + 1, "failed": what, "items": ids})
        states = self.checkpoints.steps()
        kept = f"the last good state is {states[-1]}" if states else "no state had been written yet"
        more = (
            f" and {len(ids) - NAMED} more (all of them are in {self.log.path})" if len(ids) > NAMED else ""
        )
        return LossNotFinite(
            f"{what} is not finite at step {step + 1}; the batch held the items {', '.join(ids[:NAMED])}{more}; "
            f"{kept}; look at these items, or train with a lower lr (now {self.settings.lr:g}) or precision=fp32"
        )

    def _epoch_ends(self, epoch: int, step: int) -> None:
        settings = self.settings
        if self.data.held_out is not None and (epoch % settings.val_every == 0 or epoch == settings.epochs):
            if self.accelerator.is_main_process:
                value = score(evaluate(self.towers.vlm, [self.data.held_out], batch_size=settings.batch_size))
                self._note({"step": step, "epoch": epoch, "validation": value})
                best = self.checkpoints.best()
                if best is None or value >= best[1]:
                    self.checkpoints.save_best(self.towers, step, value)
            self.accelerator.wait_for_everyone()
        self._save(step)

    # ---- what is on disk

    def _restore(self, resume: str | None) -> int:
        """How many steps an earlier run has made."""
        found = self.checkpoints.find(resume) if resume is not None else None
        if found is None:
            if self.checkpoints.steps() or (self.out / "config.json").exists():
                raise ValueError(
                    f"out={str(self.out)!r} holds a run already; go on with it by resume='latest', or give another "
                    f"folder"
                )
            if self.accelerator.is_main_process:
                # of a run that was killed before its first state, and may have had other settings
                self.checkpoints.clear()
                self.log.begin(0)
            return 0
        self._check_state(found)
        state = self.checkpoints.load(found, self.towers, self.optimizer.optimizer)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.is_main_process:
            self.log.begin(state["step"])
        self.remark(f"going on from {found}")
        return int(state["step"])

    def _check_state(self, path: Path) -> None:
        there, here = read_state(path)["run"], self._identity()
        changed = [
            f"{name}={here.get(name)!r} (was {there.get(name)!r})"
            for name in {**there, **here}
            if name not in FREE and here.get(name) != there.get(name)
        ]
        if changed:
            raise ValueError(
                f"{path} was made with other settings: {', '.join(changed)}; give the same, or another out folder"
            )

    def _identity(self) -> dict[str, Any]:
        return {
            **asdict(self.settings),
            "processes": self.accelerator.num_processes,
            "data": self.data.fingerprint,
            "revision": self.start.revision,
        }

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "step": step,
                "run": self._identity(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            self.checkpoints.save(self.towers, self.optimizer.optimizer, state)
        self.accelerator.wait_for_everyone()

    def _note(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.log.add(line)
            numbers = {k: v for k, v in line.items() if isinstance(v, float | int) and k != "step"}
            self.accelerator.log(numbers, step=line["step"])

    # ---- before and after

    def _before(self) -> Results | None:
        if not self.suites:
            self.remark(
                "nothing is measured before and after: no suite is named, and val_share=0 holds no rows out"
            )
        if not self.suites or not self.accelerator.is_main_process:
            return None
        path = self.checkpoints.folder / BEFORE
        if path.is_file():
            known = Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
            asked = {suite.name: suite.version for suite in self.suites}
            if (known.suites, known.limit) == (asked, self.limit):
                return known
        self.remark("measuring the start model")
        results = evaluate(self.start, self.suites, limit=self.limit)
        results.save(path)
        return results

    def _finish(self, before: Results | None) -> Outcome:
        from negguide.vlm.card import write_result

        best = self.checkpoints.best()
        if best is not None:
            self.checkpoints.load_best(self.towers)
        self.accelerator.wait_for_everyone()
        vlm = merged(self.towers)
        if self.settings.wise_ft < 1:
            interpolate(self.start.model, vlm.model, self.settings.wise_ft)
        vlm = replace(vlm, name=str(self.out), revision=None)
        main = self.accelerator.is_main_process
        outcome = Outcome(self.out, before, None, best, self.steps, self.data.remarks, written=main)
        if main:
            if self.suites:
                self.remark("measuring the result")
                outcome = replace(outcome, after=evaluate(vlm, self.suites, limit=self.limit))
            write_result(vlm, self.settings, outcome, self.start.revision, self.data.fingerprint, self.log)
        self.accelerator.wait_for_everyone()
        return outcome


def _seed(seed: int, step: int, process: int) -> int:
    digest = hashlib.sha256(f"{seed}-{step}-{process}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _flat(settings: Settings) -> dict[str, Any]:
    """What trackers take: no None."""
    return {name: "" if value is None else value for name, value in asdict(settings).items()}
