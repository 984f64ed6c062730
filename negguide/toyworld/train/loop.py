"""One resumable training loop for every embedded model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from negguide._utils.files import whole_file
from negguide.toyworld.train.settings import Settings

SAVE_EVERY_SECONDS = 120.0

Batch = dict[str, Tensor]


class Checkpoint:
    """Weights, running averages and optimiser state in one folder of safetensors, replaced atomically."""

    def __init__(self, folder: Path, modules: Mapping[str, nn.Module], ema: float, seed: int) -> None:
        self.folder = folder
        self.modules = modules
        self.ema = ema
        self.seed = seed
        self.averages: dict[str, dict[str, Tensor]] = {}
        if ema:
            for name, module in modules.items():
                self.averages[name] = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.step = 0
        self.seconds = 0.0

    def update_averages(self) -> None:
        """Take the weights of this step into their running averages."""
        # The usual warm-up of the average, so that the first random weights are soon forgotten.
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        for name, module in self.modules.items():
            state = module.state_dict()
            averaged = [key for key, value in state.items() if value.is_floating_point()]
            torch._foreach_lerp_(
                [self.averages[name][key] for key in averaged], [state[key] for key in averaged], 1 - decay
            )
            for key in state.keys() - set(averaged):
                self.averages[name][key].copy_(state[key])

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write everything that going on needs."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= {f"weights.{name}.{k}": v.contiguous().clone() for k, v in module.state_dict().items()}
        for name, averages in self.averages.items():
            tensors |= {f"average.{name}.{k}": v.contiguous() for k, v in averages.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
        made = {"step": self.step, "seconds": self.seconds, "seed": self.seed}
        with whole_file(self.folder / "checkpoint.safetensors") as partial:
            save_file(tensors, partial, metadata={key: str(value) for key, value in made.items()})

    def restore(self, optimizer: torch.optim.Optimizer) -> bool:
        """Load what an earlier run left behind; False when there is nothing.

        Raises:
            ValueError: it was begun with another seed, so its first weights and batches are not those of this one.
        """
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            made = file.metadata()
        if int(made.get("seed", self.seed)) != self.seed:  # older checkpoints do not say it
            raise ValueError(
                f"seed={self.seed}: {path} was begun with seed {made['seed']}; go on with that, or in another folder"
            )
        tensors = load_file(path)
        state: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, dict[str, Tensor]] = {name: {} for name in self.modules}
        for key, value in tensors.items():
            part, name, rest = key.split(".", 2)
            if part == "weights":
                weights[name][rest] = value
            elif part == "average":
                self.averages[name][rest].copy_(value)
            else:
                state.setdefault(int(name), {})[rest] = value
        for name, module in self.modules.items():
            module.load_state_dict(weights[name])
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(made["step"]), float(made["seconds"])
        return True

    def finish(self) -> None:
        """Put the running averages into the modules."""
        for name, averages in self.averages.items():
            self.modules[name].load_state_dict(averages)


def result(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights of module ``name`` that a training left in ``folder``: the running average where one is kept.

    Raises:
        ValueError: when nothing was trained there.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        raise ValueError(f"{path} does not exist; train {folder.name!r} first")
    tensors = load_file(path)
    part = "average" if any(key.startswith("average.") for key in tensors) else "weights"
    prefix = f"{part}.{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


class _Batches(Dataset[Batch]):
    """Batch number i, made where the loader wants it: here or in a worker process."""

    def __init__(self, make: Callable[[int], Batch], steps: range) -> None:
        self.make = make
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Batch:
        return self.make(self.steps[index])


def train(
    modules: Mapping[str, nn.Module],
    make_batch: Callable[[int], Batch],
    loss: Callable[[Batch, torch.Generator], Mapping[str, Tensor]],
    settings: Settings,
    folder: Path,
    *,
    name: str,
    sample: Callable[[int], None] | None = None,
) -> Path:
    """Minimise the sum of the loss terms and leave the trained weights in ``modules``.

    Args:
        modules: what is trained, by name; already on the device.
        make_batch: makes batch number i, tensors on the CPU; runs in ``settings.workers`` processes.
        loss: the loss terms of a batch on the device; draws its randomness from the generator, which is
            seeded by the number of the step, so that a resumed run draws what an uninterrupted one would have drawn.
        settings: see ``Settings``.
        folder: holds ``checkpoint.safetensors`` and ``log.jsonl``; an earlier run found here is continued.
        name: shown on the progress bar.
        sample: called with the number of steps whenever a checkpoint has been written, to draw from it.

    Raises:
        ValueError: when the earlier run had another seed.
        FloatingPointError: when the loss is not finite; the last checkpoint stays as it is.
    """
    device = torch.device(settings.device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=on_gpu
    )
    checkpoint = Checkpoint(folder, modules, settings.ema, settings.seed)
    checkpoint.restore(optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    started = saved - checkpoint.seconds
    # by the clock, the number of steps is not known beforehand
    steps = range(checkpoint.step, settings.steps if settings.minutes is None else 10**9)
    if settings.done(checkpoint.step, checkpoint.seconds) >= 1:
        steps = range(0)
    # batch_size=None: an item of the data set is a whole batch
    batches = DataLoader(
        _Batches(make_batch, steps), batch_size=None, num_workers=settings.workers, pin_memory=on_gpu
    )
    total_steps = settings.steps if settings.minutes is None else None
    bar = tqdm(
        zip(steps, batches, strict=True),
        initial=checkpoint.step,
        total=total_steps,
        desc=name,
        mininterval=1.0,
    )
    with (folder / "log.jsonl").open("a") as log:
        for step, batch in bar:
            for group in optimizer.param_groups:
                group["lr"] = settings.lr_at(step, checkpoint.seconds)
            generator = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + step)
            terms = loss({k: v.to(device, non_blocking=True) for k, v in batch.items()}, generator)
            total = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            now = time.monotonic()
            last = settings.done(step + 1, now - started) >= 1
            due = now - saved > SAVE_EVERY_SECONDS or last
            # Reading the loss waits for a GPU: there it is read only where it is written down or about to be kept.
            if (step % 20 == 0 or due or not on_gpu) and not torch.isfinite(total):
                raise FloatingPointError(
                    f"{name}: the loss of step {step} is {total.item()}; last checkpoint kept"
                )
            optimizer.step()
            checkpoint.step, checkpoint.seconds = step + 1, now - started
            if settings.ema:
                checkpoint.update_averages()
            if step % 20 == 0 or last:
                values = {key: round(value.item(), 5) for key, value in terms.items()}
                bar.set_postfix(values)
                log.write(json.dumps({"step": step, "seconds": round(now - started, 1), **values}) + "\n")
                log.flush()
            if due:
                checkpoint.save(optimizer)
                if sample is not None:
                    sample(step + 1)
                saved = time.monotonic()
            if last:
                break
    checkpoint.finish()
    return folder / "checkpoint.safetensors"
