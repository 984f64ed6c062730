"""Features of all processes in one tensor, with gradient."""

from __future__ import annotations

from torch import Tensor, distributed

try:
    from torch.distributed._functional_collectives import all_gather_single_autograd as all_gather
except ImportError:  # its name before torch 2.13
    from torch.distributed._functional_collectives import all_gather_tensor_autograd as all_gather


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
    gathered = all_gather(tensor.contiguous(), 0, distributed.group.WORLD)  # type: ignore[arg-type]
    # what comes back may still be on its way, and would stay in memory if nothing used it; a copy has arrived
    arrived: Tensor = gathered.clone()
    return arrived


def own_rows(count: int) -> slice:
    """Where this process's `count` rows are in what `gather` gives."""
    rank, _ = world()
    return slice(rank * count, (rank + 1) * count)
