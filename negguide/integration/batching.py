"""One denoiser call as branches: folding more predictions into it, and unfolding the result.

A *branch* is one prediction for each of the B images of a run: the unconditional one, the conditional one, one per
active negative. A pipeline's call holds one or more branches one after another along the batch axis; here further
branches are appended, and everything is run in as few forwards as `max_branch_batch` allows. Families that call
the denoiser once per branch pass calls of one branch; nothing here counts on there being two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from negguide.integration.family import Family, text_input, with_text

Inputs = Mapping[str, Any]
"""A denoiser call's inputs by name."""


@dataclass(frozen=True)
class Branch:
    """Rows of the pipeline's call, with other text where `text` is given ({text input: [as many rows, ...]})."""

    name: str
    rows: slice
    text: Mapping[str, Any] = field(default_factory=dict)


def fold(family: Family, inputs: Inputs, total: int, branches: Sequence[Branch]) -> dict[str, Any]:
    """The inputs of one call that holds all `branches`, one after another.

    Every tensor, at any depth of dicts, lists and tuples, whose first axis is `total` long is batched and is put
    together from each branch's rows, as are the family's lists of rows; everything else, and what the family says is
    shared, stays. Text comes from the branch where it has its own.
    """
    folded = dict(inputs)
    for name, value in inputs.items():
        if name in family.row_lists:
            folded[name] = [row for branch in branches for row in value[branch.rows]]
        elif name not in family.shared:
            folded[name] = _fold(value, total, branches)
    paths = sorted({path for branch in branches for path in branch.text})
    return with_text(folded, {path: _joined_text(inputs, path, branches) for path in paths})


def _joined_text(inputs: Inputs, path: str, branches: Sequence[Branch]) -> Any:
    own = text_input(inputs, path)
    parts = [
        branch.text[path] if path in branch.text else None if own is None else own[branch.rows]
        for branch in branches
    ]
    if isinstance(own, list):
        return [row.to(own[0]) for part in parts for row in part or ()]
    given = [part for part in parts if part is not None]
    if not given:
        return None
    like = given[0] if own is None else own
    # a mask that is left out lets everything through; branches of one batch have texts of one length
    return torch.cat([torch.ones_like(given[0]) if part is None else part.to(like) for part in parts])


def _fold(value: Any, total: int, branches: Sequence[Branch]) -> Any:
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == total:
        return torch.cat([value[branch.rows] for branch in branches])
    if isinstance(value, Mapping):
        return {key: _fold(inner, total, branches) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_fold(inner, total, branches) for inner in value)
    return value


def repeated(text: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """One negative's text for each of `batch` images."""
    return {
        path: value.expand(batch, *value.shape[1:]) if isinstance(value, Tensor) else value and value * batch
        for path, value in text.items()
    }


def run_branches(
    forward: Callable[[Sequence[Branch], dict[str, Any]], Tensor],
    family: Family,
    inputs: Inputs,
    total: int,
    branches: Sequence[Branch],
    max_branch_batch: int | None,
) -> list[Tensor]:
    """One prediction [rows, ...] for each branch, by forwards of at most `max_branch_batch` branches each.

    `forward(group, inputs)` runs the denoiser on inputs that hold the branches of the group. Branches whose text has
    another shape cannot share a batch and are run apart.
    """
    predictions: list[Tensor] = []
    for group in _groups(inputs, branches, max_branch_batch):
        output = forward(group, fold(family, inputs, total, group))
        # copied, because a forward that replays CUDA graphs writes its next result into the same memory
        predictions += output.clone().chunk(len(group))
    return predictions


def _groups(inputs: Inputs, branches: Sequence[Branch], limit: int | None) -> Iterator[list[Branch]]:
    paths = sorted({path for branch in branches for path in branch.text})

    def text_shapes(branch: Branch) -> list[torch.Size | None]:
        values = [branch.text.get(path, text_input(inputs, path)) for path in paths]
        # masks that are left out (None) keep to themselves too
        return [value.shape[1:] if isinstance(value, Tensor) else None for value in values]

    group: list[Branch] = []
    for branch in branches:
        full = limit is not None and len(group) == limit
        if group and (full or text_shapes(branch) != text_shapes(group[0])):
            yield group
            group = []
        group.append(branch)
    yield group
