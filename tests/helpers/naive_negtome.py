"""NegToMe written out token by token, in attention processors."""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn.functional import adaptive_avg_pool2d, normalize

BLOCKS = "up_blocks"
STRONG: dict[str, Any] = {"alpha": 3.0, "threshold": 0.2, "start": 0.0, "stop": 1.0}


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to 1e-6 of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


def naive(
    x: torch.Tensor,
    reference: torch.Tensor,
    mask: torch.Tensor | None = None,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """STRONG NegToMe of one image's tokens [N, C] against [M, C]."""
    cosine = normalize(x, dim=-1) @ normalize(reference, dim=-1).T
    if allowed is not None:
        cosine[:, ~allowed] = -2
    best, index = cosine.max(dim=1)
    strength = 3.0 * (best > 0.2) * (1 if mask is None else mask)
    return x + strength[:, None] * (x - reference[index])


class Naive(AttnProcessor2_0):
    """Pushes rows of [branches * B]; `groups(row)` gives the rows that it is pushed from."""

    def __init__(self, groups: Any, mask: torch.Tensor | None, reference_mask: torch.Tensor | None) -> None:
        super().__init__()
        self.groups, self.mask, self.reference_mask = groups, mask, reference_mask

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens = super().__call__(*args, **kwargs)
        side = int(tokens.shape[1] ** 0.5)
        mask = None if self.mask is None else adaptive_avg_pool2d(self.mask[None], side).flatten()
        results = []
        for row, x in enumerate(tokens):
            rows = self.groups(row, len(tokens))
            if not rows:
                results.append(x)
                continue
            allowed = None
            if self.reference_mask is not None:
                allowed = adaptive_avg_pool2d(self.reference_mask[None], side).flatten() >= 0.5
                allowed = allowed.repeat(len(rows))
            results.append(naive(x, torch.cat([tokens[r] for r in rows]), mask, allowed))
        return torch.stack(results)


def others(row: int, rows: int, images: int = 3) -> list[int]:
    first = row // images * images
    return [r for r in range(first, first + images) if r != row]


def first(row: int, rows: int, images: int = 3) -> list[int]:
    return [row // images * images] if row % images else []


HALF = torch.zeros(64, 64)
HALF[:, :24] = 1
