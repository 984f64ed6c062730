"""Features of all processes in one tensor, with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def world() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) where nothing is distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(tensor: Tensor) -> Tensor:
    """[n, ...] of every process, one after the other: [processes * n, ...]; n is the same everywhere.

    The gradient of the sum of all processes' losses reaches the process that a row came from, as if one process had
    computed everything. DistributedDataParallel then takes the mean of the processes' gradients, so the loss of a
    process has to be such that the mean over processes is the loss (see `negguide.vlm.losses`).
    """
    _, processes = world()
    if processes == 1:
        return tensor
    if tensor.requires_grad:
        gathered: Tensor = _Gather.apply(tensor)  # type: ignore[no-untyped-call]
        return gathered
    return _all_gather(tensor)


def own_rows(count: int) -> slice:
    """Where this process's `count` rows are in what `gather` gives."""
    rank, _ = world()
    return slice(rank * count, (rank + 1) * count)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = own_rows(len(tensor))
        return _all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total[ctx.rows]


def _all_gather(tensor: Tensor) -> Tensor:
    _, processes = world()
    parts = [torch.empty_like(tensor) for _ in range(processes)]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
