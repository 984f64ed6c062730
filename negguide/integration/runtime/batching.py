"""One denoiser call as branches: putting more predictions into its batch, and taking the result apart.

A *branch* is a prediction for each of the B images of a run, or for some of them: the unconditional one, the
conditional one, one per active negative. A pipeline's call holds one or more branches one after another along the batch
axis; here further branches are appended, and everything is run in as few forwards as `max_branch_batch` allows.
Families that call the denoiser once per branch pass calls of one branch; nothing here counts on there being two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from negguide.integration.families.base import Family, nested_input, with_inputs
from negguide.integration.runtime.deferred import Deferred

Inputs = Mapping[str, Any]
"""A denoiser call's inputs by name."""


@dataclass(frozen=True)
class Branch:
    """Rows of the pipeline's call, with other text where `text` is given ({text input: [as many rows, ...]})."""

    name: str
    rows: slice
    text: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many rows it has."""
        return int(self.rows.stop - self.rows.start)


def join_branches(family: Family, inputs: Inputs, total: int, branches: Sequence[Branch]) -> dict[str, Any]:
    """The inputs of one call that holds all `branches`, one after another.

    What the family says is batched (`Family.batched`, the sample, the timestep, the text, `row_lists`) is put together
    from each branch's rows; everything else stays whole, whatever its shape. Text comes from the branch where it has
    its own.
    """
    joined = dict(inputs)
    for name in family.row_lists:
        joined[name] = [row for branch in branches for row in inputs[name][branch.rows]]
    own_text = {path for branch in branches for path in branch.text}
    batched = {family.sample, family.timestep, *family.text, *family.batched}
    positions = {path for path, axis in family.text.items() if axis == "positions"}
    changed: dict[str, Any] = {}
    for path in sorted(batched - set(family.row_lists) - positions - own_text):
        value = nested_input(inputs, path)
        if value is not None:
            changed[path] = _rows(value, total, branches, family.batch_axis(path))
    for path in sorted(own_text):
        changed[path] = _joined_text(family, inputs, path, branches)
    return with_inputs(joined, changed)


def _joined_text(family: Family, inputs: Inputs, path: str, branches: Sequence[Branch]) -> Any:
    own, axis = nested_input(inputs, path), family.batch_axis(path)
    parts = [
        _own_text(family, inputs, path, branch)
        if path in branch.text
        else None
        if own is None
        else _along(own, axis, branch.rows)
        for branch in branches
    ]
    if isinstance(own, list):
        return [row.to(own[0]) for part in parts for row in part or ()]
    given = [part for part in parts if part is not None]
    if not given:
        return None
    like = given[0] if own is None else own
    # a mask that is left out lets everything through; branches of one batch have texts of one length
    return torch.cat([torch.ones_like(given[0]) if part is None else part.to(like) for part in parts], axis)


def _own_text(family: Family, inputs: Inputs, path: str, branch: Branch) -> Any:
    """A branch's own text input; of a mask over text and image, the image's part is the call's."""
    value = branch.text[path]
    if family.text.get(path) != "tokens, image" or value is None:
        return value
    return torch.cat([value, image_mask(family, inputs, path, value)[branch.rows]], dim=1)


def image_mask(family: Family, inputs: Inputs, path: str, like: Tensor) -> Tensor:
    """The image's part [rows, image tokens] of a mask over text and image, in the dtype and on the device of `like`.

    A mask that is left out lets everything through.
    """
    mask = nested_input(inputs, path)
    sample = inputs[family.sample]
    if mask is None:
        return like.new_ones(sample.shape[:2])
    tokens = nested_input(inputs, next(iter(family.text))).shape[1]
    return all_rows(mask, len(sample))[:, tokens:].to(like)


def all_rows(mask: Tensor, rows: int) -> Tensor:
    """A mask for each of `rows`; Qwen-Image 2.1 has one for each prompt, of which the first counts."""
    return mask if len(mask) == rows else mask[:1].expand(rows, *mask.shape[1:])


def _rows(value: Any, total: int, branches: Sequence[Branch], axis: int = 0) -> Any:
    """The branches' rows of a batched input: a tensor, or a list or tuple of tensors."""
    if isinstance(value, Tensor):
        # a timestep may be one number for all rows
        if value.ndim == 0 or value.shape[axis] != total:
            return value
        return torch.cat([_along(value, axis, branch.rows) for branch in branches], axis)
    if isinstance(value, Deferred):
        return value.joined(lambda one: _rows(one, total, branches))
    if type(value) in (list, tuple):
        return type(value)(_rows(inner, total, branches) for inner in value)
    return value


def _along(value: Any, axis: int, rows: slice) -> Any:
    """The rows of a tensor that has them along this axis, or of a list."""
    return value[:, rows] if axis else value[rows]


def expand_text(family: Family, text: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """One negative's text for each of `batch` images."""
    return {
        path: repeated(value, batch, family.batch_axis(path))
        if isinstance(value, Tensor)
        else value and value * batch
        for path, value in text.items()
    }


def repeated(row: Tensor, rows: int, axis: int = 0) -> Tensor:
    """One row as so many."""
    return row.expand(*row.shape[:axis], rows, *row.shape[axis + 1 :])


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
    for group in _groups(family, inputs, branches, max_branch_batch):
        output = forward(group, join_branches(family, inputs, total, group))
        # copied, because a forward that replays CUDA graphs writes its next result into the same memory
        predictions += output.clone().split([branch.size for branch in group])
    return predictions


def row_shape(family: Family, path: str, value: Any) -> tuple[int, ...] | None:
    """Of a text input the shape of one row, in which texts that share a batch are alike; None = it is no tensor."""
    if not isinstance(value, Tensor):
        return None
    if family.text.get(path) == "tokens, image":
        # as long as the text is
        return tuple(value.shape[2:])
    axis = family.batch_axis(path)
    return (*value.shape[:axis], *value.shape[axis + 1 :])


def _groups(
    family: Family, inputs: Inputs, branches: Sequence[Branch], limit: int | None
) -> Iterator[list[Branch]]:
    paths = sorted({path for branch in branches for path in branch.text})

    def text_shapes(branch: Branch) -> list[tuple[int, ...] | None]:
        # masks that are left out (None) keep to themselves too
        return [row_shape(family, path, branch.text.get(path, nested_input(inputs, path))) for path in paths]

    group: list[Branch] = []
    for branch in branches:
        full = limit is not None and len(group) == limit
        if group and (full or text_shapes(branch) != text_shapes(group[0])):
            yield group
            group = []
        group.append(branch)
    yield group
