"""Checkpoints of a training run: safetensors and JSON, each there in whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from negguide._utils.files import flush, whole_file, whole_folder

KEPT = 2
"""How many of the last checkpoints stay."""
LATEST = "latest"
_STATE = re.compile(r"step-\d{8}")
_BEST = "best.safetensors"
_BATCHES = "batches.safetensors"
BEFORE = "before.json"
"""The figures of the start model."""


class Checkpoints:
    """The folder of checkpoints of one run, and the best weights so far.

    A checkpoint has `model.safetensors` (what is trained), `optimizer.safetensors` (AdamW's moments) and
    `state.json` (the step, the settings, the scaler of float16). The learning rate, the order of rows and all
    random numbers are functions of the seed and the step, so nothing else is needed to go on; but where an earlier
    state of the model has chosen the batches, `batches.safetensors` has them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        """Forget the best weights and the figures of the start model, where no checkpoint goes with them."""
        for name in (_BEST, BEFORE):
            (self.folder / name).unlink(missing_ok=True)

    def steps(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _STATE.fullmatch(path.name))

    def find(self, resume: str) -> Path | None:
        """The checkpoint that `resume` names: "latest", a name or a folder; None when there is none yet.

        Raises:
            ValueError: there is no checkpoint of that name.
        """
        checkpoints = self.steps()
        if resume == LATEST:
            return checkpoints[-1] if checkpoints else None
        for path in checkpoints:
            if resume == path.name or Path(resume).resolve() == path.resolve():
                return path
        known = ", ".join(path.name for path in checkpoints) or "none"
        raise ValueError(
            f"resume={resume!r} is no checkpoint of {self.folder}; give {LATEST!r} or one of: {known}"
        )

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        batches: Sequence[Sequence[int]] | None = None,
    ) -> Path:
        """Write the checkpoint after `state["step"]` steps, then remove all but the last `KEPT`."""
        path = self.folder / f"step-{state['step']:08d}"
        names: dict[Tensor, str] = {parameter: name for name, parameter in trained(model).items()}
        moments = {
            f"{names[parameter]}/{key}": torch.as_tensor(value).contiguous()
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }
        # there may be one of the same step, from before a resume
        with whole_folder(path) as partial:
            save_file(_weights(model), partial / "model.safetensors")
            save_file(moments, partial / "optimizer.safetensors")
            if batches is not None:
                save_file({"rows": torch.tensor(batches)}, partial / _BATCHES)
            (partial / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            for file in partial.iterdir():
                flush(file)
        flush(self.folder)
        for old in self.steps()[:-KEPT]:
            shutil.rmtree(old)
        return path

    def load(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Put the weights and moments of a checkpoint into place, and return its `state.json`."""
        load_trained(model, load_file(path / "model.safetensors"))
        parameters = trained(model)
        for key, value in load_file(path / "optimizer.safetensors").items():
            name, _, what = key.rpartition("/")
            parameter = parameters[name]
            # AdamW counts its steps on the CPU
            device = torch.device("cpu") if what == "step" else parameter.device
            optimizer.state[parameter][what] = value.to(device)
        return read_state(path)

    def load_batches(self, path: Path) -> list[list[int]] | None:
        """The batches of a checkpoint; None where it has none."""
        file = path / _BATCHES
        return load_file(file)["rows"].tolist() if file.is_file() else None

    def save_best(self, model: nn.Module, step: int, score: float) -> None:
        """Keep the weights as the best so far."""
        with whole_file(self.folder / _BEST) as partial:
            save_file(_weights(model), partial, metadata={"step": str(step), "score": repr(score)})

    def load_best(self, model: nn.Module) -> None:
        """Put the best weights into place."""
        load_trained(model, load_file(self.folder / _BEST))

    def best(self) -> tuple[int, float] | None:
        """The step and the score of the best weights."""
        path = self.folder / _BEST
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        return int(metadata["step"]), float(metadata["score"])


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint."""
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors` into what is trained.

    Raises:
        ValueError: they are of another model, or of one that was trained in other parts.
    """
    parameters = trained(model)
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())
        raise ValueError(f"the weights on disk are of other parts of the model: {', '.join(odd[:3])}, ...")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in trained(model).items()}
