"""Contrast more rows than fit into memory at once: the exact gradient of a large batch, a chunk at a time.

GradCache, arXiv 2101.06983. A contrastive loss needs the features of all rows, but the gradient of a row's features
with respect to the weights needs that row alone. So the features are computed without gradient first, chunk by chunk;
the loss gives their gradient; and every chunk is computed again, with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

Chunk = TypeVar("Chunk")
Features = tuple[Tensor, ...]


def backward(
    forward: Callable[[Chunk], Features],
    chunks: Sequence[Chunk],
    loss: Callable[[Sequence[Features]], Tensor],
    *,
    loss_backward: Callable[[Tensor], None] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """Add the gradient of `loss` of all chunks' features to the weights, as if there were one chunk.

    Random numbers (dropout) are the same in both passes. One chunk is computed once.

    Args:
        forward: gives a chunk's features, and other tensors with gradient (the logit scale) as scalars, which must be
            the same for every chunk.
        chunks: what `forward` takes.
        loss: of all chunks' features, a scalar.
        loss_backward: what starts the backward pass of the loss (`accelerator.backward`, which may scale it).
        no_sync: entered for all chunks but the last, where several processes exchange gradients.

    Returns:
        The loss, without gradient.
    """
    if len(chunks) == 1:
        value = loss([forward(chunks[0])])
        loss_backward(value)
        return value.detach()
    states, cached = [], []
    for chunk in chunks:
        states.append(_random_state())
        with torch.no_grad():
            cached.append(tuple(tensor.detach().requires_grad_() for tensor in forward(chunk)))
    # a scalar is one and the same for all chunks
    shared = {i: tensor for i, tensor in enumerate(cached[0]) if tensor.ndim == 0}
    leaves = [tuple(shared.get(i, tensor) for i, tensor in enumerate(features)) for features in cached]
    value = loss(leaves)
    loss_backward(value)
    after_loss = _random_state()
    for i, (chunk, state, features) in enumerate(zip(chunks, states, leaves, strict=True)):
        last = i == len(chunks) - 1
        _restore(state)
        with nullcontext() if last else no_sync():
            surrogate = [
                (tensor * leaf.grad).sum()
                for tensor, leaf in zip(forward(chunk), features, strict=True)
                if leaf.grad is not None and tensor.requires_grad and (last or leaf.ndim)
            ]
            torch.stack(surrogate).sum().backward()
    _restore(after_loss)
    return value.detach()


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
