"""One denoiser call as branches: folding more predictions into it, and unfolding the result.

A *branch* is one prediction for each of the B images of a run: the unconditional one, the conditional one, one per
active negative. A pipeline's call holds one or more branches one after another along the batch axis; here further
branches are appended, and everything is run in as few forwards as `max_branch_batch` allows. Families that call
the denoiser once per branch pass calls of one branch; nothing here counts on there being two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Inputs = Mapping[str, Any]
"""A denoiser call's inputs by name."""


@dataclass(frozen=True)
class Branch:
    """Rows of the pipeline's call, with other text where `text` is given ({input: [as many rows, ...]})."""

    rows: slice
    text: Mapping[str, torch.Tensor] | None = None


def fold(inputs: Inputs, total: int, branches: Sequence[Branch]) -> dict[str, Any]:
    """The inputs of one call that holds all `branches`, one after another.

    Every tensor, at any depth of dicts, lists and tuples, whose first axis is `total` long is batched and is put
    together from each branch's rows; everything else is shared.
    """
    return {name: _fold(value, total, branches, name) for name, value in inputs.items()}


def _fold(value: Any, total: int, branches: Sequence[Branch], name: str | None) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == total:
        return torch.cat([_rows(value, branch, name) for branch in branches])
    if isinstance(value, Mapping):
        return {key: _fold(inner, total, branches, None) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_fold(inner, total, branches, None) for inner in value)
    return value


def _rows(value: torch.Tensor, branch: Branch, name: str | None) -> torch.Tensor:
    if name is not None and branch.text is not None and name in branch.text:
        return branch.text[name].to(value)
    return value[branch.rows]


def run_branches(
    forward: Callable[[int, dict[str, Any]], torch.Tensor],
    inputs: Inputs,
    total: int,
    branches: Sequence[Branch],
    max_branch_batch: int | None,
) -> list[torch.Tensor]:
    """One prediction [rows, ...] for each branch, by forwards of at most `max_branch_batch` branches each.

    `forward(count, inputs)` runs the denoiser on inputs that hold `count` branches. Branches whose text has another
    shape cannot share a batch and are run apart.
    """
    predictions: list[torch.Tensor] = []
    for group in _groups(inputs, branches, max_branch_batch):
        output = forward(len(group), fold(inputs, total, group))
        # copied, because a forward that replays CUDA graphs writes its next result into the same memory
        predictions += output.clone().chunk(len(group))
    return predictions


def _groups(inputs: Inputs, branches: Sequence[Branch], limit: int | None) -> Iterator[list[Branch]]:
    names = sorted({name for branch in branches for name in branch.text or ()})

    def text_shapes(branch: Branch) -> list[torch.Size]:
        return [(branch.text or inputs)[name].shape[1:] for name in names]

    group: list[Branch] = []
    for branch in branches:
        full = limit is not None and len(group) == limit
        if group and (full or text_shapes(branch) != text_shapes(group[0])):
            yield group
            group = []
        group.append(branch)
    yield group
