"""Synthetic hard negatives in feature space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How many synthetic negatives every query gets (MoCHi, arXiv 2010.01028).

    Attributes:
        hardest: of how many of the hardest negatives they are made.
        pairs: negatives mixed of two of those.
        queries: negatives mixed of one of those and the query itself, harder still.
    """

    hardest: int
    pairs: int
    queries: int

    def __post_init__(self) -> None:
        if self.hardest < 1 or self.pairs < 0 or self.queries < 0 or self.pairs + self.queries < 1:
            raise ValueError(
                f"Mixing(hardest={self.hardest}, pairs={self.pairs}, queries={self.queries}): hardest must be at "
                f"least 1, and pairs and queries together as well"
            )


@torch.no_grad()
def mix(queries: Tensor, keys: Tensor, negative: Tensor, mixing: Mixing) -> Tensor:
    """Unit mixtures of the hardest negatives of every query, without gradient.

        h = a n_i + (1 - a) n_j,  a ~ U(0, 1)        and        h' = b q + (1 - b) n_j,  b ~ U(0, 1/2)

    with n_i, n_j drawn from the query's `mixing.hardest` most similar negatives; then h / |h|.

    Args:
        queries: [n, D].
        keys: [M, D].
        negative: bool [n, M], which keys are negatives of which query.
        mixing: how many.

    Returns:
        [n, pairs + queries, D]. A query without any negative gets its own opposite, which weighs nothing.
    """
    count = min(mixing.hardest, len(keys))
    similarity = (queries @ keys.T).masked_fill(~negative, -torch.inf)
    order = similarity.topk(count, dim=1).indices
    available = negative.sum(dim=1).clamp(max=count)

    def drawn(size: int) -> Tensor:
        places = (torch.rand(len(queries), size, device=keys.device) * available[:, None]).long()
        return keys[order.gather(1, places)]

    a = torch.rand(len(queries), mixing.pairs, 1, device=keys.device)
    b = torch.rand(len(queries), mixing.queries, 1, device=keys.device) / 2
    pairs = a * drawn(mixing.pairs) + (1 - a) * drawn(mixing.pairs)
    with_query = b * queries[:, None] + (1 - b) * drawn(mixing.queries)
    mixed = F.normalize(torch.cat((pairs, with_query), dim=1), dim=-1)
    return torch.where((available > 0)[:, None, None], mixed, -queries[:, None])
