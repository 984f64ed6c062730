"""Store a model as its difference from another: matrices of low rank in place of whole weights.

A distilled transformer lies close to the one that it was distilled from, so a few directions of each weight hold what
was learned (as in LoRA, arXiv 2106.09685), in an eighth of the bytes. Unlike an adapter, the difference is added to the
weights when they are loaded: what runs is the plain model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from negguide._utils.files import whole_file

FILE = "delta.safetensors"
_LEFT, _RIGHT, _WHOLE = "left.", "right.", "whole."


def save(folder: Path, model: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int) -> Path:
    """Write the difference of two models in half precision; the file's path is returned.

    Args:
        folder: gets `FILE`.
        model, base: weights by name. What is only in ``model``, and what has one dimension, is stored whole.
        rank: of each stored difference of matrices, the best one of it (arXiv 2106.09685 has as many parameters).

    Raises:
        ValueError: a rank below 1, or a weight of ``base`` that ``model`` lacks or has in another shape.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    different = [key for key in base if key not in model or model[key].shape != base[key].shape]
    if different:
        raise ValueError(
            f"model lacks, or has in another shape, {', '.join(different[:3])}; give two of one kind"
        )
    tensors: dict[str, Tensor] = {}
    for key, value in model.items():
        change = value.float() - base[key].float() if key in base else value.float()
        if key in base and value.ndim == 2 and min(value.shape) > rank:
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            root = sizes[:rank].sqrt()
            tensors[_LEFT + key] = left[:, :rank] * root
            tensors[_RIGHT + key] = root[:, None] * right[:rank]
        else:
            tensors[_WHOLE + key] = change
    halves = {key: value.half().contiguous() for key, value in tensors.items()}
    with whole_file(folder / FILE) as partial:
        save_file(halves, partial, metadata={"base": fingerprint(base)})
    return folder / FILE


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """What tells weights from all others: a hash of their names and of their values in half precision."""
    found = hashlib.sha256()
    for key in sorted(weights):
        found.update(key.encode())
        found.update(weights[key].detach().cpu().half().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def load(folder: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `save` was given, up to its rank, in float32.

    Args:
        folder: with `FILE` in it.
        base: the weights that the difference was taken from.

    Raises:
        ValueError: a difference from another base.
    """
    with safe_open(folder / FILE, "pt") as file:
        made_from = (file.metadata() or {}).get("base")
        stored = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if made_from != fingerprint(base):
        raise ValueError(
            f"{folder / FILE} is the difference from another model: its weights are not those that were given"
        )
    model: dict[str, Tensor] = {}
    for key, value in stored.items():
        kind, name = key.split(".", 1)
        if f"{kind}." == _RIGHT:
            continue
        change = value @ stored[_RIGHT + name] if f"{kind}." == _LEFT else value
        model[name] = base[name].float() + change if name in base else change
    return model
